package inline_test

import (
	"sync/atomic"
	"testing"

	"inlinefs/internal/lock"
	"inlinefs/internal/testimage"
)

// ilockCaught says that the lock-checking build has reported mkwrite_ilock, which it does once in a process.
var ilockCaught atomic.Bool

// orderJudged lets the lock-checking build judge the test: a strategy that takes the inode lock in a fault, under invalidate_lock, is
// reported for that and for nothing else, and the others are not reported.
func orderJudged(t *testing.T, strategy string) {
	lock.OnCycle(func(r lock.Report) {
		if strategy != "mkwrite_ilock" || r.Kind != lock.KindRank || r.Taken != lock.Rwsem.Name || r.Held != lock.Invalidate.Name {
			t.Errorf("strategy %s: lock order\n%s", strategy, r.Text)
			return
		}
		ilockCaught.Store(true)
	})
	t.Cleanup(func() { lock.OnCycle(nil) })
}

// TestIlockCaught: one fault is enough to convict mkwrite_ilock, without another thread and without a hang.
func TestIlockCaught(t *testing.T) {
	if !lock.Checking {
		t.Skip("lock order is checked with -tags deadlock")
	}
	s := newScene(t, testimage.Make(t, options(256)), "mkwrite_ilock", false)
	must(t, s.Engine.Fault(s.fault, s.i, noFill))
	if !ilockCaught.Load() {
		t.Error("a fault took the inode lock under invalidate_lock, and no report was made")
	}
}
