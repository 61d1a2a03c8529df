package fs

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"inlinefs/inode"
	"inlinefs/internal/control"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// Ioctl takes the announcement of a shared-writable mmap(2), and lsattr's and chattr's requests, which the kernel has checked for privilege and
// ownership (vfs_fileattr_set; it asks for the extended form before it sets either). Others are ENOTTY.
func (f *FileSystem) Ioctl(_ <-chan struct{}, in *fuse.IoctlIn, p []byte, _ *fuse.IoctlOut, out []byte) fuse.Status {
	switch {
	case in.Cmd == control.IOCAnnounceMmap:
		return f.ioctl("mmap", in, func(t *journal.Task, i *inode.Inode) error {
			if !i.IsReg() {
				return nil
			}
			return f.eng.Announce(t, i)
		})
	case in.Cmd == unix.FS_IOC_GETFLAGS && len(out) >= 4:
		return f.ioctl("getflags", in, func(_ *journal.Task, i *inode.Inode) error {
			binary.NativeEndian.PutUint32(out, userFlags(i))
			return nil
		})
	case in.Cmd == unix.FS_IOC_SETFLAGS && len(p) >= 4:
		return f.ioctl("setflags", in, func(t *journal.Task, i *inode.Inode) error {
			return f.chattr(t, i, func(uint32) uint32 { return binary.NativeEndian.Uint32(p) })
		})
	case in.Cmd == fsGetXattr && len(out) >= sizeofFsxattr:
		return f.ioctl("fsgetxattr", in, func(_ *journal.Task, i *inode.Inode) error {
			clear(out)
			binary.NativeEndian.PutUint32(out, xflags(userFlags(i)))
			return nil
		})
	case in.Cmd == fsSetXattr && len(p) >= sizeofFsxattr:
		return f.ioctl("fssetxattr", in, func(t *journal.Task, i *inode.Inode) error {
			word := func(n int) uint32 { return binary.NativeEndian.Uint32(p[4*n:]) }
			x, extsize, projid, cowextsize := word(0), word(1), word(3), word(4)
			if x&^xflags(^uint32(0)) != 0 || extsize|projid|cowextsize != 0 {
				return fmt.Errorf("%s: extended flags %#x, extent sizes %d and %d, project %d: %w", i.Name(), x, extsize, cowextsize, projid, fserr.NotSupported)
			}
			return f.chattr(t, i, func(old uint32) uint32 { return flagsOfX(old, x) })
		})
	}
	return fuse.Status(unix.ENOTTY)
}

// The requests of the extended form (linux/fs.h), which package unix lacks.
const (
	fsGetXattr = 0x801C581F // FS_IOC_FSGETXATTR
	fsSetXattr = 0x401C5820 // FS_IOC_FSSETXATTR
)

// sizeofFsxattr is sizeof(struct fsxattr): fsx_xflags, fsx_extsize, fsx_nextents, fsx_projid, fsx_cowextsize, 32 bits each, and 8 bytes of pad.
const sizeofFsxattr = 28

// xflagOf pairs the inode flags with the fsx_xflags that mean the same (FS_XFLAG_SYNC and so on; fileattr_fill_flags).
var xflagOf = [...]struct{ fl, x uint32 }{
	{ondisk.FlSync, 0x20}, {ondisk.FlImmutable, 0x8}, {ondisk.FlAppend, 0x10},
	{ondisk.FlNoDump, 0x80}, {ondisk.FlNoAtime, 0x40}, {ondisk.FlDax, 0x8000},
	{ondisk.FlProjinherit, 0x200},
}

func xflags(flags uint32) (x uint32) {
	for _, p := range xflagOf {
		if flags&p.fl != 0 {
			x |= p.x
		}
	}
	return x
}

// flagsOfX is old with those flags changed that x can say.
func flagsOfX(old, x uint32) uint32 {
	for _, p := range xflagOf {
		if old &^= p.fl; x&p.x != 0 {
			old |= p.fl
		}
	}
	return old
}

func (f *FileSystem) ioctl(op string, in *fuse.IoctlIn, do func(t *journal.Task, i *inode.Inode) error) fuse.Status {
	t := f.task(op, &in.InHeader)
	i, err := f.get(in.NodeId)
	if err == nil {
		defer f.put(i)
		err = do(t, i)
	}
	return f.end(t, err)
}

// userFlags are the inode's flags as lsattr shows them (ext4_fileattr_get).
func userFlags(i *inode.Inode) uint32 {
	fl := i.Flags() & ondisk.FlUserVisible
	if i.IsReg() {
		fl &^= ondisk.FlProjinherit
	}
	return fl
}

// chattr changes flags, to what want makes of the old ones, and then has the kernel forget the attributes: it takes no note of the new ctime by
// itself. That is done without a lock of the inode, as fs/doc.go wants it.
func (f *FileSystem) chattr(t *journal.Task, i *inode.Inode, want func(old uint32) uint32) error {
	if err := f.setFlags(t, i, want); err != nil {
		return err
	}
	f.notify("attributes are not dropped", node(i.Ino), -1, func(n Notifier) fuse.Status { return n.InodeNotify(node(i.Ino), -1, 0) })
	return f.syncIf(t, i, i.IsDir())
}

// setFlags changes the flags that a user may change; what else is visible is ignored, since chattr sends back what it has read
// (ext4_fileattr_set, ext4_ioctl_setflags). EOPNOTSUPP: flags that are not visible or not for this type of inode, and the change of how
// an inode maps its blocks or journals its data, and of casefold.
func (f *FileSystem) setFlags(t *journal.Task, i *inode.Inode, want func(old uint32) uint32) error {
	if f.fs.ReadOnly() {
		return fserr.ReadOnly
	}
	i.LockRw(t)
	defer i.UnlockRw(t)
	old := i.Flags()
	flags := want(old & ondisk.FlUserVisible)
	const other = ondisk.FlExtents | ondisk.FlJournal | ondisk.FlDax | ondisk.FlCasefold
	set := flags & ondisk.FlUserModifiable
	if flags&^ondisk.FlUserVisible != 0 || !i.IsDir() && set&ondisk.FlDirOnly != 0 || (set^old)&other != 0 {
		return fmt.Errorf("%s: flags %#x to %#x: %w", i.Name(), old, flags, fserr.NotSupported)
	}
	return f.with(t, journal.InodeOp, 1, func(h *journal.Handle) error {
		h.SetInode(i.Ino)
		i.ChangeFlags(set, ondisk.FlUserModifiable&^other)
		i.Touch(time.Now(), ondisk.Ctime)
		return i.MarkDirty(h)
	})
}
