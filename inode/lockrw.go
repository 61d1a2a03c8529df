package inode

import (
	"fmt"
	"time"

	"inlinefs/internal/fserr"
	"inlinefs/internal/lock"
	"inlinefs/journal"
	"inlinefs/mm"
)

func (i *Inode) rwID() mm.LockID { return mm.LockID{Class: lock.Rwsem, Instance: uint64(i.Ino)} }

func (i *Inode) invalidateID() mm.LockID {
	return mm.LockID{Class: lock.Invalidate, Instance: uint64(i.Ino)}
}

// LockRw takes Rw exclusively and tells the shadow of the client's locks; UnlockRw gives it back. Only tasks that wait for a lock of mm
// while they hold Rw need to tell.
func (i *Inode) LockRw(t *journal.Task) {
	t.Mm.Wait(i.rwID(), true, false)
	i.Rw.Lock()
	t.Mm.Own(i.rwID(), true)
}

// UnlockRw is the end of LockRw and LockRwKillable.
func (i *Inode) UnlockRw(t *journal.Task) {
	t.Mm.Drop(i.rwID())
	i.Rw.Unlock()
}

// LockRwKillable is LockRw for a task that holds a lock of mm, against the order: it gives up with fserr.Deadlock when the watchdog breaks
// the cycle that it is in. The kernel would hang here. It tries instead of waiting, which the lock-checking build lets pass: the order is
// checked at the entry.
func (i *Inode) LockRwKillable(t *journal.Task) error {
	if t.Mm == nil || lock.Exploring {
		i.LockRw(t) // a scheduler sees the cycle by itself
		return nil
	}
	lock.Enter(lock.Rwsem, uint64(i.Ino))
	err := i.tryRw(t)
	lock.Leave(lock.Rwsem, uint64(i.Ino)) // by now it is held, by trying; no defer, which would keep the function in the plain build
	return err
}

// tryRw tries until it has Rw or the watchdog says that it never will.
func (i *Inode) tryRw(t *journal.Task) error {
	t.Mm.Wait(i.rwID(), true, true)
	for wait := time.Microsecond; !i.Rw.TryLock(); wait = min(2*wait, 100*time.Microsecond) {
		if t.Mm.Broken() {
			t.Mm.GiveUp()
			return fmt.Errorf("%s: i_rwsem under mmap_lock: %w", i.Name(), fserr.Deadlock)
		}
		time.Sleep(wait)
	}
	t.Mm.Own(i.rwID(), true)
	return nil
}

// LockInvalidate takes invalidate_lock exclusively (filemap_invalidate_lock): no page is filled meanwhile. The caller holds Rw.
func (i *Inode) LockInvalidate(t *journal.Task) {
	t.Mm.Wait(i.invalidateID(), true, false)
	i.Map.Invalidate.Lock()
	t.Mm.Own(i.invalidateID(), true)
}

// UnlockInvalidate gives it back.
func (i *Inode) UnlockInvalidate(t *journal.Task) {
	t.Mm.Drop(i.invalidateID())
	i.Map.Invalidate.Unlock()
}

// RLockInvalidate takes invalidate_lock shared, as a fault does.
func (i *Inode) RLockInvalidate(t *journal.Task) {
	t.Mm.Wait(i.invalidateID(), false, false)
	i.Map.Invalidate.RLock()
	t.Mm.Own(i.invalidateID(), false)
}

// RUnlockInvalidate gives it back.
func (i *Inode) RUnlockInvalidate(t *journal.Task) {
	t.Mm.Drop(i.invalidateID())
	i.Map.Invalidate.RUnlock()
}
