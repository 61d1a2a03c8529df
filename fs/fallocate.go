package fs

import (
	"fmt"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"inlinefs/extent"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// Fallocate preallocates, punches holes and zeroes ranges. Every mode first moves an inline file to a block (ext4_fallocate).
func (f *FileSystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	t := f.task("fallocate", &in.InHeader)
	i, err := f.get(in.NodeId)
	if err == nil {
		defer f.put(i)
		if in.Mode&(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_ZERO_RANGE) != 0 {
			i.Map.Settle()
		}
		err = f.again(func() error {
			i.LockRw(t)
			defer i.UnlockRw(t)
			i.LockInvalidate(t)
			defer i.UnlockInvalidate(t)
			return f.fallocate(t, i, in.Mode, in.Offset, in.Length)
		})
	}
	return f.end(t, err)
}

func (f *FileSystem) fallocate(t *journal.Task, i *inode.Inode, mode uint32, off, n uint64) error {
	const keep, punch, zero = unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE
	if mode&^(keep|punch|zero) != 0 || mode&punch != 0 && mode&(keep|zero) != keep {
		return fserr.NotSupported
	}
	if !i.IsReg() {
		return fserr.Invalid
	}
	if i.Flags()&(ondisk.FlImmutable|ondisk.FlAppend) != 0 {
		return fserr.NotPermitted
	}
	if f.fs.ReadOnly() {
		return fserr.ReadOnly
	}
	end := off + n
	if end < off || end > extent.MaxBlocks(i)<<f.fs.BlockBits && mode&punch == 0 {
		return fmt.Errorf("%s: range to %d: %w", i.Name(), end, fserr.TooBig)
	}
	if err := f.eng.Convert(t, i); err != nil {
		return err
	}
	if i.Flags()&ondisk.FlExtents == 0 && mode&punch == 0 {
		return fserr.NotSupported
	}
	size := i.Size()
	if mode&(punch|zero) != 0 {
		i.Map.Punch(int64(off), int64(end))
	}
	var err error
	switch {
	case mode&punch != 0:
		err = f.punch(t, i, off, min(end, size))
	case mode&zero != 0:
		err = f.zeroRange(t, i, off, end)
	default:
		bs := uint64(f.fs.BlockSize)
		err = extent.Prealloc(t, i, uint32(off>>f.fs.BlockBits), uint32((end+bs-1)>>f.fs.BlockBits))
	}
	if err != nil {
		return err
	}
	return f.with(t, journal.InodeOp, 2, func(h *journal.Handle) error {
		h.SetInode(i.Ino)
		if mode&keep == 0 && end > size {
			// What follows i_size in its block is not zero on every image.
			if err := extent.ZeroIn(i, size, min(end, (size+uint64(f.fs.BlockSize)-1)&^uint64(f.fs.BlockSize-1))); err != nil {
				return err
			}
			i.SetSize(end)
		}
		i.Touch(time.Now(), ondisk.Mtime, ondisk.Ctime)
		return i.MarkDirty(h)
	})
}

// edges splits [off, end) into whole blocks [lo, hi) and zeroes what is left at both ends.
func (f *FileSystem) edges(i *inode.Inode, off, end uint64) (lo, hi uint32, err error) {
	bs := uint64(f.fs.BlockSize)
	first, last := (off+bs-1)&^(bs-1), end&^(bs-1)
	if first > last {
		return 0, 0, extent.ZeroIn(i, off, end)
	}
	if err := extent.ZeroIn(i, off, first); err != nil {
		return 0, 0, err
	}
	if err := extent.ZeroIn(i, last, end); err != nil {
		return 0, 0, err
	}
	return uint32(first >> f.fs.BlockBits), uint32(last >> f.fs.BlockBits), nil
}

func (f *FileSystem) punch(t *journal.Task, i *inode.Inode, off, end uint64) error {
	if off >= end {
		return nil
	}
	// A hole up to i_size takes the whole last block.
	if bs := uint64(f.fs.BlockSize); end == i.Size() {
		if err := extent.ZeroIn(i, max(off, end&^(bs-1)), end); err != nil {
			return err
		}
		if off <= end&^(bs-1) {
			end = (end + bs - 1) &^ (bs - 1)
		}
	}
	lo, hi, err := f.edges(i, off, end)
	if err != nil || lo >= hi {
		return err
	}
	return extent.Remove(t, i, lo, hi)
}

func (f *FileSystem) zeroRange(t *journal.Task, i *inode.Inode, off, end uint64) error {
	lo, hi, err := f.edges(i, off, end)
	if err != nil {
		return err
	}
	if lo < hi {
		if err := extent.ZeroRange(t, i, lo, hi); err != nil {
			return err
		}
	}
	// Blocks that the range covers in part exist afterwards, as after a preallocation.
	bs := uint64(f.fs.BlockSize)
	return extent.Prealloc(t, i, uint32(off>>f.fs.BlockBits), uint32((end+bs-1)>>f.fs.BlockBits))
}
