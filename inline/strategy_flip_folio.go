package inline

import (
	"inlinefs/inode"
	"inlinefs/journal"
)

// flipFolio is flip with folio 0 locked: the block is held in memory and written first, then one short handle takes folio 0, checks that
// the file is still inline and its bytes are those that were written, and flips. An inline write(2) holds folio 0 from begin to end.
//
// Lock order: mmap_lock, invalidate_lock, handle, folio 0, xattr_sem, i_data_sem: the kernel's order; never i_rwsem.
// Prevents: the flip back (a conversion that fails has changed nothing), the forward flip under an inline write(2) (it has folio 0), and
// the leak (the block is nobody's until the handle that maps it).
// Costs: one conversion in the first fault; a second write of the block when a write(2) came between.
// Precedent: Ts'o 2025-07-11 for the order of steps; the folio rule is this project's.
// Known failure: none found; docs/strategies.md has the argument and what was explored.
type flipFolio struct{}

var _ = register(flipFolio{})

func (flipFolio) Name() string { return "flip_folio" }

// BeforeMmap: idle, the fault converts.
func (flipFolio) BeforeMmap(*Engine, *journal.Task, *inode.Inode) error { return nil }

// MmapLocked: idle, the fault converts.
func (flipFolio) MmapLocked(*Engine, *journal.Task, *inode.Inode) error { return nil }

// PageMkwrite flips under folio 0.
func (flipFolio) PageMkwrite(e *Engine, t *journal.Task, i *inode.Inode) error {
	return e.convertFlipFolio(t, i)
}

// FaultRetry: idle, PageMkwrite never asks for it.
func (flipFolio) FaultRetry(*Engine, *journal.Task, *inode.Inode) error { return nil }

// Writepage: only a page that was dirtied before observation began is inline here.
func (flipFolio) Writepage(e *Engine, t *journal.Task, i *inode.Inode, p []byte, off uint64) error {
	return e.storeMapped(t, i, p, off)
}
