package inline

import (
	"inlinefs/inode"
	"inlinefs/journal"
)

// retry drops mmap_lock in the fault, converts under the inode lock, and lets the fault be tried again.
//
// Lock order: i_rwsem, handle, xattr_sem, i_data_sem, all after mmap_lock and invalidate_lock were dropped.
// Prevents: the flip under a write(2), and the inversion of mkwrite_ilock.
// Costs: the fault runs twice; nothing is converted that is not touched.
// Precedent: Li 2024-04 (VM_FAULT_RETRY).
// Known failure: some get_user_pages callers forbid a retry (no FAULT_FLAG_ALLOW_RETRY): their fault cannot be served and is SIGBUS.
type retry struct{}

var _ = register(retry{})

func (retry) Name() string { return "retry" }

// BeforeMmap: idle, the fault converts.
func (retry) BeforeMmap(*Engine, *journal.Task, *inode.Inode) error { return nil }

// MmapLocked: idle, the fault converts.
func (retry) MmapLocked(*Engine, *journal.Task, *inode.Inode) error { return nil }

// PageMkwrite asks for a retry while the file is inline, or may become so.
func (retry) PageMkwrite(_ *Engine, _ *journal.Task, i *inode.Inode) error {
	if i.HasInline() || i.MayInline.Load() {
		return ErrRetry
	}
	return nil
}

// FaultRetry converts under the inode lock.
func (retry) FaultRetry(e *Engine, t *journal.Task, i *inode.Inode) error {
	i.LockRw(t)
	defer i.UnlockRw(t)
	return e.Convert(t, i)
}

// Writepage: only a page that was dirtied before observation began is inline here.
func (retry) Writepage(e *Engine, t *journal.Task, i *inode.Inode, p []byte, off uint64) error {
	return e.storeMapped(t, i, p, off)
}
