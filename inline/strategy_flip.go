package inline

import (
	"inlinefs/inode"
	"inlinefs/journal"
)

// flip takes a block and writes it first; only then one short handle flips the inode. There is nothing to restore.
//
// Lock order: mmap_lock, invalidate_lock, handle, xattr_sem, i_data_sem; never i_rwsem.
// Prevents: the flip back: a conversion that fails has changed nothing.
// Costs: one conversion in the first fault; two short handles.
// Precedent: Ts'o 2025-07-11, the maintainer's design; not implemented on the list.
// Known failure: the forward flip remains: a write(2) that began inline may end on a file that is not (its handle stays open), and a
// crash between the two handles leaks the block.
type flip struct{}

var _ = register(flip{})

func (flip) Name() string { return "flip" }

// BeforeMmap: idle, the fault converts.
func (flip) BeforeMmap(*Engine, *journal.Task, *inode.Inode) error { return nil }

// MmapLocked: idle, the fault converts.
func (flip) MmapLocked(*Engine, *journal.Task, *inode.Inode) error { return nil }

// PageMkwrite flips, without the inode lock and without folio 0.
func (flip) PageMkwrite(e *Engine, t *journal.Task, i *inode.Inode) error {
	return e.convertFlipTwice(t, i)
}

// FaultRetry: idle, PageMkwrite never asks for it.
func (flip) FaultRetry(*Engine, *journal.Task, *inode.Inode) error { return nil }

// Writepage: only a page that was dirtied before observation began is inline here.
func (flip) Writepage(e *Engine, t *journal.Task, i *inode.Inode, p []byte, off uint64) error {
	return e.storeMapped(t, i, p, off)
}
