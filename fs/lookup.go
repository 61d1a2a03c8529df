package fs

import (
	"fmt"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/dir"
	"inlinefs/extent"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/lock"
	"inlinefs/journal"
	"inlinefs/ondisk"
	"inlinefs/xattr"
)

// Lookup finds name in a directory. A name that is not there may be remembered by the kernel as such.
func (f *FileSystem) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	i, err := f.lookup(in.NodeId, name)
	if err == nil {
		f.entry(i, out)
		f.put(i)
	} else if st := errno(err); st == fuse.ENOENT {
		out.SetEntryTimeout(timeout)
		return fuse.OK // node id 0: a negative entry
	}
	return errno(err)
}

func (f *FileSystem) lookup(parent uint64, name string) (*inode.Inode, error) {
	if len(name) > ondisk.MaxName {
		return nil, fserr.NameTooLong
	}
	d, err := f.dir(parent)
	if err != nil {
		return nil, err
	}
	defer f.put(d)
	d.Rw.RLock()
	defer d.Rw.RUnlock()
	return f.child(d, name)
}

// dir returns a directory's inode with a reference.
func (f *FileSystem) dir(n uint64) (*inode.Inode, error) {
	d, err := f.get(n)
	if err != nil {
		return nil, err
	}
	if !d.IsDir() {
		f.put(d)
		return nil, fserr.NotDir
	}
	return d, nil
}

// child returns the inode that name in d leads to, with a reference. The caller holds d.Rw.
func (f *FileSystem) child(d *inode.Inode, name string) (*inode.Inode, error) {
	n, _, err := dir.Lookup(d, []byte(name))
	if err != nil {
		return nil, err
	}
	i, err := f.inodes.Get(n)
	if err == nil && i.Links() == 0 {
		err = f.fs.Corrupted(n, 0, "ext4_lookup", ondisk.Corrupt(i.Name(), "entry %q of inode %d leads to a deleted inode", name, d.Ino))
		f.put(i)
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("entry %q of inode %d: %w", name, d.Ino, err)
	}
	return i, nil
}

// Forget gives lookups back.
func (f *FileSystem) Forget(n, lookups uint64) {
	f.leaving.Add(1)
	defer f.leaving.Add(-1)
	if i := f.inodes.Peek(ino(n)); i != nil {
		f.inodes.PutN(i, int64(lookups)+1)
	}
}

// GetAttr answers stat(2).
func (f *FileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	i, err := f.get(in.NodeId)
	if err != nil {
		return errno(err)
	}
	defer f.put(i)
	f.attr(i, &out.Attr)
	out.SetTimeout(timeout)
	return fuse.OK
}

// SetAttr answers chmod, chown, truncate and utimens.
func (f *FileSystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	t := f.task("setattr", &in.InHeader)
	i, err := f.get(in.NodeId)
	if err == nil {
		defer f.put(i)
		err = f.again(func() error { return f.setattr(t, i, in) })
	}
	if err == nil {
		f.attr(i, &out.Attr)
		out.SetTimeout(timeout)
	}
	return f.end(t, err)
}

func (f *FileSystem) setattr(t *journal.Task, i *inode.Inode, in *fuse.SetAttrIn) error {
	i.LockRw(t)
	defer i.UnlockRw(t)
	if i.Flags()&(ondisk.FlImmutable|ondisk.FlAppend) != 0 && in.Valid&^(fuse.FATTR_FH|fuse.FATTR_LOCKOWNER) != 0 {
		return fserr.NotPermitted
	}
	if size, ok := in.GetSize(); ok {
		i.LockInvalidate(t)
		err := f.truncate(t, i, size)
		i.UnlockInvalidate(t)
		if err != nil {
			return err
		}
	}
	if in.Valid&fuse.FATTR_KILL_SUIDGID != 0 {
		if err := f.killPriv(t, i); err != nil {
			return err
		}
	}
	const meta = fuse.FATTR_MODE | fuse.FATTR_UID | fuse.FATTR_GID | fuse.FATTR_ATIME | fuse.FATTR_MTIME | fuse.FATTR_CTIME
	if in.Valid&meta == 0 {
		return f.syncIf(t, i, false)
	}
	credits := 4
	if in.Valid&fuse.FATTR_MODE != 0 {
		credits += xattr.SetCredits(i)
	}
	err := f.with(t, journal.InodeOp, credits, func(h *journal.Handle) error {
		h.SetInode(i.Ino)
		if mode, ok := in.GetMode(); ok {
			if err := f.chmodACL(t, h, i, mode); err != nil {
				return err
			}
		}
		applyAttr(i, in)
		return i.MarkDirty(h)
	})
	if err != nil {
		return err
	}
	return f.syncIf(t, i, false)
}

func applyAttr(i *inode.Inode, in *fuse.SetAttrIn) {
	now := time.Now()
	parts := lock.RawRest
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		parts |= lock.RawFlags
	}
	lock.Touching(&i.Mu, parts)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	r := i.Raw
	if mode, ok := in.GetMode(); ok {
		r.SetMode(r.Mode()&ondisk.ModeFmt | uint16(mode&07777))
	} else if in.Valid&(fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		r.SetMode(killed(r.Mode()))
	}
	if uid, ok := in.GetUID(); ok {
		r.SetUID(uid)
	}
	if gid, ok := in.GetGID(); ok {
		r.SetGID(gid)
	}
	if at, ok := in.GetATime(); ok {
		r.SetTime(ondisk.Atime, at)
	}
	if mt, ok := in.GetMTime(); ok {
		r.SetTime(ondisk.Mtime, mt)
	}
	if ct, ok := in.GetCTime(); ok {
		r.SetTime(ondisk.Ctime, ct)
	} else {
		r.SetTime(ondisk.Ctime, now)
	}
}

// truncate sets the size of a regular file. The caller holds i.Rw exclusively.
func (f *FileSystem) truncate(t *journal.Task, i *inode.Inode, size uint64) error {
	if !i.IsReg() {
		if i.IsDir() {
			return fserr.IsDir
		}
		return fserr.Invalid
	}
	old := i.Size()
	if size < old {
		i.Map.Drop(int64(size), 1<<62)
	}
	done, err := f.eng.Truncate(t, i, size)
	if done || err != nil {
		return err
	}
	if size > extent.MaxBlocks(i)<<f.fs.BlockBits {
		return fmt.Errorf("%s: size %d: %w", i.Name(), size, fserr.TooBig)
	}
	bs := uint64(f.fs.BlockSize)
	if size < old && size%bs != 0 {
		if err := extent.ZeroIn(i, size, min(old, (size+bs-1)&^(bs-1))); err != nil {
			return err
		}
	} else if size > old && old%bs != 0 {
		if err := extent.ZeroIn(i, old, min(size, (old+bs-1)&^(bs-1))); err != nil {
			return err
		}
	}
	// While its blocks go the inode is on the orphan list: a crash in between is finished at the next mount.
	shrinks := size < old || f.hasBeyond(i, size)
	err = f.with(t, journal.InodeOp, orphanCredits+2, func(h *journal.Handle) error {
		h.SetInode(i.Ino)
		if shrinks {
			if err := f.orphanAdd(h, i); err != nil {
				return err
			}
		}
		i.SetSize(size)
		i.Touch(time.Now(), ondisk.Mtime, ondisk.Ctime)
		return i.MarkDirty(h)
	})
	if err != nil || !shrinks {
		return err
	}
	if err := f.cutBlocks(t, i, size); err != nil {
		return err
	}
	i.Goal = 0
	return f.with(t, journal.InodeOp, orphanCredits, func(h *journal.Handle) error {
		if i.Links() == 0 {
			return nil
		}
		return f.orphanDel(h, i)
	})
}

// hasBeyond says whether blocks may lie past size (preallocated past i_size).
func (f *FileSystem) hasBeyond(i *inode.Inode, size uint64) bool {
	lock.Reading(&i.Mu)
	lock.Touching(&i.Mu, lock.RawRest)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	return i.Raw.Sectors(f.fs.HugeFile, f.fs.BlockSize)*512 > (size+uint64(f.fs.BlockSize)-1)&^uint64(f.fs.BlockSize-1)
}

// cutBlocks frees the blocks past size.
func (f *FileSystem) cutBlocks(t *journal.Task, i *inode.Inode, size uint64) error {
	lo := (size + uint64(f.fs.BlockSize) - 1) >> f.fs.BlockBits
	hi := extent.MaxBlocks(i)
	if lo >= hi {
		return nil
	}
	return extent.Remove(t, i, uint32(lo), uint32(hi))
}
