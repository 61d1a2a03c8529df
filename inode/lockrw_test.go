package inode_test

import (
	"sync"
	"testing"

	"inlinefs/internal/lock"
	"inlinefs/internal/testfs"
	"inlinefs/mm"
)

// TestLockRwKillableIsChecked: i_rwsem under mmap_lock is against the order, though it is tried for and got at once, and it is held
// afterwards: what is taken under it is judged as well, and nothing is left when it is given back.
func TestLockRwKillableIsChecked(t *testing.T) {
	if !lock.Checking {
		t.Skip("lock order is checked with -tags deadlock")
	}
	var mu sync.Mutex
	var got []lock.Report
	lock.OnCycle(func(r lock.Report) {
		mu.Lock()
		got = append(got, r)
		mu.Unlock()
	})
	t.Cleanup(func() { lock.OnCycle(nil) })
	want := func(taken, held string) {
		t.Helper()
		if len(got) != 1 || got[0].Kind != lock.KindRank || got[0].Taken != taken || got[0].Held != held {
			t.Fatalf("%d reports, want one of %s under %s: %+v", len(got), taken, held, got)
		}
		got = nil
	}
	f := testfs.Make(t, options())
	i := f.NewFile()
	defer f.Put(i)
	f.Task.Mm = mm.NewShadow().Begin(0, "mmap", f.Task.ID)
	f.Task.Mm.Space = mm.NewAddressSpace(77)
	defer func() { f.Task.Mm = nil }()
	f.Task.Mm.LockMmap()
	must(t, i.LockRwKillable(f.Task))
	want("i_rwsem", "mmap_lock")
	var rename lock.Mutex
	lock.NameMutex(&rename, lock.Rename, 0)
	f.Task.Mm.UnlockMmap()
	rename.Lock()
	rename.Unlock()
	want("s_vfs_rename_mutex", "i_rwsem")
	i.UnlockRw(f.Task)
	rename.Lock() // under nothing
	rename.Unlock()
	if len(got) != 0 {
		t.Errorf("a report of what was given back: %+v", got)
	}
}
