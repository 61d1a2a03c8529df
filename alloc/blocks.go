package alloc

import (
	"fmt"

	"inlinefs/buffer"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// Goal is where the first block of i should go (ext4_inode_to_goal_block).
func Goal(i *inode.Inode) uint64 {
	f := i.FS
	g := (i.Ino - 1) / f.InodesPerGroup
	if f.GroupsPerFlex >= 4 {
		g &^= f.GroupsPerFlex - 1
		if i.IsReg() && g+1 < f.Groups() {
			g++
		}
	}
	return f.GroupFirst(g)
}

// NewBlock takes one block near goal. Errors: fserr.NoSpace, also when the only groups left are known to be damaged;
// a CorruptError for one whose bitmap has just failed its checksum.
func NewBlock(h *journal.Handle, i *inode.Inode, goal uint64) (uint64, error) {
	blk, _, err := NewBlocks(h, i, goal, 1)
	return blk, err
}

// NewBlocks takes a run of up to want blocks, at goal if that is free, else where a long run is (ext4_mb_new_blocks). It returns the
// first block and the run's length.
func NewBlocks(h *journal.Handle, i *inode.Inode, goal uint64, want uint32) (uint64, uint32, error) {
	f := i.FS
	free := f.FreeBlocks()
	if h.Task().UID != 0 {
		free -= int64(f.Reserved)
	}
	if free < 1 {
		return 0, 0, fmt.Errorf("%d blocks for %s: %w", want, i.Name(), fserr.NoSpace)
	}
	if err := f.Inject("alloc", uint64(i.Ino)); err != nil {
		return 0, 0, err
	}
	want = min(want, uint32(min(free, int64(f.BlocksPerGroup))), ondisk.ExtentInitMax)
	if goal <= f.FirstData || goal >= f.Blocks {
		goal = Goal(i)
	}
	first, idx := f.GroupOf(max(goal, f.FirstData))
	var firstErr error
	// Pass 0 takes only a run of full length (or the goal itself), pass 1 half of it, pass 2 anything.
	for pass, need := range [3]uint32{want, max(want/8, 1), 1} {
		if pass > 0 && need == want && want > 1 {
			continue
		}
		for n := uint32(0); n < f.Groups(); n++ {
			g := f.Group((first + n) % f.Groups())
			from := idx
			if n > 0 {
				from = 0
			}
			blk, got, err := inGroup(f, h, g, from, n == 0, need, want)
			firstErr = worse(firstErr, err)
			if got > 0 || err != nil && h.Journal().Aborted() != nil {
				return blk, got, err
			}
		}
		if want == 1 {
			break
		}
	}
	if firstErr == nil {
		firstErr = fserr.NoSpace
	}
	return 0, 0, fmt.Errorf("%d blocks for %s: %w", want, i.Name(), firstErr)
}

// inGroup takes a run of need to want blocks in g, searching from index from; atGoal takes a shorter run if it begins there.
func inGroup(f *super.FS, h *journal.Handle, g *super.Group, from uint32, atGoal bool, need, want uint32) (uint64, uint32, error) {
	g.Mu.Lock()
	defer g.Mu.Unlock()
	if g.BlocksCorrupt || g.Desc.FreeBlocks() == 0 || g.LargestFree < need && !atGoal {
		return 0, 0, nil
	}
	b, err := blockBitmap(f, g)
	if err != nil {
		return 0, 0, err
	}
	defer b.Release()
	n := f.GroupLen(g.No)
	start, got := search(g, b.Data(), from, n, atGoal, need, want)
	if got == 0 {
		return 0, 0, nil
	}
	blk := f.GroupFirst(g.No) + uint64(start)
	if !f.ValidBlocks(blk, uint64(got)) {
		err := ondisk.Corrupt(fmt.Sprintf("group %d", g.No), "free run of %d blocks at %d overlaps metadata", got, blk)
		return 0, 0, f.GroupError(g, false, "ext4_mb_mark_diskspace_used", err)
	}
	if err := markUsed(f, h, g, b, start, got); err != nil {
		return 0, 0, err
	}
	g.Hint = start + got
	return blk, got, nil
}

func markUsed(f *super.FS, h *journal.Handle, g *super.Group, b *buffer.Head, start, got uint32) error {
	if err := h.GetWriteAccess(b); err != nil {
		return err
	}
	b.Lock()
	for k := start; k < start+got; k++ {
		setBit(b.Data(), k)
	}
	b.Unlock()
	g.Desc.SetFreeBlocks(g.Desc.FreeBlocks() - got)
	f.AddFree(-int64(got), 0)
	return putBlocks(f, h, g, b)
}

// search finds a run in bitmap bm of n bits; the caller holds g.Mu.
func search(g *super.Group, bm []byte, from, n uint32, atGoal bool, need, want uint32) (start, got uint32) {
	free := func(i uint32) uint32 { return g.NotBusy(i, runLen(bm, i, n, want)) }
	if atGoal && from < n && !testBit(bm, from) {
		if l := free(from); l > 0 {
			return from, l
		}
	}
	if !atGoal {
		from = 0
		if want == 1 && g.Hint < n {
			from = g.Hint
		}
	}
	var best, bestLen, largest uint32
	for _, r := range [2][2]uint32{{from, n}, {0, min(from, n)}} {
		for i := nextZero(bm, r[0], r[1]); i < r[1]; i = nextZero(bm, i, r[1]) {
			l := free(i)
			if l >= want {
				return i, want
			}
			if l > bestLen {
				best, bestLen = i, l
			}
			largest = max(largest, l)
			i += max(l, 1)
		}
	}
	if bestLen >= need {
		return best, bestLen
	}
	g.LargestFree = largest
	return 0, 0
}

// FreeBlocks gives n blocks from start back (ext4_free_blocks). With metadata set each block is also forgotten: it may be in the log.
// Blocks that are not in use, or belong to the file system's own metadata, are corruption: the error names them and the rest is kept.
func FreeBlocks(h *journal.Handle, i *inode.Inode, start uint64, n uint32, metadata bool) error {
	f := i.FS
	if !f.ValidBlocks(start, uint64(n)) {
		err := ondisk.Corrupt(i.Name(), "frees blocks %d to %d, which are not data blocks", start, start+uint64(n)-1)
		return f.Corrupted(i.Ino, start, "ext4_free_blocks", err)
	}
	for k := uint64(0); k < uint64(n); k++ {
		if metadata {
			if err := h.Forget(start + k); err != nil {
				return err
			}
		}
	}
	for n > 0 {
		gn, idx := f.GroupOf(start)
		c := min(n, f.GroupLen(gn)-idx)
		if err := freeInGroup(f, h, i, f.Group(gn), idx, c); err != nil {
			return err
		}
		start += uint64(c)
		n -= c
	}
	return nil
}

func freeInGroup(f *super.FS, h *journal.Handle, i *inode.Inode, g *super.Group, idx, n uint32) error {
	g.Mu.Lock()
	defer g.Mu.Unlock()
	if g.BlocksCorrupt {
		return nil // leaked, as in the kernel: the bitmap cannot be trusted
	}
	b, err := blockBitmap(f, g)
	if err != nil {
		return nil // reported and marked by blockBitmap
	}
	defer b.Release()
	for k := idx; k < idx+n; k++ {
		if !testBit(b.Data(), k) {
			err := ondisk.Corrupt(fmt.Sprintf("group %d", g.No), "bit already cleared for block %d of %s", f.GroupFirst(g.No)+uint64(k), i.Name())
			return f.GroupError(g, false, "mb_free_blocks", err)
		}
	}
	if err := h.GetWriteAccess(b); err != nil {
		return err
	}
	b.Lock()
	for k := idx; k < idx+n; k++ {
		clearBit(b.Data(), k)
	}
	b.Unlock()
	g.Desc.SetFreeBlocks(g.Desc.FreeBlocks() + n)
	g.LargestFree = ^uint32(0)
	f.AddFree(int64(n), 0)
	if h.Journal().Journalled() {
		g.HoldBusy(super.Run{Start: idx, Len: n}, h.OnCommit)
	}
	return putBlocks(f, h, g, b)
}
