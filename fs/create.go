package fs

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/alloc"
	"inlinefs/dir"
	"inlinefs/extent"
	"inlinefs/inline"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
	"inlinefs/xattr"
)

// birth describes what is to be made.
type birth struct {
	mode     uint32 // with the type
	umask    uint32
	uid, gid uint32
	major    uint32
	minor    uint32
	target   string // of a symlink
}

// make creates an inode and its name in one handle (ext4_create, ext4_mknod, ext4_mkdir, ext4_symlink). The new inode is returned with
// a reference.
func (f *FileSystem) make(t *journal.Task, parent uint64, name string, b birth) (*inode.Inode, error) {
	if len(name) > ondisk.MaxName {
		return nil, fserr.NameTooLong
	}
	d, err := f.dir(parent)
	if err != nil {
		return nil, err
	}
	defer f.put(d)
	d.Rw.Lock()
	defer d.Rw.Unlock()
	if err := changeable(d); err != nil {
		return nil, err
	}
	if _, _, err := dir.Lookup(d, []byte(name)); err == nil {
		return nil, fserr.Exist
	}
	kind := uint16(b.mode) & ondisk.ModeFmt
	if kind == ondisk.ModeDir && d.Links() >= ondisk.LinkMax && !f.fs.SB.ROCompat(ondisk.ROCompatDirNlink) {
		return nil, fserr.TooManyLinks
	}
	acl, err := f.inherit(t, d, &b)
	if err != nil {
		return nil, err
	}
	credits := alloc.NewInodeCredits + dir.AddCredits(d) + extent.AppendCredits + orphanCredits + 4
	if acl != nil {
		credits += 8
	}
	i, err := f.makeUnder(t, d, name, b, acl, credits)
	if err != nil {
		return nil, err
	}
	if err := f.syncIf(t, d, true); err != nil {
		f.put(i)
		return nil, err
	}
	return i, nil
}

// makeAgain is make, tried again while space is being freed.
func (f *FileSystem) makeAgain(t *journal.Task, parent uint64, name string, b birth) (i *inode.Inode, err error) {
	err = f.again(func() (err error) {
		i, err = f.make(t, parent, name, b)
		return err
	})
	return i, err
}

// makeUnder does the work of make in one handle; what fails half-way is undone by dropping the inode, which has no link then.
func (f *FileSystem) makeUnder(t *journal.Task, d *inode.Inode, name string, b birth, acl []xattr.Attr, credits int) (i *inode.Inode, err error) {
	err = f.with(t, journal.Dir, credits, func(h *journal.Handle) error {
		i, err = alloc.NewInode(h, f.inodes, alloc.New{Mode: uint16(b.mode), UID: b.uid, GID: b.gid, Parent: d})
		if err != nil {
			return err
		}
		h.SetInode(i.Ino)
		if err = f.fill(h, i, d, b, acl); err == nil {
			err = dir.Add(h, d, []byte(name), i.Ino, ondisk.FtOfMode(uint16(b.mode)))
		}
		if err != nil {
			return f.abandon(h, i, err)
		}
		now := time.Now()
		d.Mu.Lock()
		if i.Raw.IsDir() {
			d.Raw.SetLinks(linksUp(f, d.Raw.Links()))
		}
		d.Raw.SetTime(ondisk.Mtime, now)
		d.Raw.SetTime(ondisk.Ctime, now)
		d.Mu.Unlock()
		return d.MarkDirty(h)
	})
	if err != nil && i != nil {
		f.put(i) // frees it on disk: it has no link
		i = nil
	}
	return i, err
}

// abandon makes a half-made inode one that eviction frees.
func (f *FileSystem) abandon(h *journal.Handle, i *inode.Inode, err error) error {
	i.Mu.Lock()
	i.Raw.SetLinks(0)
	i.Mu.Unlock()
	if e := f.orphanAdd(h, i); e != nil {
		return fmt.Errorf("%w (and %w)", err, e)
	}
	return err
}

// fill gives a new inode its content: attributes, then "." and "..", target or device number.
func (f *FileSystem) fill(h *journal.Handle, i, d *inode.Inode, b birth, acl []xattr.Attr) error {
	kind := uint16(b.mode) & ondisk.ModeFmt
	i.Mu.Lock()
	i.Raw.SetLinks(1)
	if kind == ondisk.ModeDir {
		i.Raw.SetLinks(2)
	}
	if kind == ondisk.ModeChr || kind == ondisk.ModeBlk {
		i.Raw.SetRdev(b.major, b.minor)
	}
	fast := kind == ondisk.ModeLnk && len(b.target) < ondisk.BlockArea
	if fast {
		i.Raw.SetFlags(i.Raw.Flags() &^ ondisk.FlExtents)
		clear(i.Raw.Block())
		copy(i.Raw.Block(), b.target)
		i.Raw.SetSize(uint64(len(b.target)))
	}
	i.Mu.Unlock()
	i.MayInline.Store(f.fs.InlineData && (kind == ondisk.ModeReg || kind == ondisk.ModeDir))
	if len(acl) > 0 {
		if err := xattr.SetNew(h, i, acl); err != nil {
			return err
		}
	}
	switch {
	case kind == ondisk.ModeDir:
		if err := dir.Init(h, i, d.Ino); err != nil {
			return err
		}
	case kind == ondisk.ModeLnk && !fast:
		if err := f.slowSymlink(h, i, b.target); err != nil {
			return err
		}
	}
	return i.MarkDirty(h)
}

// slowSymlink stores a target of 60 bytes or more in a block.
func (f *FileSystem) slowSymlink(h *journal.Handle, i *inode.Inode, target string) error {
	if len(target) >= f.fs.BlockSize {
		return fserr.NameTooLong
	}
	b, err := extent.AppendBlock(h, i, 0)
	if err != nil {
		return err
	}
	defer b.Release()
	copy(b.Data(), target)
	b.Unlock()
	if err := h.DirtyMetadata(b); err != nil {
		return err
	}
	i.SetSize(uint64(len(target)))
	return nil
}

// inherit works out group, set-group-id and access control lists of what is made in d.
func (f *FileSystem) inherit(t *journal.Task, d *inode.Inode, b *birth) ([]xattr.Attr, error) {
	d.Mu.Lock()
	dm, dg := d.Raw.Mode(), d.Raw.GID()
	d.Mu.Unlock()
	kind := uint16(b.mode) & ondisk.ModeFmt
	if dm&02000 != 0 {
		b.gid = dg
		if kind == ondisk.ModeDir {
			b.mode |= 02000
		}
	}
	if kind == ondisk.ModeLnk {
		return nil, nil
	}
	var buf [4096]byte
	n, err := xattr.Get(t, d, "system.posix_acl_default", buf[:])
	if errors.Is(err, fserr.NoData) || errors.Is(err, fserr.NotSupported) {
		b.mode &^= b.umask & 0777
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	access, deflt, mode, err := xattr.InheritACL(buf[:n], uint16(b.mode))
	if err != nil {
		return nil, err
	}
	b.mode = b.mode&^0777 | uint32(mode)&0777
	var out []xattr.Attr
	if access != nil {
		out = append(out, xattr.Attr{Name: "system.posix_acl_access", Value: access})
	}
	if kind == ondisk.ModeDir && deflt != nil {
		out = append(out, xattr.Attr{Name: "system.posix_acl_default", Value: deflt})
	}
	return out, nil
}

// changeable refuses a directory that must not change.
func changeable(d *inode.Inode) error {
	if d.Flags()&ondisk.FlImmutable != 0 {
		return fserr.NotPermitted
	}
	if d.Links() == 0 {
		return fserr.NotExist
	}
	return nil
}

// linksUp adds a subdirectory to a link count: 1 stands for too many to count (dir_nlink).
func linksUp(f *FileSystem, n uint16) uint16 {
	if n == 1 && f.fs.SB.ROCompat(ondisk.ROCompatDirNlink) {
		return 1
	}
	if n+1 >= ondisk.LinkMax && f.fs.SB.ROCompat(ondisk.ROCompatDirNlink) {
		return 1
	}
	return n + 1
}

// linksDown removes one.
func linksDown(n uint16) uint16 {
	if n <= 2 {
		return n
	}
	return n - 1
}

// Mknod makes a file, a FIFO, a socket or a device node.
func (f *FileSystem) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	t := f.task("mknod", &in.InHeader)
	b := birth{mode: in.Mode, umask: in.Umask, uid: in.Uid, gid: in.Gid, major: in.Rdev >> 8 & 0xFFF, minor: in.Rdev&0xFF | in.Rdev>>12&0xFFF00}
	if b.mode&ondisk.ModeFmt == 0 {
		b.mode |= ondisk.ModeReg
	}
	return f.made(t, in.NodeId, name, b, out)
}

// made finishes a request that makes an inode.
func (f *FileSystem) made(t *journal.Task, parent uint64, name string, b birth, out *fuse.EntryOut) fuse.Status {
	i, err := f.makeAgain(t, parent, name, b)
	if err == nil {
		f.entry(i, out)
		f.put(i)
	}
	return f.end(t, err)
}

// Mkdir makes a directory.
func (f *FileSystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	t := f.task("mkdir", &in.InHeader)
	return f.made(t, in.NodeId, name, birth{mode: in.Mode&07777 | ondisk.ModeDir, umask: in.Umask, uid: in.Uid, gid: in.Gid}, out)
}

// Symlink makes a symbolic link.
func (f *FileSystem) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	t := f.task("symlink", in)
	return f.made(t, in.NodeId, name, birth{mode: 0777 | ondisk.ModeLnk, uid: in.Uid, gid: in.Gid, target: target}, out)
}

// Create makes and opens a file.
func (f *FileSystem) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	t := f.task("create", &in.InHeader)
	i, err := f.makeAgain(t, in.NodeId, name, birth{mode: in.Mode&07777 | ondisk.ModeReg, umask: in.Umask, uid: in.Uid, gid: in.Gid})
	if err == nil {
		f.entry(i, &out.EntryOut)
		f.openFlags(i, in.Flags, &out.OpenOut)
		f.put(i)
	}
	return f.end(t, err)
}

// Link gives a file one more name.
func (f *FileSystem) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	t := f.task("link", &in.InHeader)
	i, err := f.link(t, in, name)
	if err == nil {
		f.entry(i, out)
		f.put(i)
	}
	return f.end(t, err)
}

func (f *FileSystem) link(t *journal.Task, in *fuse.LinkIn, name string) (*inode.Inode, error) {
	if len(name) > ondisk.MaxName {
		return nil, fserr.NameTooLong
	}
	d, err := f.dir(in.NodeId)
	if err != nil {
		return nil, err
	}
	defer f.put(d)
	i, err := f.get(in.Oldnodeid)
	if err != nil {
		return nil, err
	}
	if err := f.again(func() error { return f.linkInto(t, d, i, name) }); err != nil {
		f.put(i)
		return nil, err
	}
	return i, nil
}

func (f *FileSystem) linkInto(t *journal.Task, d, i *inode.Inode, name string) error {
	d.Rw.Lock()
	defer d.Rw.Unlock()
	i.Rw.Lock()
	defer i.Rw.Unlock()
	if err := changeable(d); err != nil {
		return err
	}
	switch n := i.Links(); {
	case i.IsDir() || i.Flags()&(ondisk.FlImmutable|ondisk.FlAppend) != 0:
		return fserr.NotPermitted
	case n >= ondisk.LinkMax:
		return fserr.TooManyLinks
	case n == 0:
		return fserr.NotExist
	}
	if _, _, err := dir.Lookup(d, []byte(name)); err == nil {
		return fserr.Exist
	}
	err := f.with(t, journal.Dir, dir.AddCredits(d)+6, func(h *journal.Handle) error {
		h.SetInode(i.Ino)
		if err := dir.Add(h, d, []byte(name), i.Ino, ondisk.FtOfMode(i.Mode())); err != nil {
			return err
		}
		i.Mu.Lock()
		i.Raw.SetLinks(i.Raw.Links() + 1)
		i.Mu.Unlock()
		now := time.Now()
		i.Touch(now, ondisk.Ctime)
		d.Touch(now, ondisk.Mtime, ondisk.Ctime)
		if err := i.MarkDirty(h); err != nil {
			return err
		}
		return d.MarkDirty(h)
	})
	if err != nil {
		return err
	}
	return f.syncIf(t, d, true)
}

// Readlink reads a symbolic link's target.
func (f *FileSystem) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	i, err := f.get(in.NodeId)
	if err != nil {
		return nil, errno(err)
	}
	defer f.put(i)
	b, err := f.readlink(i)
	return b, errno(err)
}

func (f *FileSystem) readlink(i *inode.Inode) ([]byte, error) {
	size := i.Size()
	if i.Mode()&ondisk.ModeFmt != ondisk.ModeLnk {
		return nil, fserr.Invalid
	}
	if size == 0 || size > uint64(f.fs.BlockSize) {
		return nil, f.fs.Corrupted(i.Ino, 0, "ext4_get_link", ondisk.Corrupt(i.Name(), "symbolic link of %d bytes", size))
	}
	out := make([]byte, size)
	if isFastSymlink(i) {
		i.Mu.Lock()
		copy(out, i.Raw.Block())
		i.Mu.Unlock()
	} else if i.HasInline() {
		if _, err := inline.Read(i, out, 0); err != nil {
			return nil, err
		}
	} else {
		b, err := extent.GetBlock(i, 0)
		if err != nil {
			return nil, err
		}
		copy(out, b.Data())
		b.Release()
	}
	if n := strings.IndexByte(string(out), 0); n >= 0 {
		out = out[:n]
	}
	return out, nil
}
