package fs

import (
	"encoding/binary"
	"errors"
	"fmt"

	"inlinefs/buffer"
	"inlinefs/extent"
	"inlinefs/inode"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// The tail of each block of the orphan file: a magic number and, with metadata checksums, a checksum.
const (
	orphanMagic = 0x0b10ca04
	orphanTail  = 8 // bytes
)

// orphanFile is the orphan file of a mount (struct ext4_orphan_info): each of its slots holds the number of an inode that is to be deleted
// or cut at the next mount after a crash, or 0. Unlike the list it leaves the superblock and other inodes alone.
type orphanFile struct {
	file  *inode.Inode // immutable, held
	slots int          // immutable; of a block
	free  []int        // guarded by orphanMu; free slots of each block
	hint  []int        // guarded by orphanMu; of each block, the slot where the next free one is looked for
	used  int          // guarded by orphanMu; slots in use, in all
	last  int          // guarded by orphanMu; the block that the last orphan went to
}

// openOrphanFile reads the orphan file, and finishes what a crash left in it (ext4_init_orphan_info, ext4_orphan_cleanup): the inodes
// are deleted or cut, and their slots are free again. With a journal new orphans go there from now on. A damaged file is reported and
// not used: the flag that says it may hold something stays in the superblock.
func (f *FileSystem) openOrphanFile() error {
	if !f.fs.SB.Compat(ondisk.CompatOrphanFile) {
		return nil
	}
	file, err := f.inodes.GetSystem(f.fs.SB.OrphanFileIno())
	if err != nil {
		f.fs.KeepOrphanPresent()
		return f.fs.Corrupted(0, 0, "ext4_init_orphan_info", fmt.Errorf("orphan file: %w", err))
	}
	o := &orphanFile{file: file, slots: (f.fs.BlockSize - orphanTail) / 4}
	blocks := min(file.Size()>>f.fs.BlockBits, f.fs.Blocks)
	var found []orphanEntry
	for n := range uint32(blocks) {
		e, err := f.readOrphanBlock(o, n)
		if err != nil {
			f.put(file)
			f.fs.KeepOrphanPresent()
			return err
		}
		found = append(found, e...)
	}
	// From here on the slots are given back as their inodes are finished.
	f.orphanMu.Lock()
	f.orphanFile = o
	f.orphanMu.Unlock()
	var errs []error
	for _, e := range found {
		errs = append(errs, f.finishOrphanEntry(e))
	}
	if len(found) > 0 || f.fs.SB.ROCompat(ondisk.ROCompatOrphanPresent) {
		f.log.Info("orphan file finished", "inodes", len(found))
	}
	if err := errors.Join(errs...); err != nil || f.fs.Journal.Journalled() {
		return err
	}
	return f.clearOrphanPresent()
}

// clearOrphanPresent takes the flag off a file system without a journal, which puts nothing into the file.
func (f *FileSystem) clearOrphanPresent() error {
	if !f.fs.SB.ROCompat(ondisk.ROCompatOrphanPresent) {
		return nil
	}
	t := f.fs.Journal.NewTask("orphans", 0)
	err := f.with(t, journal.Orphan, 1, func(h *journal.Handle) error {
		return f.fs.PutSuper(h, func(s ondisk.Super) { s.SetFeatureROCompat(s.FeatureROCompat() &^ ondisk.ROCompatOrphanPresent) })
	})
	return errors.Join(err, t.End())
}

// orphanEntry is a slot that a crash left in use.
type orphanEntry struct {
	slot int
	ino  uint32
}

// readOrphanBlock verifies block n of the orphan file and lists its slots in use.
func (f *FileSystem) readOrphanBlock(o *orphanFile, n uint32) ([]orphanEntry, error) {
	file := o.file
	b, err := extent.GetBlock(file, n)
	if err != nil {
		return nil, f.fs.Corrupted(file.Ino, 0, "ext4_init_orphan_info", err)
	}
	defer b.Release()
	p := b.Data()
	tail := len(p) - orphanTail
	if m := binary.LittleEndian.Uint32(p[tail:]); m != orphanMagic {
		err := ondisk.Corrupt(file.Name(), "block %d of the orphan file has magic 0x%08x, want 0x%08x", n, m, uint32(orphanMagic))
		return nil, f.fs.Corrupted(file.Ino, b.Block(), "ext4_init_orphan_info", err)
	}
	if got, want := binary.LittleEndian.Uint32(p[tail+4:]), orphanSum(file, b); f.fs.Csum && got != want {
		return nil, f.fs.Corrupted(file.Ino, b.Block(), "ext4_init_orphan_info", ondisk.BadChecksum(file.Name(), "orphan file block", got, want))
	}
	var found []orphanEntry
	for k := range o.slots {
		if ino := binary.LittleEndian.Uint32(p[4*k:]); ino != 0 {
			found = append(found, orphanEntry{int(n)*o.slots + k, ino})
		}
	}
	o.free = append(o.free, o.slots-len(found))
	o.hint = append(o.hint, 0)
	o.used += len(found)
	return found, nil
}

// orphanSum is the checksum of a block of the orphan file (ext4_orphan_file_block_csum).
func orphanSum(file *inode.Inode, b *buffer.Head) uint32 {
	var at [8]byte
	binary.LittleEndian.PutUint64(at[:], b.Block())
	return ondisk.CRC32C(ondisk.CRC32C(file.Seed(), at[:]), b.Data()[:len(b.Data())-orphanTail])
}

// finishOrphanEntry deletes or cuts the inode of a slot. A slot that names no inode, or one that is an orphan already, is reported and cleared.
func (f *FileSystem) finishOrphanEntry(e orphanEntry) error {
	i, err := f.inodes.Get(e.ino)
	if err != nil {
		err = f.fs.Corrupted(e.ino, 0, "ext4_orphan_get", fmt.Errorf("orphan file: %w", err))
		return errors.Join(err, f.freeOrphanSlot(e.slot))
	}
	f.orphanMu.Lock()
	twice := i.Orphan
	if !twice {
		i.Orphan, i.OrphanSlot = true, e.slot+1
	}
	f.orphanMu.Unlock()
	switch {
	case twice:
		err = errors.Join(f.fs.Corrupted(e.ino, 0, "ext4_orphan_get", ondisk.Corrupt("orphan file", "inode %d is an orphan twice", e.ino)), f.freeOrphanSlot(e.slot))
	case i.Links() > 0:
		err = f.finishTruncate(i)
	}
	f.put(i) // without links it is deleted now
	return err
}

// freeOrphanSlot clears a slot in a handle of its own.
func (f *FileSystem) freeOrphanSlot(slot int) error {
	t := f.fs.Journal.NewTask("orphans", 0)
	err := f.with(t, journal.Orphan, orphanCredits, func(h *journal.Handle) error {
		f.orphanMu.Lock()
		defer f.orphanMu.Unlock()
		return f.orphanFile.give(h, slot)
	})
	return errors.Join(err, t.End())
}

// take puts ino into a free slot and returns it; false when there is none (ext4_orphan_file_add). The caller holds orphanMu. One credit.
func (o *orphanFile) take(h *journal.Handle, ino uint32) (slot int, ok bool, err error) {
	for n := range o.free {
		blk := (o.last + n) % len(o.free)
		if o.free[blk] == 0 {
			continue
		}
		b, err := extent.GetBlock(o.file, uint32(blk))
		if err != nil {
			return 0, false, err
		}
		defer b.Release()
		for k := range o.slots {
			at := (o.hint[blk] + k) % o.slots
			if binary.LittleEndian.Uint32(b.Data()[4*at:]) != 0 {
				continue
			}
			if err := o.put(h, b, at, ino); err != nil {
				return 0, false, err
			}
			o.last, o.hint[blk] = blk, (at+1)%o.slots
			o.free[blk]--
			o.used++
			return blk*o.slots + at, true, nil
		}
		return 0, false, o.file.FS.Corrupted(o.file.Ino, b.Block(), "ext4_orphan_file_add",
			ondisk.Corrupt(o.file.Name(), "no free slot in block %d, want %d", blk, o.free[blk]))
	}
	return 0, false, nil
}

// give clears a slot (ext4_orphan_file_del). The caller holds orphanMu. One credit.
func (o *orphanFile) give(h *journal.Handle, slot int) error {
	blk, at := slot/o.slots, slot%o.slots
	b, err := extent.GetBlock(o.file, uint32(blk))
	if err != nil {
		return err
	}
	defer b.Release()
	if err := o.put(h, b, at, 0); err != nil {
		return err
	}
	o.hint[blk] = at
	o.free[blk]++
	o.used--
	return nil
}

// put stores a number in slot at of block b.
func (o *orphanFile) put(h *journal.Handle, b *buffer.Head, at int, ino uint32) error {
	if err := h.GetWriteAccess(b); err != nil {
		return err
	}
	b.Lock()
	binary.LittleEndian.PutUint32(b.Data()[4*at:], ino)
	if o.file.FS.Csum {
		binary.LittleEndian.PutUint32(b.Data()[len(b.Data())-4:], orphanSum(o.file, b))
	}
	b.Unlock()
	return h.DirtyMetadata(b)
}

// closeOrphanFile has the superblock keep its orphan_present flag when something is left in the file.
func (f *FileSystem) closeOrphanFile() {
	f.orphanMu.Lock()
	defer f.orphanMu.Unlock()
	if f.orphanFile != nil && f.orphanFile.used > 0 {
		f.fs.KeepOrphanPresent()
	}
}
