package inline

import (
	"inlinefs/inode"
	"inlinefs/journal"
)

// premmap converts when a shared-writable mmap(2) is announced, under the inode lock, before mmap_lock is taken.
//
// Lock order: i_rwsem, handle, xattr_sem, i_data_sem; mmap_lock is not held.
// Prevents: the flip under a write(2), and the inversion of mmap.
// Costs: files are converted that are mapped and never stored to; mmap(2) fails with ENOSPC where a store would have. A hook before
// mmap_lock is needed: the kernel has none (here seccomp announces the call).
// Precedent: Ts'o's pre_mmap; Kara: mmap_prepare is the right direction but a larger rewrite.
// Known failure: none where mmap(2) is announced. A mapping that nobody announced (a process not under the listener) stores to an inline
// file: those bytes come back at write-back, into the inode, under the inode lock, which the kernel's write-back could not take.
type premmap struct{}

var _ = register(premmap{})

func (premmap) Name() string { return "premmap" }

// BeforeMmap converts under the inode lock; an error makes mmap(2) fail.
func (premmap) BeforeMmap(e *Engine, t *journal.Task, i *inode.Inode) error {
	i.LockRw(t)
	defer i.UnlockRw(t)
	return e.Convert(t, i)
}

// MmapLocked: idle, the file was converted before.
func (premmap) MmapLocked(*Engine, *journal.Task, *inode.Inode) error { return nil }

// PageMkwrite: idle; an unannounced fault is served from the inode.
func (premmap) PageMkwrite(*Engine, *journal.Task, *inode.Inode) error { return nil }

// FaultRetry: idle, PageMkwrite never asks for it.
func (premmap) FaultRetry(*Engine, *journal.Task, *inode.Inode) error { return nil }

// Writepage copies the stored bytes of an unannounced mapping into the inode.
func (premmap) Writepage(e *Engine, t *journal.Task, i *inode.Inode, p []byte, off uint64) error {
	return e.storeMapped(t, i, p, off)
}
