package fs

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/inode"
	"inlinefs/internal/control"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
	"inlinefs/xattr"
)

// GetXAttr reads an extended attribute; an empty dest asks for the size. "inlinefs.report" of any file is the mount's account of
// itself, as JSON.
func (f *FileSystem) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if name == control.XattrReport {
		return f.reportXattr(dest)
	}
	i, err := f.get(in.NodeId)
	if err != nil {
		return 0, errno(err)
	}
	defer f.put(i)
	n, err := xattr.Get(nil, i, name, dest)
	return uint32(n), errno(err)
}

func (f *FileSystem) reportXattr(dest []byte) (uint32, fuse.Status) {
	b, err := json.Marshal(f.Report())
	if err != nil {
		return 0, fuse.EIO
	}
	switch {
	case len(dest) == 0:
		return uint32(len(b)), fuse.OK
	case len(dest) < len(b):
		return uint32(len(b)), errno(fserr.Range)
	}
	return uint32(copy(dest, b)), fuse.OK
}

// ListXAttr lists the names of a file's attributes.
func (f *FileSystem) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	i, err := f.get(in.NodeId)
	if err != nil {
		return 0, errno(err)
	}
	defer f.put(i)
	n, err := xattr.List(i, dest)
	return uint32(n), errno(err)
}

// SetXAttr stores an attribute.
func (f *FileSystem) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	t := f.task("setxattr", &in.InHeader)
	return f.end(t, f.changeXattr(t, in.NodeId, func(h *journal.Handle, i *inode.Inode) error {
		return xattr.Set(h, i, name, data, int(in.Flags))
	}))
}

// RemoveXAttr removes an attribute.
func (f *FileSystem) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	t := f.task("removexattr", in)
	return f.end(t, f.changeXattr(t, in.NodeId, func(h *journal.Handle, i *inode.Inode) error { return xattr.Remove(h, i, name) }))
}

func (f *FileSystem) changeXattr(t *journal.Task, n uint64, fn func(h *journal.Handle, i *inode.Inode) error) error {
	i, err := f.get(n)
	if err != nil {
		return err
	}
	defer f.put(i)
	return f.again(func() error { return f.changeXattrOf(t, i, fn) })
}

func (f *FileSystem) changeXattrOf(t *journal.Task, i *inode.Inode, fn func(h *journal.Handle, i *inode.Inode) error) error {
	i.Rw.Lock()
	defer i.Rw.Unlock()
	if i.Flags()&(ondisk.FlImmutable|ondisk.FlAppend) != 0 {
		return fserr.NotPermitted
	}
	err := f.with(t, journal.Xattr, xattr.SetCredits(i)+2, func(h *journal.Handle) error {
		h.SetInode(i.Ino)
		if err := fn(h, i); err != nil {
			return err
		}
		i.Touch(time.Now(), ondisk.Ctime)
		return i.MarkDirty(h)
	})
	if err != nil {
		return err
	}
	return f.syncIf(t, i, false)
}

// chmodACL keeps the access control list in step with a new mode (posix_acl_chmod).
func (f *FileSystem) chmodACL(t *journal.Task, h *journal.Handle, i *inode.Inode, mode uint32) error {
	const name = "system.posix_acl_access"
	n, err := xattr.Get(t, i, name, nil)
	if errors.Is(err, fserr.NoData) || errors.Is(err, fserr.NotSupported) {
		return nil
	}
	if err != nil {
		return err
	}
	buf := make([]byte, n)
	if n, err = xattr.Get(t, i, name, buf); err != nil {
		return err
	}
	return xattr.Set(h, i, name, xattr.ChmodACL(buf[:n], uint16(mode)), 0)
}
