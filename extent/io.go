package extent

import (
	"sync"
	"time"

	"inlinefs/alloc"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/lock"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// zeros is what holes read as.
var zeros [1 << 16]byte

// scratch joins small writes with the zeros around them into one request.
var scratch = sync.Pool{New: func() any { return new([1 << 16]byte) }}

// Read fills dst with the file's bytes from off; holes and uninitialized extents are zeros. The caller has cut dst at i_size. The map
// cannot change under a run being read: DataSem is held shared meanwhile.
func Read(i *inode.Inode, dst []byte, off uint64) error {
	bits := i.FS.BlockBits
	for len(dst) > 0 {
		lblk, in := uint32(off>>bits), off&(1<<bits-1)
		n := uint32((in + uint64(len(dst)) + 1<<bits - 1) >> bits)
		c, err := readRun(i, dst, lblk, n, in)
		if err != nil {
			return err
		}
		dst, off = dst[c:], off+uint64(c)
	}
	return nil
}

func readRun(i *inode.Inode, dst []byte, lblk, n uint32, in uint64) (int, error) {
	i.DataSem.RLock()
	defer i.DataSem.RUnlock()
	r, err := MapLocked(i, lblk, n)
	if err != nil {
		return 0, err
	}
	c := int(min(uint64(len(dst)), uint64(r.Len)<<i.FS.BlockBits-in))
	if r.State != Mapped {
		clear(dst[:c])
		return c, nil
	}
	lock.ReadPoint("file data", uint64(i.Ino))
	if _, err := i.FS.Dev.ReadAt(dst[:c], int64(r.Physical<<i.FS.BlockBits+in)); err != nil {
		return 0, i.FS.Corrupted(i.Ino, r.Physical, "ext4_mpage_readpages", err)
	}
	return c, nil
}

// writeCredits is what mapping one new run needs.
const writeCredits = alloc.Credits + SetCredits + 2

// Write stores p at off in a file that is mapped by blocks, allocating what is missing, and grows i_size with each run in the same
// handle that maps it. The bytes are on the device before the map points to them. It returns how many bytes were stored and whether
// the inode was written (times included). The caller holds Rw exclusively. Errors: fserr.NoSpace, fserr.TooBig.
func Write(t *journal.Task, i *inode.Inode, p []byte, off uint64) (n int, dirtied bool, err error) {
	if end := off + uint64(len(p)); end > MaxBlocks(i)<<i.FS.BlockBits {
		return 0, false, errTooBig(i, end)
	}
	if err := zeroGap(i, off); err != nil {
		return 0, false, err
	}
	bits := i.FS.BlockBits
	for n < len(p) {
		at := off + uint64(n)
		lblk, in := uint32(at>>bits), at&(1<<bits-1)
		want := uint32((in + uint64(len(p)-n) + 1<<bits - 1) >> bits)
		r, err := Map(i, lblk, want)
		if err != nil {
			return n, dirtied, err
		}
		if r.State == Mapped {
			c := int(min(uint64(len(p)-n), uint64(r.Len)<<bits-in))
			lock.Point("file data", uint64(i.Ino))
			if _, err := i.FS.Dev.WriteAt(p[n:n+c], int64(r.Physical<<bits+in)); err != nil {
				return n, dirtied, i.FS.Corrupted(i.Ino, r.Physical, "ext4_io_submit", err)
			}
			n += c
			continue
		}
		c, err := writeNew(t, i, p[n:], at, lblk, in, r)
		if err != nil {
			return n, dirtied, err
		}
		dirtied = true
		n += c
	}
	return n, dirtied, nil
}

// writeNew stores the head of p into a run that is a hole or uninitialized.
func writeNew(t *journal.Task, i *inode.Inode, p []byte, at uint64, lblk uint32, in uint64, r Run) (int, error) {
	h, err := i.FS.Journal.Start(t, journal.MapBlocks, writeCredits)
	if err != nil {
		return 0, err
	}
	h.SetInode(i.Ino)
	n, err := writeNewUnder(h, i, p, at, lblk, in, r)
	if e := h.Stop(); err == nil {
		err = e
	}
	return n, err
}

func writeNewUnder(h *journal.Handle, i *inode.Inode, p []byte, at uint64, lblk uint32, in uint64, r Run) (int, error) {
	f := i.FS
	if r.State == Hole {
		goal := i.Goal
		if goal == 0 {
			goal = goalFor(i, lblk)
		}
		var err error
		if r.Physical, r.Len, err = alloc.NewBlocks(h, i, goal, r.Len); err != nil {
			return 0, err
		}
	}
	c := int(min(uint64(len(p)), uint64(r.Len)<<f.BlockBits-in))
	err := writePadded(i, p[:c], r.Physical, in)
	if err == nil {
		if r.State == Hole {
			err = Set(h, i, lblk, r.Len, r.Physical, false)
			if err == nil {
				err = i.AddSectors(int64(r.Len) * int64(f.BlockSize/512))
			}
		} else {
			used := uint32((in + uint64(c) + uint64(f.BlockSize) - 1) >> f.BlockBits)
			err = SetInit(h, i, lblk, used)
		}
	}
	if err != nil {
		if r.State == Hole {
			err = undo(h, i, r.Physical, r.Len, err)
		}
		return 0, err
	}
	i.Goal = r.Physical + uint64(r.Len)
	lock.Touching(&i.Mu, lock.RawSize)
	i.Mu.Lock()
	if end := at + uint64(c); end > i.Raw.Size() {
		i.Raw.SetSize(end)
	}
	i.Mu.Unlock()
	i.Touch(time.Now(), ondisk.Mtime, ondisk.Ctime)
	return c, i.MarkDirty(h)
}

// goalFor is the block after the one mapped before lblk.
func goalFor(i *inode.Inode, lblk uint32) uint64 {
	if lblk > 0 {
		if r, err := Map(i, lblk-1, 1); err == nil && r.State != Hole {
			return r.Physical + 1
		}
	}
	return alloc.Goal(i)
}

// writePadded writes p at byte in of block phys, with zeros before it and after it up to the block's end.
func writePadded(i *inode.Inode, p []byte, phys, in uint64) error {
	bs := uint64(i.FS.BlockSize)
	total := (in + uint64(len(p)) + bs - 1) &^ (bs - 1)
	base := int64(phys << i.FS.BlockBits)
	var err error
	if uint64(len(p)) == total {
		_, err = i.FS.Dev.WriteAt(p, base)
	} else if total <= uint64(len(zeros)) {
		b := scratch.Get().(*[1 << 16]byte)
		clear(b[:in])
		n := copy(b[in:], p)
		clear(b[in+uint64(n) : total])
		_, err = i.FS.Dev.WriteAt(b[:total], base)
		scratch.Put(b)
	} else {
		tail := total - in - uint64(len(p))
		if in > 0 {
			_, err = i.FS.Dev.WriteAt(zeros[:in], base)
		}
		if err == nil {
			_, err = i.FS.Dev.WriteAt(p, base+int64(in))
		}
		if err == nil && tail > 0 {
			_, err = i.FS.Dev.WriteAt(zeros[:tail], base+int64(in)+int64(len(p)))
		}
	}
	if err != nil {
		return i.FS.Corrupted(i.Ino, phys, "ext4_io_submit", err)
	}
	return nil
}

// zeroGap makes the bytes from i_size to off read as zeros before a write at off grows the file: what is past i_size in its last
// block may be anything on an image that we did not write.
func zeroGap(i *inode.Inode, off uint64) error {
	size := i.Size()
	if off <= size || size&uint64(i.FS.BlockSize-1) == 0 {
		return nil
	}
	end := min(off, (size|uint64(i.FS.BlockSize-1))+1)
	return ZeroIn(i, size, end)
}

// ZeroIn writes zeros over [from, to) within one block, if that block is mapped.
func ZeroIn(i *inode.Inode, from, to uint64) error {
	if from >= to {
		return nil
	}
	r, err := Map(i, uint32(from>>i.FS.BlockBits), 1)
	if err != nil || r.State != Mapped {
		return err
	}
	at := r.Physical<<i.FS.BlockBits + from&uint64(i.FS.BlockSize-1)
	lock.Point("file data", uint64(i.Ino))
	if _, err := i.FS.Dev.WriteAt(zeros[:to-from], int64(at)); err != nil {
		return i.FS.Corrupted(i.Ino, r.Physical, "ext4_block_zero_page_range", err)
	}
	return nil
}

// under runs fn in a handle of its own and marks the inode dirty.
func under(t *journal.Task, i *inode.Inode, typ journal.Type, credits int, fn func(h *journal.Handle) error) error {
	h, err := i.FS.Journal.Start(t, typ, credits)
	if err != nil {
		return err
	}
	h.SetInode(i.Ino)
	err = fn(h)
	if e := i.MarkDirty(h); err == nil {
		err = e
	}
	if e := h.Stop(); err == nil {
		err = e
	}
	return err
}

// Remove unmaps and frees the blocks of [lo, hi), in as many handles as it takes.
func Remove(t *journal.Task, i *inode.Inode, lo, hi uint32) error {
	for more := true; more; {
		err := under(t, i, journal.Truncate, RemoveCredits, func(h *journal.Handle) (err error) {
			more, err = RemoveSome(h, i, lo, hi)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Prealloc maps the holes of [lo, hi) to uninitialized extents (fallocate). Errors: fserr.NoSpace, fserr.NotSupported for files with
// indirect blocks.
func Prealloc(t *journal.Task, i *inode.Inode, lo, hi uint32) error {
	if i.Flags()&ondisk.FlExtents == 0 {
		return fserr.NotSupported
	}
	for lo < hi {
		r, err := Map(i, lo, hi-lo)
		if err != nil {
			return err
		}
		if r.State == Hole {
			err = under(t, i, journal.MapBlocks, writeCredits, func(h *journal.Handle) error {
				phys, n, err := alloc.NewBlocks(h, i, goalFor(i, lo), min(r.Len, ondisk.ExtentInitMax-1))
				if err != nil {
					return err
				}
				if err := Set(h, i, lo, n, phys, true); err != nil {
					return undo(h, i, phys, n, err)
				}
				r.Len = n
				return i.AddSectors(int64(n) * int64(i.FS.BlockSize/512))
			})
			if err != nil {
				return err
			}
		}
		lo += r.Len
	}
	return nil
}

// ZeroRange makes the whole blocks [lo, hi) read as zeros by marking them uninitialized, preallocating holes.
func ZeroRange(t *journal.Task, i *inode.Inode, lo, hi uint32) error {
	if i.Flags()&ondisk.FlExtents == 0 {
		return fserr.NotSupported
	}
	for at := lo; at < hi; {
		r, err := Map(i, at, hi-at)
		if err != nil {
			return err
		}
		if r.State == Mapped {
			r.Len = min(r.Len, ondisk.ExtentInitMax-1)
			err = under(t, i, journal.MapBlocks, writeCredits, func(h *journal.Handle) error { return SetUninit(h, i, at, r.Len) })
			if err != nil {
				return err
			}
		}
		at += r.Len
	}
	return Prealloc(t, i, lo, hi)
}

// Seek finds the next data (or hole) at or after off and before size (SEEK_DATA, SEEK_HOLE); size when there is none.
func Seek(i *inode.Inode, off, size uint64, hole bool) (uint64, error) {
	bits := i.FS.BlockBits
	for off < size {
		lblk := off >> bits
		if lblk >= MaxBlocks(i) {
			break
		}
		n := min((size+1<<bits-1)>>bits-lblk, MaxBlocks(i)-lblk)
		r, err := Map(i, uint32(lblk), uint32(n))
		if err != nil {
			return 0, err
		}
		if (r.State == Mapped) != hole {
			return off, nil
		}
		off = (lblk + uint64(r.Len)) << bits
	}
	return size, nil
}
