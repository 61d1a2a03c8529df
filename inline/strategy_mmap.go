package inline

import (
	"inlinefs/inode"
	"inlinefs/journal"
)

// mmapConv converts at ->mmap of a shared-writable mapping, under the inode lock, before the mapping exists.
//
// Lock order: mmap_lock, i_rwsem, handle, xattr_sem, i_data_sem: against the kernel's, where i_rwsem comes first.
// Prevents: the flip under a write(2), which holds i_rwsem from begin to end.
// Costs: files are converted that are mapped and never stored to; mmap(2) fails with ENOSPC where a store would have.
// Precedent: Li v1 and v2 2023, Cascardo v2 2025-05-26.
// Known failure: ->mmap runs under mmap_lock, held to write; write(2) takes it inside i_rwsem to copy from its buffer (Kara 2025-05-26).
// Here the watchdog breaks the deadlock with EDEADLK to mmap(2).
// A fault that nobody announced converts nothing: the page is filled from the inode, and what is stored to it comes back to the inode,
// or to the block if the file was converted meanwhile. Nothing is lost, and no flag changes without the inode lock.
type mmapConv struct{}

var _ = register(mmapConv{})

func (mmapConv) Name() string { return "mmap" }

// BeforeMmap: idle, this strategy stands for ->mmap itself.
func (mmapConv) BeforeMmap(*Engine, *journal.Task, *inode.Inode) error { return nil }

// MmapLocked converts under the inode lock, taken under mmap_lock; an error makes mmap(2) fail.
func (mmapConv) MmapLocked(e *Engine, t *journal.Task, i *inode.Inode) error {
	if err := i.LockRwKillable(t); err != nil {
		return err
	}
	defer i.UnlockRw(t)
	return e.Convert(t, i)
}

// PageMkwrite: idle; an unannounced fault is served from the inode.
func (mmapConv) PageMkwrite(*Engine, *journal.Task, *inode.Inode) error { return nil }

// FaultRetry: idle, PageMkwrite never asks for it.
func (mmapConv) FaultRetry(*Engine, *journal.Task, *inode.Inode) error { return nil }

// Writepage copies the stored bytes into the inode.
func (mmapConv) Writepage(e *Engine, t *journal.Task, i *inode.Inode, p []byte, off uint64) error {
	return e.storeMapped(t, i, p, off)
}
