package fs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/dir"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// Unlink removes a name of a file.
func (f *FileSystem) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	t := f.task("unlink", in)
	return f.end(t, f.remove(t, in.NodeId, name, false))
}

// Rmdir removes an empty directory.
func (f *FileSystem) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	t := f.task("rmdir", in)
	return f.end(t, f.remove(t, in.NodeId, name, true))
}

func (f *FileSystem) remove(t *journal.Task, parent uint64, name string, wantDir bool) error {
	d, err := f.dir(parent)
	if err != nil {
		return err
	}
	defer f.put(d)
	i, err := f.removeIn(t, d, name, wantDir)
	if err != nil {
		return err
	}
	f.put(i) // may free it on disk, which starts handles of its own
	return nil
}

func (f *FileSystem) removeIn(t *journal.Task, d *inode.Inode, name string, wantDir bool) (*inode.Inode, error) {
	d.Rw.Lock()
	defer d.Rw.Unlock()
	if err := changeable(d); err != nil {
		return nil, err
	}
	if d.Flags()&ondisk.FlAppend != 0 {
		return nil, fserr.NotPermitted
	}
	i, err := f.child(d, name)
	if err != nil {
		return nil, err
	}
	if err := f.removeChild(t, d, i, name, wantDir); err != nil {
		f.put(i)
		return nil, err
	}
	return i, nil
}

func (f *FileSystem) removeChild(t *journal.Task, d, i *inode.Inode, name string, wantDir bool) error {
	i.Rw.Lock()
	defer i.Rw.Unlock()
	isDir := i.IsDir()
	switch {
	case wantDir && !isDir:
		return fserr.NotDir
	case !wantDir && isDir:
		return fserr.IsDir
	case i.Flags()&(ondisk.FlImmutable|ondisk.FlAppend) != 0:
		return fserr.NotPermitted
	}
	if isDir {
		if empty, err := dir.Empty(i); err != nil || !empty {
			if err == nil {
				err = fserr.NotEmpty
			}
			return err
		}
	}
	err := f.with(t, journal.Dir, dir.RemoveCredits(d)+orphanCredits+4, func(h *journal.Handle) error {
		h.SetInode(i.Ino)
		if err := dir.Remove(h, d, []byte(name), i.Ino); err != nil {
			return err
		}
		if err := f.unref(h, i, isDir); err != nil {
			return err
		}
		now := time.Now()
		d.Mu.Lock()
		if isDir {
			d.Raw.SetLinks(linksDown(d.Raw.Links()))
		}
		d.Raw.SetTime(ondisk.Mtime, now)
		d.Raw.SetTime(ondisk.Ctime, now)
		d.Mu.Unlock()
		return d.MarkDirty(h)
	})
	if err != nil {
		return err
	}
	return f.syncIf(t, d, true)
}

// unref takes one link (or, of a directory, all) from an inode; without links it goes on the orphan list.
func (f *FileSystem) unref(h *journal.Handle, i *inode.Inode, isDir bool) error {
	i.Mu.Lock()
	n := i.Raw.Links()
	if isDir {
		n = 0
		i.Raw.SetSize(0)
	} else if n > 0 {
		n--
	}
	i.Raw.SetLinks(n)
	i.Raw.SetTime(ondisk.Ctime, time.Now())
	i.Mu.Unlock()
	if n == 0 {
		return f.orphanAdd(h, i)
	}
	return i.MarkDirty(h)
}
