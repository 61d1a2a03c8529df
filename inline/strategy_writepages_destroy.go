package inline

import (
	"inlinefs/inode"
	"inlinefs/journal"
)

// writepagesDestroy converts nothing in the fault; write-back of a dirty page of an inline file destroys the inline data, as if the
// page were a delayed allocation.
//
// Lock order: handle, xattr_sem, i_data_sem; never i_rwsem.
// Prevents: the BUG_ON in ext4_do_writepages, and any wait in the fault.
// Costs: the data.
// Precedent: Cascardo v1 2025-05-19.
// Known failure: no block was reserved for the page, so that it is skipped: the stores and the inline bytes are lost (Ts'o 2025-05-20); and
// clearing MAY_INLINE_DATA without i_rwsem pulls it away under a write(2) between begin and end (Kara 2025-05-26).
type writepagesDestroy struct{}

var _ = register(writepagesDestroy{})

func (writepagesDestroy) Name() string { return "writepages_destroy" }

// BeforeMmap: idle, a mapping changes nothing.
func (writepagesDestroy) BeforeMmap(*Engine, *journal.Task, *inode.Inode) error { return nil }

// MmapLocked: idle, a mapping changes nothing.
func (writepagesDestroy) MmapLocked(*Engine, *journal.Task, *inode.Inode) error { return nil }

// PageMkwrite: idle, the page is dirtied and the file stays inline.
func (writepagesDestroy) PageMkwrite(*Engine, *journal.Task, *inode.Inode) error { return nil }

// FaultRetry: idle, PageMkwrite never asks for it.
func (writepagesDestroy) FaultRetry(*Engine, *journal.Task, *inode.Inode) error { return nil }

// Writepage destroys the inline data; the page, without a block, is skipped.
func (writepagesDestroy) Writepage(e *Engine, t *journal.Task, i *inode.Inode, _ []byte, _ uint64) error {
	return e.destroyForWriteback(t, i)
}
