package journal

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// TestCommitWaitsForHandles: a transaction is not committed under a handle that is open in it, and lets nobody in meanwhile. The bubble tells
// a commit that waits from one that is on its way.
func TestCommitWaitsForHandles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLog(t)
		task := l.j.NewTask("open", 0)
		h, err := l.j.Start(task, Misc, 2)
		if err != nil {
			t.Fatal(err)
		}
		l.put(t, h, 30, 1)
		tid := h.Tid()
		var committed, joined atomic.Bool
		var next atomic.Uint32
		go func() {
			if err := l.j.Commit(); err != nil {
				t.Errorf("commit: %v", err)
			}
			committed.Store(true)
		}()
		synctest.Wait()
		if committed.Load() {
			t.Errorf("transaction %d was committed under an open handle", tid)
		}
		go func() {
			next.Store(l.change(t, 3, 32))
			joined.Store(true)
		}()
		synctest.Wait()
		if joined.Load() {
			t.Errorf("a handle was let into transaction %d while %d waits for its last handle", next.Load(), tid)
		}
		l.put(t, h, 31, 2)
		if err := errors.Join(h.Stop(), task.End()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if !committed.Load() || !joined.Load() || next.Load() != tid+1 {
			t.Errorf("after the last handle: committed %v, the next handle began %v, in transaction %d, want %d", committed.Load(), joined.Load(),
				next.Load(), tid+1)
		}
		wantBlocks(t, l.crash(t), map[uint64]uint64{30: 1, 31: 2, 32: 0})
	})
}
