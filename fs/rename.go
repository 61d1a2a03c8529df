package fs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"inlinefs/dir"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// Rename moves a name, replacing what is there (ext4_rename2). RENAME_NOREPLACE and RENAME_EXCHANGE are done, RENAME_WHITEOUT is
// EINVAL.
func (f *FileSystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	t := f.task("rename", &in.InHeader)
	return f.end(t, f.again(func() error { return f.rename(t, in, oldName, newName) }))
}

// move is a rename under way: the two directories, what is moved, and what is replaced (or exchanged), nil for nothing.
type move struct {
	od, nd           *inode.Inode
	oldName, newName string
	src, dst         *inode.Inode
	exchange         bool
	trap             uint32 // the directory on the way from one of od and nd down to the other, 0 for none: it may not be moved or replaced
}

func (f *FileSystem) rename(t *journal.Task, in *fuse.RenameIn, oldName, newName string) error {
	if len(newName) > ondisk.MaxName {
		return fserr.NameTooLong
	}
	if in.Flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return fserr.Invalid
	}
	od, err := f.dir(in.NodeId)
	if err != nil {
		return err
	}
	defer f.put(od)
	nd, err := f.dir(in.Newdir)
	if err != nil {
		return err
	}
	defer f.put(nd)
	m := move{od: od, nd: nd, oldName: oldName, newName: newName, exchange: in.Flags&unix.RENAME_EXCHANGE != 0}
	unlock, err := f.lockRename(&m)
	if err != nil {
		return err
	}
	err = f.renameLocked(t, &m, in.Flags)
	unlock()
	if m.dst != nil {
		f.put(m.dst)
	}
	if m.src != nil {
		f.put(m.src)
	}
	return err
}

func (f *FileSystem) renameLocked(t *journal.Task, m *move, flags uint32) (err error) {
	if err := changeable(m.od); err != nil {
		return err
	}
	if err := changeable(m.nd); err != nil {
		return err
	}
	if m.src, err = f.child(m.od, m.oldName); err != nil {
		return err
	}
	if m.dst, err = f.child(m.nd, m.newName); err != nil {
		if errno(err) != fuse.ENOENT {
			return err
		}
		m.dst = nil
	}
	switch {
	case m.dst == nil && m.exchange:
		return fserr.NotExist
	case m.dst != nil && flags&unix.RENAME_NOREPLACE != 0:
		return fserr.Exist
	case m.dst == m.src:
		return nil
	case m.src.Ino == m.trap: // the kernel's VFS has refused both already
		return fserr.Invalid
	case m.dst != nil && m.dst.Ino == m.trap && m.exchange:
		return fserr.Invalid
	case m.dst != nil && m.dst.Ino == m.trap:
		return fserr.NotEmpty
	}
	return f.renameInodes(t, m)
}

func (f *FileSystem) renameInodes(t *journal.Task, m *move) error {
	// What is moved may be one of the directories only in a loop, which the kernel's VFS has refused.
	if m.src == m.od || m.src == m.nd || m.dst == m.od || m.dst == m.nd {
		return fserr.Invalid
	}
	defer lockChildren(m.src, m.dst)()
	for _, i := range []*inode.Inode{m.src, m.dst} {
		if i != nil && i.Flags()&(ondisk.FlImmutable|ondisk.FlAppend) != 0 {
			return fserr.NotPermitted
		}
	}
	if m.dst != nil && !m.exchange {
		if err := replaceable(m); err != nil {
			return err
		}
	}
	credits := dir.AddCredits(m.nd) + dir.RemoveCredits(m.od) + 2*dir.RemoveCredits(m.src) + 2*orphanCredits + 8
	err := f.with(t, journal.Dir, credits, func(h *journal.Handle) error {
		h.SetInode(m.src.Ino)
		if m.exchange {
			return f.swapNames(h, m)
		}
		return f.moveName(h, m)
	})
	if err != nil {
		return err
	}
	if err := f.syncIf(t, m.nd, true); err != nil {
		return err
	}
	return f.syncIf(t, m.od, true)
}

func replaceable(m *move) error {
	switch sd, dd := m.src.IsDir(), m.dst.IsDir(); {
	case sd && !dd:
		return fserr.NotDir
	case !sd && dd:
		return fserr.IsDir
	case dd:
		empty, err := dir.Empty(m.dst)
		if err == nil && !empty {
			err = fserr.NotEmpty
		}
		return err
	}
	return nil
}

func (f *FileSystem) moveName(h *journal.Handle, m *move) error {
	isDir := m.src.IsDir()
	ft := ondisk.FtOfMode(m.src.Mode())
	var err error
	if m.dst != nil {
		err = dir.Replace(h, m.nd, []byte(m.newName), m.src.Ino, ft)
	} else {
		err = dir.Add(h, m.nd, []byte(m.newName), m.src.Ino, ft)
	}
	if err != nil {
		return err
	}
	if err := dir.Remove(h, m.od, []byte(m.oldName), m.src.Ino); err != nil {
		return err
	}
	if isDir && m.od != m.nd {
		if err := dir.SetDotDot(h, m.src, m.nd.Ino); err != nil {
			return err
		}
	}
	down, up := 0, 0
	if isDir && m.od != m.nd {
		down, up = 1, 1
	}
	if m.dst != nil {
		if isDir {
			up--
		}
		if err := f.unref(h, m.dst, m.dst.IsDir()); err != nil {
			return err
		}
	}
	if m.od == m.nd {
		down, up = down-up, 0 // a directory replaced within one parent
	}
	f.changed(m.od, -down)
	if m.nd != m.od {
		f.changed(m.nd, up)
	}
	m.src.Touch(time.Now(), ondisk.Ctime)
	return markAll(h, m.src, m.od, m.nd)
}

// changed touches a directory and adds n subdirectories to its link count.
func (f *FileSystem) changed(d *inode.Inode, n int) {
	now := time.Now()
	d.Mu.Lock()
	defer d.Mu.Unlock()
	for ; n > 0; n-- {
		d.Raw.SetLinks(linksUp(f, d.Raw.Links()))
	}
	for ; n < 0; n++ {
		d.Raw.SetLinks(linksDown(d.Raw.Links()))
	}
	d.Raw.SetTime(ondisk.Mtime, now)
	d.Raw.SetTime(ondisk.Ctime, now)
}

func markAll(h *journal.Handle, is ...*inode.Inode) error {
	for k, i := range is {
		if k > 0 && is[k-1] == i {
			continue
		}
		if err := i.MarkDirty(h); err != nil {
			return err
		}
	}
	return nil
}

// swapNames is RENAME_EXCHANGE (ext4_cross_rename).
func (f *FileSystem) swapNames(h *journal.Handle, m *move) error {
	if err := dir.Replace(h, m.nd, []byte(m.newName), m.src.Ino, ondisk.FtOfMode(m.src.Mode())); err != nil {
		return err
	}
	if err := dir.Replace(h, m.od, []byte(m.oldName), m.dst.Ino, ondisk.FtOfMode(m.dst.Mode())); err != nil {
		return err
	}
	n := 0
	if m.od != m.nd {
		for _, x := range []struct {
			i  *inode.Inode
			to uint32
			d  int
		}{{m.src, m.nd.Ino, 1}, {m.dst, m.od.Ino, -1}} {
			if !x.i.IsDir() {
				continue
			}
			n += x.d
			if err := dir.SetDotDot(h, x.i, x.to); err != nil {
				return err
			}
		}
	}
	f.changed(m.od, -n)
	if m.nd != m.od {
		f.changed(m.nd, n)
	}
	now := time.Now()
	m.src.Touch(now, ondisk.Ctime)
	m.dst.Touch(now, ondisk.Ctime)
	return markAll(h, m.src, m.dst, m.od, m.nd)
}
