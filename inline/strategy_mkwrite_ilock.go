package inline

import (
	"inlinefs/inode"
	"inlinefs/journal"
)

// mkwriteIlock converts inside the page fault under the inode lock.
//
// Lock order: mmap_lock, invalidate_lock, i_rwsem, handle, xattr_sem, i_data_sem: against the kernel's, where i_rwsem comes first.
// Prevents: the flip under a write(2), which holds i_rwsem from begin to end.
// Costs: one conversion in the first fault, which waits for every write(2) to the file.
// Precedent: Jiang 2025-03-30; the seed of this project.
// Known failure: write(2) holds i_rwsem and faults its user buffer, which takes mmap_lock: ABBA as soon as another thread of the process
// waits for mmap_lock to write (Li 2025-03-31). Here the watchdog breaks the cycle with EDEADLK.
type mkwriteIlock struct{}

var _ = register(mkwriteIlock{})

func (mkwriteIlock) Name() string { return "mkwrite_ilock" }

// BeforeMmap: idle, the fault converts.
func (mkwriteIlock) BeforeMmap(*Engine, *journal.Task, *inode.Inode) error { return nil }

// MmapLocked: idle, the fault converts.
func (mkwriteIlock) MmapLocked(*Engine, *journal.Task, *inode.Inode) error { return nil }

// PageMkwrite converts under the inode lock, taken under mmap_lock.
func (mkwriteIlock) PageMkwrite(e *Engine, t *journal.Task, i *inode.Inode) error {
	if err := i.LockRwKillable(t); err != nil {
		return err
	}
	defer i.UnlockRw(t)
	return e.ConvertRestoring(t, i)
}

// FaultRetry: idle, PageMkwrite never asks for it.
func (mkwriteIlock) FaultRetry(*Engine, *journal.Task, *inode.Inode) error { return nil }

// Writepage: only a page that was dirtied before observation began is inline here.
func (mkwriteIlock) Writepage(e *Engine, t *journal.Task, i *inode.Inode, p []byte, off uint64) error {
	return e.storeMapped(t, i, p, off)
}
