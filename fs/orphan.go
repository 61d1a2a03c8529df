package fs

import (
	"errors"
	"fmt"
	"time"

	"inlinefs/alloc"
	"inlinefs/inode"
	"inlinefs/journal"
	"inlinefs/ondisk"
	"inlinefs/xattr"
)

// orphanCredits is what one change of the list needs: the superblock, the inode, its neighbour.
const orphanCredits = 4

// orphanAdd notes an inode that is to be deleted or cut, for the next mount after a crash: in a free slot of the orphan file, else at the
// head of the orphan list (ext4_orphan_add). The caller marks it dirty later or not: this does.
func (f *FileSystem) orphanAdd(h *journal.Handle, i *inode.Inode) error {
	f.orphanMu.Lock()
	defer f.orphanMu.Unlock()
	if i.Orphan {
		return nil
	}
	if f.orphanFile != nil && f.fs.Journal.Journalled() {
		slot, ok, err := f.orphanFile.take(h, i.Ino)
		if err != nil {
			return err
		}
		if ok {
			i.Orphan, i.OrphanSlot = true, slot+1
			return i.MarkDirty(h)
		}
	}
	next := f.orphans
	i.Orphan, i.OrphanPrev, i.OrphanNext = true, nil, next
	if next != nil {
		next.OrphanPrev = i
	}
	f.orphans = i
	i.Mu.Lock()
	i.Raw.SetDtime(f.fs.LastOrphan())
	i.Mu.Unlock()
	if err := f.fs.SetLastOrphan(h, i.Ino); err != nil {
		return err
	}
	return i.MarkDirty(h)
}

// orphanDel takes an inode out of the orphan file or off the list (ext4_orphan_del); its i_dtime is 0 afterwards.
func (f *FileSystem) orphanDel(h *journal.Handle, i *inode.Inode) error {
	f.orphanMu.Lock()
	defer f.orphanMu.Unlock()
	if !i.Orphan {
		return nil
	}
	if i.OrphanSlot != 0 {
		if err := f.orphanFile.give(h, i.OrphanSlot-1); err != nil {
			return err
		}
		i.Orphan, i.OrphanSlot = false, 0
		return i.MarkDirty(h)
	}
	i.Mu.Lock()
	next := i.Raw.Dtime()
	i.Raw.SetDtime(0)
	i.Mu.Unlock()
	var err error
	if p := i.OrphanPrev; p != nil {
		p.OrphanNext = i.OrphanNext
		p.Mu.Lock()
		p.Raw.SetDtime(next)
		p.Mu.Unlock()
		err = p.MarkDirty(h)
	} else {
		f.orphans = i.OrphanNext
		err = f.fs.SetLastOrphan(h, next)
	}
	if n := i.OrphanNext; n != nil {
		n.OrphanPrev = i.OrphanPrev
	}
	i.Orphan, i.OrphanPrev, i.OrphanNext = false, nil, nil
	return errors.Join(err, i.MarkDirty(h))
}

// evict is called with the last reference to an inode gone (ext4_evict_inode): a deleted one is freed on disk.
func (f *FileSystem) evict(i *inode.Inode) {
	if i.Links() != 0 || f.fs.ReadOnly() || f.fs.Journal.Aborted() != nil {
		f.dropOrphan(i)
		return
	}
	f.leaving.Add(1)
	defer f.leaving.Add(-1)
	t := f.fs.Journal.NewTask("evict", 0)
	err := f.free(t, i)
	f.freed.Add(1)
	if e := t.End(); err == nil {
		err = e
	}
	if err != nil {
		f.log.Error("deleted inode not freed", "ino", i.Ino, "err", err)
		f.dropOrphan(i)
	}
}

// dropOrphan forgets the in-core links of an inode that leaves the cache while it is on the list, or in the orphan file, on disk.
func (f *FileSystem) dropOrphan(i *inode.Inode) {
	f.orphanMu.Lock()
	defer f.orphanMu.Unlock()
	if !i.Orphan {
		return
	}
	i.Orphan = false
	if i.OrphanSlot != 0 {
		i.OrphanSlot = 0
		return
	}
	// Its neighbours lead past it in core; on disk it stays linked and is found at the next mount.
	if p := i.OrphanPrev; p != nil {
		p.OrphanNext = i.OrphanNext
	} else {
		f.orphans = i.OrphanNext
	}
	if n := i.OrphanNext; n != nil {
		n.OrphanPrev = i.OrphanPrev
	}
}

// free gives back everything that a deleted inode owns.
func (f *FileSystem) free(t *journal.Task, i *inode.Inode) error {
	mode := i.Mode()
	fl := i.Flags()
	kind := mode & ondisk.ModeFmt
	fast := kind == ondisk.ModeLnk && isFastSymlink(i)
	if (kind == ondisk.ModeReg || kind == ondisk.ModeDir || kind == ondisk.ModeLnk) && fl&ondisk.FlInlineData == 0 && !fast {
		if err := f.cutBlocks(t, i, 0); err != nil {
			return err
		}
	}
	return f.with(t, journal.Truncate, orphanCredits+alloc.Credits*2+xattr.SetCredits(i)+4, func(h *journal.Handle) error {
		h.SetInode(i.Ino)
		if err := xattr.ReleaseBlock(h, i); err != nil {
			return err
		}
		if err := f.orphanDel(h, i); err != nil {
			return err
		}
		i.Mu.Lock()
		i.Raw.SetDtime(uint32(time.Now().Unix()))
		i.Raw.SetSize(0)
		i.Mu.Unlock()
		if err := i.MarkDirty(h); err != nil {
			return err
		}
		return alloc.FreeInode(h, i, kind == ondisk.ModeDir)
	})
}

// isFastSymlink says whether the target stands in i_block.
func isFastSymlink(i *inode.Inode) bool {
	i.Mu.Lock()
	defer i.Mu.Unlock()
	blocks := i.Raw.Sectors(i.FS.HugeFile, i.FS.BlockSize)
	if i.Raw.FileACL() != 0 {
		blocks -= min(blocks, uint64(i.FS.BlockSize/512))
	}
	return !i.Raw.Has(ondisk.FlInlineData) && blocks == 0 && i.Raw.Size() < ondisk.BlockArea
}

// cleanOrphans finishes what a crash left: files without links are freed, the others cut at i_size (ext4_orphan_cleanup).
func (f *FileSystem) cleanOrphans() error {
	next := f.fs.LastOrphan()
	if next == 0 {
		return nil
	}
	var list []*inode.Inode
	seen := map[uint32]bool{}
	var bad error
	for n := next; n != 0; {
		if seen[n] {
			bad = ondisk.Corrupt("orphan list", "inode %d is on it twice", n)
			break
		}
		seen[n] = true
		i, err := f.inodes.Get(n)
		if err != nil {
			bad = fmt.Errorf("orphan list: %w", err)
			break
		}
		list = append(list, i)
		i.Mu.Lock()
		n = i.Raw.Dtime()
		i.Mu.Unlock()
	}
	f.orphanMu.Lock()
	for k, i := range list {
		i.Orphan = true
		if k > 0 {
			i.OrphanPrev, list[k-1].OrphanNext = list[k-1], i
		}
	}
	if len(list) > 0 {
		f.orphans = list[0]
	}
	f.orphanMu.Unlock()
	freed, cut := 0, 0
	var errs []error
	for _, i := range list {
		if i.Links() > 0 {
			cut++
			errs = append(errs, f.finishTruncate(i))
		} else {
			freed++
		}
		f.put(i)
	}
	f.log.Info("orphan list finished", "deleted", freed, "truncated", cut)
	if bad != nil {
		errs = append(errs, f.fs.Corrupted(0, 0, "ext4_orphan_cleanup", bad), f.clearList())
	}
	return errors.Join(errs...)
}

// clearList empties a damaged list; e2fsck finds what was on it.
func (f *FileSystem) clearList() error {
	t := f.fs.Journal.NewTask("orphans", 0)
	err := f.with(t, journal.Orphan, orphanCredits, func(h *journal.Handle) error { return f.fs.SetLastOrphan(h, 0) })
	return errors.Join(err, t.End())
}

func (f *FileSystem) finishTruncate(i *inode.Inode) error {
	t := f.fs.Journal.NewTask("orphans", 0)
	var err error
	if !i.HasInline() && i.IsReg() {
		err = f.cutBlocks(t, i, i.Size())
	}
	if err == nil {
		err = f.with(t, journal.Orphan, orphanCredits, func(h *journal.Handle) error { return f.orphanDel(h, i) })
	}
	return errors.Join(err, t.End())
}

// reapAll frees deleted inodes that the kernel did not forget before it went away.
func (f *FileSystem) reapAll() error {
	if f.fs.ReadOnly() {
		return nil
	}
	var errs []error
	f.inodes.Each(func(i *inode.Inode) {
		if i.Links() != 0 {
			return
		}
		t := f.fs.Journal.NewTask("unmount", 0)
		errs = append(errs, f.free(t, i), t.End())
	})
	return errors.Join(errs...)
}
