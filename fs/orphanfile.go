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

// cleanOrphanFile finishes what the orphan file lists (ext4_orphan_cleanup, ext4_init_orphan_info): each inode moves to the orphan list
// in the transaction that clears its entry, and is deleted or cut from there. Our own orphans go on the list only, so that the file
// stays empty afterwards and its feature flag is taken off the superblock.
func (f *FileSystem) cleanOrphanFile() error {
	if !f.fs.SB.Compat(ondisk.CompatOrphanFile) || !f.fs.SB.ROCompat(ondisk.ROCompatOrphanPresent) {
		return nil
	}
	file, err := f.inodes.GetSystem(f.fs.SB.OrphanFileIno())
	if err != nil {
		return f.fs.Corrupted(0, 0, "ext4_init_orphan_info", fmt.Errorf("orphan file: %w", err))
	}
	defer f.put(file)
	var errs []error
	done := 0
	blocks := min(file.Size()>>f.fs.BlockBits, f.fs.Blocks)
	for n := range uint32(blocks) {
		k, err := f.cleanOrphanBlock(file, n)
		done += k
		if err != nil {
			errs = append(errs, err)
		}
	}
	f.log.Info("orphan file finished", "inodes", done)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	t := f.fs.Journal.NewTask("orphans", 0)
	err = f.with(t, journal.Orphan, 1, func(h *journal.Handle) error {
		return f.fs.PutSuper(h, func(s ondisk.Super) { s.SetFeatureROCompat(s.FeatureROCompat() &^ ondisk.ROCompatOrphanPresent) })
	})
	return errors.Join(err, t.End())
}

// cleanOrphanBlock finishes the inodes of block n of the orphan file and says how many there were.
func (f *FileSystem) cleanOrphanBlock(file *inode.Inode, n uint32) (int, error) {
	b, err := extent.GetBlock(file, n)
	if err != nil {
		return 0, f.fs.Corrupted(file.Ino, 0, "ext4_init_orphan_info", err)
	}
	defer b.Release()
	p := b.Data()
	tail := len(p) - orphanTail
	if m := binary.LittleEndian.Uint32(p[tail:]); m != orphanMagic {
		err := ondisk.Corrupt(file.Name(), "block %d of the orphan file has magic 0x%08x, want 0x%08x", n, m, uint32(orphanMagic))
		return 0, f.fs.Corrupted(file.Ino, b.Block(), "ext4_init_orphan_info", err)
	}
	if got, want := binary.LittleEndian.Uint32(p[tail+4:]), orphanSum(file, b); f.fs.Csum && got != want {
		return 0, f.fs.Corrupted(file.Ino, b.Block(), "ext4_init_orphan_info", ondisk.BadChecksum(file.Name(), "orphan file block", got, want))
	}
	done := 0
	var errs []error
	for off := 0; off < tail; off += 4 {
		ino := binary.LittleEndian.Uint32(p[off:])
		if ino == 0 {
			continue
		}
		done++
		errs = append(errs, f.finishOrphanEntry(file, b, off, ino))
	}
	return done, errors.Join(errs...)
}

// orphanSum is the checksum of a block of the orphan file (ext4_orphan_file_block_csum).
func orphanSum(file *inode.Inode, b *buffer.Head) uint32 {
	var at [8]byte
	binary.LittleEndian.PutUint64(at[:], b.Block())
	return ondisk.CRC32C(ondisk.CRC32C(file.Seed(), at[:]), b.Data()[:len(b.Data())-orphanTail])
}

// finishOrphanEntry moves inode ino from the entry at off of b to the orphan list and finishes it. An entry that names no inode is
// reported and cleared.
func (f *FileSystem) finishOrphanEntry(file *inode.Inode, b *buffer.Head, off int, ino uint32) error {
	i, err := f.inodes.Get(ino)
	if err != nil {
		err = f.fs.Corrupted(ino, b.Block(), "ext4_orphan_get", fmt.Errorf("orphan file: %w", err))
	}
	t := f.fs.Journal.NewTask("orphans", 0)
	moved := f.with(t, journal.Orphan, orphanCredits+1, func(h *journal.Handle) error {
		if i != nil {
			if err := f.orphanAdd(h, i); err != nil {
				return err
			}
		}
		if err := h.GetWriteAccess(b); err != nil {
			return err
		}
		b.Lock()
		binary.LittleEndian.PutUint32(b.Data()[off:], 0)
		if f.fs.Csum {
			binary.LittleEndian.PutUint32(b.Data()[len(b.Data())-4:], orphanSum(file, b))
		}
		b.Unlock()
		return h.DirtyMetadata(b)
	})
	err = errors.Join(err, moved, t.End())
	if i == nil {
		return err
	}
	if moved == nil && i.Links() > 0 {
		err = errors.Join(err, f.finishTruncate(i))
	}
	f.put(i) // without links it is deleted now
	return err
}
