package inline

import (
	"inlinefs/inode"
	"inlinefs/journal"
)

// mkwrite converts inside the page fault without the inode lock: what ext4 does since 4.12.
//
// Lock order: mmap_lock, invalidate_lock, handle, xattr_sem, i_data_sem; never i_rwsem.
// Prevents: nothing needs to be known at mmap(2); a mapping that is never stored to leaves the file alone.
// Costs: one conversion in the first fault; SIGBUS when there is no space.
// Precedent: 7b4cc9787fe3 (Biggers 2017), shipped.
// Known failure: a failed conversion destroys and restores under the feet of a write(2) that is between write_begin and write_end,
// which then stops a handle that it never started (BUG_ON in __ext4_journal_stop); one that succeeds leaves a handle open.
type mkwrite struct{}

var _ = register(mkwrite{})

func (mkwrite) Name() string { return "mkwrite" }

// BeforeMmap: idle, ext4 has no such hook.
func (mkwrite) BeforeMmap(*Engine, *journal.Task, *inode.Inode) error { return nil }

// MmapLocked: idle, ext4_file_mmap does not convert.
func (mkwrite) MmapLocked(*Engine, *journal.Task, *inode.Inode) error { return nil }

// PageMkwrite converts, without the inode lock.
func (mkwrite) PageMkwrite(e *Engine, t *journal.Task, i *inode.Inode) error {
	return e.ConvertRestoring(t, i)
}

// FaultRetry: idle, PageMkwrite never asks for it.
func (mkwrite) FaultRetry(*Engine, *journal.Task, *inode.Inode) error { return nil }

// Writepage: a page of an inline file can be dirty only through a fault that happened before the file was opened for observation.
func (mkwrite) Writepage(e *Engine, t *journal.Task, i *inode.Inode, p []byte, off uint64) error {
	return e.storeMapped(t, i, p, off)
}
