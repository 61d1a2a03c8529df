package alloc

import (
	"fmt"

	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// Hold finds a free block near goal and keeps it from everybody else, in memory only: it needs no handle, and a crash forgets it (what an
// in-core preallocation is to mballoc). Claim or Unhold must follow. Errors: those of NewBlock.
func Hold(t *journal.Task, i *inode.Inode, goal uint64) (uint64, error) {
	f := i.FS
	free := f.FreeBlocks()
	if t.UID != 0 {
		free -= int64(f.Reserved)
	}
	if free < 1 {
		return 0, fmt.Errorf("a block for %s: %w", i.Name(), fserr.NoSpace)
	}
	if err := f.Inject("alloc", uint64(i.Ino)); err != nil {
		return 0, err
	}
	if goal <= f.FirstData || goal >= f.Blocks {
		goal = Goal(i)
	}
	first, idx := f.GroupOf(max(goal, f.FirstData))
	var firstErr error
	for n := uint32(0); n < f.Groups(); n++ {
		from := idx
		if n > 0 {
			from = 0
		}
		blk, ok, err := holdInGroup(f, f.Group((first+n)%f.Groups()), from, n == 0)
		if ok {
			return blk, nil
		}
		firstErr = worse(firstErr, err)
	}
	if firstErr == nil {
		firstErr = fserr.NoSpace
	}
	return 0, fmt.Errorf("a block for %s: %w", i.Name(), firstErr)
}

func holdInGroup(f *super.FS, g *super.Group, from uint32, atGoal bool) (uint64, bool, error) {
	g.Mu.Lock()
	defer g.Mu.Unlock()
	if g.BlocksCorrupt || g.Desc.FreeBlocks() == 0 || g.LargestFree < 1 && !atGoal {
		return 0, false, nil
	}
	b, err := blockBitmap(f, g)
	if err != nil {
		return 0, false, err
	}
	defer b.Release()
	start, got := search(g, b.Data(), from, f.GroupLen(g.No), atGoal, 1, 1)
	if got == 0 {
		return 0, false, nil
	}
	blk := f.GroupFirst(g.No) + uint64(start)
	if !f.ValidBlocks(blk, 1) {
		err := ondisk.Corrupt(fmt.Sprintf("group %d", g.No), "free block at %d overlaps metadata", start)
		return 0, false, f.GroupError(g, false, "ext4_mb_mark_diskspace_used", err)
	}
	g.Busy = append(g.Busy, super.Run{Start: start, Len: 1})
	g.Hint = start + 1
	return blk, true, nil
}

// Claim makes a held block one that is in use, under h. On error it is held no more. Credits.
func Claim(h *journal.Handle, i *inode.Inode, blk uint64) error {
	f := i.FS
	gn, idx := f.GroupOf(blk)
	g := f.Group(gn)
	g.Mu.Lock()
	defer g.Mu.Unlock()
	g.Unbusy(super.Run{Start: idx, Len: 1})
	b, err := blockBitmap(f, g)
	if err != nil {
		return err
	}
	defer b.Release()
	return markUsed(f, h, g, b, idx, 1)
}

// Unhold gives a held block back.
func Unhold(i *inode.Inode, blk uint64) {
	gn, idx := i.FS.GroupOf(blk)
	g := i.FS.Group(gn)
	g.Mu.Lock()
	defer g.Mu.Unlock()
	g.Unbusy(super.Run{Start: idx, Len: 1})
}
