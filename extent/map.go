package extent

import (
	"errors"
	"fmt"

	"inlinefs/alloc"
	"inlinefs/buffer"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/lock"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// State says what a run of logical blocks is.
type State uint8

// The states of a run.
const (
	Hole State = iota
	Mapped
	Uninit // allocated, reads as zeros
)

// Run is Len logical blocks in one state; Physical is the first physical block unless it is a hole.
type Run struct {
	Physical uint64
	Len      uint32
	State    State
}

// Map tells what lblk and the blocks after it are, at most n of them (ext4_map_blocks without creating). It takes DataSem shared.
func Map(i *inode.Inode, lblk, n uint32) (Run, error) {
	i.DataSem.RLock()
	defer i.DataSem.RUnlock()
	return MapLocked(i, lblk, n)
}

// MapLocked is Map for a caller that holds DataSem.
func MapLocked(i *inode.Inode, lblk, n uint32) (Run, error) {
	lock.Reading(&i.Mu)
	lock.Touching(&i.Mu, lock.RawFlags|lock.RawNone)
	i.Mu.Lock()
	fl, e := i.Raw.Flags(), i.Ext
	i.Mu.Unlock()
	if fl&ondisk.FlInlineData != 0 {
		return Run{Len: n}, nil
	}
	if fl&ondisk.FlExtents == 0 {
		return indMap(i, lblk, n)
	}
	if e.Len > 0 && lblk >= e.Logical && uint64(lblk) < e.End() {
		return within(e, lblk, n), nil
	}
	var p path
	defer p.release()
	if err := p.find(i, lblk); err != nil {
		return Run{}, err
	}
	l := p.leaf()
	if l.idx >= 0 {
		e := l.node.Leaf(l.idx)
		if uint64(lblk) < e.End() {
			if !i.FS.ValidBlocks(e.Physical, uint64(e.Len)) {
				return Run{}, i.FS.Corrupted(i.Ino, e.Physical, "ext4_map_blocks", ondisk.Corrupt(i.Name(), "extent of %d blocks at %d is not data", e.Len, e.Physical))
			}
			lock.Touching(&i.Mu, lock.RawNone)
			i.Mu.Lock()
			i.Ext = e
			i.Mu.Unlock()
			return within(e, lblk, n), nil
		}
	}
	next := uint64(ondisk.MaxLogical)
	if l.idx+1 < l.node.Entries() {
		next = uint64(l.node.Leaf(l.idx + 1).Logical)
	} else {
		for at := len(p.lv) - 2; at >= 0; at-- {
			if u := p.lv[at]; u.idx+1 < u.node.Entries() {
				k, _ := u.node.Index(u.idx + 1)
				next = uint64(k)
				break
			}
		}
	}
	return Run{Len: uint32(min(uint64(n), max(next-uint64(lblk), 1)))}, nil
}

func within(e ondisk.Extent, lblk, n uint32) Run {
	off := lblk - e.Logical
	r := Run{Physical: e.Physical + uint64(off), Len: min(n, e.Len-off), State: Mapped}
	if e.Uninit {
		r.State = Uninit
	}
	return r
}

func forget(i *inode.Inode) {
	lock.Touching(&i.Mu, lock.RawNone)
	i.Mu.Lock()
	i.Ext = ondisk.Extent{}
	i.Mu.Unlock()
}

// SetCredits is what Set needs: splits on every level, the inode.
const SetCredits = 3*(alloc.Credits+6) + 4

// SetLocked maps [lblk, lblk+n), a hole, to physical blocks. The caller holds DataSem exclusively and marks the inode dirty.
func SetLocked(h *journal.Handle, i *inode.Inode, lblk, n uint32, phys uint64, uninit bool) error {
	forget(i)
	if i.Flags()&ondisk.FlExtents == 0 {
		return indSet(h, i, lblk, n, phys)
	}
	return insert(h, i, ondisk.Extent{Logical: lblk, Len: n, Physical: phys, Uninit: uninit})
}

// ErrInline says that the file is inline, or is being converted by another task, where a block was to be mapped: the state that
// ext4_do_writepages meets with BUG_ON.
var ErrInline = errors.New("inline data where a block is to be mapped")

// Set is SetLocked with DataSem taken. ErrInline when the file is inline data, or a conversion has mapped the blocks, by now.
func Set(h *journal.Handle, i *inode.Inode, lblk, n uint32, phys uint64, uninit bool) error {
	i.DataSem.Lock()
	defer i.DataSem.Unlock()
	if i.Converting || i.HasInline() {
		return fmt.Errorf("%s: %w", i.Name(), ErrInline)
	}
	// The caller saw a hole without DataSem; only a conversion without the inode lock can have filled it since.
	if r, err := MapLocked(i, lblk, n); err != nil || r.State != Hole || r.Len < n {
		if err == nil {
			err = fmt.Errorf("%s: block %d is mapped by now: %w", i.Name(), lblk, ErrInline)
		}
		return err
	}
	return SetLocked(h, i, lblk, n, phys, uninit)
}

// SetInit turns [lblk, lblk+n), part of one uninitialized extent, into an initialized one (ext4_ext_convert_to_initialized).
func SetInit(h *journal.Handle, i *inode.Inode, lblk, n uint32) error {
	return mark(h, i, lblk, n, false)
}

// SetUninit turns [lblk, lblk+n), part of one initialized extent, into an uninitialized one.
func SetUninit(h *journal.Handle, i *inode.Inode, lblk, n uint32) error {
	return mark(h, i, lblk, n, true)
}

func mark(h *journal.Handle, i *inode.Inode, lblk, n uint32, uninit bool) error {
	i.DataSem.Lock()
	defer i.DataSem.Unlock()
	forget(i)
	var p path
	defer p.release()
	if err := p.find(i, lblk); err != nil {
		return err
	}
	l := p.leaf()
	if l.idx < 0 || uint64(lblk)+uint64(n) > l.node.Leaf(l.idx).End() || l.node.Leaf(l.idx).Uninit == uninit {
		return i.FS.Corrupted(i.Ino, 0, "ext4_ext_convert", ondisk.Corrupt(i.Name(), "blocks %d to %d are not in one extent to be changed", lblk, lblk+n-1))
	}
	e := l.node.Leaf(l.idx)
	off := lblk - e.Logical
	mid := ondisk.Extent{Logical: lblk, Len: n, Physical: e.Physical + uint64(off), Uninit: uninit}
	var with []ondisk.Extent
	if off > 0 {
		with = append(with, ondisk.Extent{Logical: e.Logical, Len: off, Physical: e.Physical, Uninit: e.Uninit})
	}
	with = append(with, mid)
	if uint64(lblk)+uint64(n) < e.End() {
		with = append(with, ondisk.Extent{Logical: lblk + n, Len: uint32(e.End() - mid.End()), Physical: mid.Physical + uint64(n), Uninit: e.Uninit})
	}
	// Grow the initialized neighbour instead of making a new entry: the common sequential write into preallocated blocks.
	if off == 0 && l.idx > 0 && joins(l.node.Leaf(l.idx-1), mid) {
		return growLeft(h, i, &p, mid, with[1:])
	}
	return replace(h, i, &p, lblk, with)
}

// growLeft adds mid to the entry before, and leaves rest (or nothing) in the present entry's place.
func growLeft(h *journal.Handle, i *inode.Inode, p *path, mid ondisk.Extent, rest []ondisk.Extent) error {
	l := p.leaf()
	return p.change(h, i, len(p.lv)-1, func(n ondisk.ExtentNode) {
		left := n.Leaf(l.idx - 1)
		left.Len += mid.Len
		n.SetLeaf(l.idx-1, left)
		if len(rest) == 0 {
			n.RemoveAt(l.idx)
		} else {
			n.SetLeaf(l.idx, rest[0])
		}
	})
}

// RemoveCredits is what one RemoveSome needs; it must fit the smallest journal (256 credits).
const (
	removeBatch   = 8
	RemoveCredits = removeBatch*alloc.Credits*5 + 24
)

// RemoveSome unmaps and frees blocks of [lo, hi), from the end, a batch at a time; more says that there is more to do. After each
// call the inode is consistent; the caller marks it dirty. It takes DataSem.
func RemoveSome(h *journal.Handle, i *inode.Inode, lo, hi uint32) (more bool, err error) {
	i.DataSem.Lock()
	defer i.DataSem.Unlock()
	forget(i)
	fl := i.Flags()
	if fl&ondisk.FlInlineData != 0 || lo >= hi {
		return false, nil
	}
	if fl&ondisk.FlExtents == 0 {
		return indRemove(h, i, lo, hi)
	}
	var p path
	defer p.release()
	for range removeBatch {
		if err := p.find(i, hi-1); err != nil {
			return false, err
		}
		l := p.leaf()
		if l.idx < 0 {
			return false, nil
		}
		e := l.node.Leaf(l.idx)
		if e.End() <= uint64(lo) {
			return false, nil
		}
		if err := removeOne(h, i, &p, e, lo, hi); err != nil {
			return false, err
		}
	}
	return true, nil
}

// buffered says whether the inode's blocks are metadata blocks: those of directories and symbolic links go through the cache, so a
// freed one must be forgotten there and in the log.
func buffered(i *inode.Inode) bool { return !i.IsReg() }

// maxRevokes bounds the directory blocks freed at once: each needs a revoke record in the log.
const maxRevokes = 256

// removeOne cuts [lo, hi) out of extent e at the end of p and frees the blocks.
func removeOne(h *journal.Handle, i *inode.Inode, p *path, e ondisk.Extent, lo, hi uint32) error {
	from, to := max(e.Logical, lo), uint32(min(e.End(), uint64(hi)))
	if to-from > maxRevokes && buffered(i) {
		from = to - maxRevokes
	}
	cut := ondisk.Extent{Len: to - from, Physical: e.Physical + uint64(from-e.Logical)}
	var keep []ondisk.Extent
	if from > e.Logical {
		k := e
		k.Len = from - e.Logical
		keep = append(keep, k)
	}
	if uint64(to) < e.End() {
		keep = append(keep, ondisk.Extent{Logical: to, Len: uint32(e.End() - uint64(to)), Physical: e.Physical + uint64(to-e.Logical), Uninit: e.Uninit})
	}
	var err error
	if len(keep) == 0 {
		err = dropEntry(h, i, p)
	} else {
		err = replace(h, i, p, hi-1, keep)
	}
	if err != nil {
		return err
	}
	if err := i.AddSectors(-int64(cut.Len) * int64(i.FS.BlockSize/512)); err != nil {
		return i.FS.Corrupted(i.Ino, 0, "ext4_remove_blocks", err)
	}
	return alloc.FreeBlocks(h, i, cut.Physical, cut.Len, buffered(i))
}

// GetBlock returns block lblk of a directory or other metadata file. A hole there is corruption.
func GetBlock(i *inode.Inode, lblk uint32) (*buffer.Head, error) {
	r, err := Map(i, lblk, 1)
	if err != nil {
		return nil, err
	}
	if r.State != Mapped {
		return nil, i.FS.Corrupted(i.Ino, 0, "ext4_bread", ondisk.Corrupt(i.Name(), "hole at block %d of a directory", lblk))
	}
	b, err := i.FS.Bufs.Read(r.Physical)
	if err != nil {
		return nil, i.FS.Corrupted(i.Ino, r.Physical, "ext4_bread", err)
	}
	return b, nil
}

// AppendCredits is what AppendBlock needs.
const AppendCredits = alloc.Credits + SetCredits + 1

// AppendBlock allocates and maps block lblk of a directory (ext4_append). The buffer is returned zeroed, locked, with create access
// taken: the caller fills it, unlocks it, calls DirtyMetadata and Release, and grows i_size. Errors: fserr.NoSpace.
func AppendBlock(h *journal.Handle, i *inode.Inode, lblk uint32) (*buffer.Head, error) {
	goal := i.Goal
	if lblk > 0 {
		if r, err := Map(i, lblk-1, 1); err == nil && r.State == Mapped {
			goal = r.Physical + 1
		}
	}
	blk, err := alloc.NewBlock(h, i, goal)
	if err != nil {
		return nil, err
	}
	if err := Set(h, i, lblk, 1, blk, false); err != nil {
		return nil, undo(h, i, blk, 1, err)
	}
	if err := i.AddSectors(int64(i.FS.BlockSize / 512)); err != nil {
		return nil, err
	}
	b := i.FS.Bufs.Get(blk)
	b.Lock()
	if err := h.GetCreateAccess(b); err != nil {
		b.Unlock()
		b.Release()
		return nil, err
	}
	clear(b.Data())
	b.SetUptodate()
	b.SetVerified()
	return b, nil
}

// undo gives blocks back after err and returns err.
func undo(h *journal.Handle, i *inode.Inode, blk uint64, n uint32, err error) error {
	if e := alloc.FreeBlocks(h, i, blk, n, false); e != nil {
		return fmt.Errorf("%w (and blocks %d to %d leak: %w)", err, blk, blk+uint64(n)-1, e)
	}
	return err
}

// MaxBlocks is one past the last logical block that the inode's map can hold.
func MaxBlocks(i *inode.Inode) uint64 {
	if i.Flags()&ondisk.FlExtents != 0 {
		return ondisk.MaxLogical
	}
	n := uint64(i.FS.BlockSize / 4)
	return min(ondisk.NDirect+n+n*n+n*n*n, ondisk.MaxLogical)
}

// errTooBig names the file and where it would end.
func errTooBig(i *inode.Inode, end uint64) error {
	return fmt.Errorf("%s: %d bytes: %w", i.Name(), end, fserr.TooBig)
}
