package inline

import (
	"inlinefs/inode"
	"inlinefs/journal"
)

// mmapConv converts when a shared-writable mmap(2) is announced, under the inode lock, before the mapping exists (Li v1 and v2 2023,
// Cascardo v2 2025).
//
// Lock order: i_rwsem, handle, xattr_sem, i_data_sem.
// Prevents: the flip under a write(2), which holds i_rwsem from begin to end.
// Costs: files are converted that are mapped and never stored to; mmap(2) fails with ENOSPC where a store would have.
// Known failure in the kernel: ->mmap runs under mmap_lock, which write(2) takes inside i_rwsem to copy from its buffer; a real hook
// must run before mmap_lock. Here the announcement comes from seccomp before mmap_lock is taken.
// A fault that nobody announced converts nothing: the page is filled from the inode, and what is stored to it comes back to the inode,
// or to the block if the file was converted meanwhile. Nothing is lost, and no flag changes without the inode lock.
type mmapConv struct{}

var _ = register(mmapConv{})

func (mmapConv) Name() string { return "mmap" }

// BeforeMmap: idle, this strategy stands for ->mmap itself.
func (mmapConv) BeforeMmap(*Engine, *journal.Task, *inode.Inode) error { return nil }

// MmapLocked converts under the inode lock; an error makes mmap(2) fail.
func (mmapConv) MmapLocked(e *Engine, t *journal.Task, i *inode.Inode) error {
	i.Rw.Lock()
	defer i.Rw.Unlock()
	return e.Convert(t, i)
}

// PageMkwrite: idle; an unannounced fault is served from the inode.
func (mmapConv) PageMkwrite(*Engine, *journal.Task, *inode.Inode) error { return nil }

// FaultRetry: idle.
func (mmapConv) FaultRetry(*Engine, *journal.Task, *inode.Inode) error { return nil }

// Writepage copies the stored bytes into the inode.
func (mmapConv) Writepage(e *Engine, t *journal.Task, i *inode.Inode, p []byte, off uint64) error {
	return e.copyToInode(t, i, p, off)
}
