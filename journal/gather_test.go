package journal

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"inlinefs/blockdev"
)

// waiting returns when n callers wait for the commit of the running transaction.
func (l *logLab) waiting(t *testing.T, n int) {
	t.Helper()
	b := logOf(l)
	for range 3000 {
		b.mu.Lock()
		got := 0
		if b.running != nil {
			got = b.running.waiters
		}
		b.mu.Unlock()
		if got == n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%d callers never waited for the running transaction", n)
}

// TestGather: two callers who waited for one commit and two who came while it was on its way share the next one, although the latter
// could have had it at once.
func TestGather(t *testing.T) {
	l := newLog(t)
	b := logOf(l)
	g := &gate{Device: l.faults, reached: make(chan struct{}, 16)}
	b.dev = g
	b.mu.Lock()
	b.avgCommit, b.maxBatch = time.Hour, time.Hour // nobody gives up
	b.expected = 2
	b.mu.Unlock()
	done := make(chan error, 4)
	wait := func(tid uint32) {
		_, err := l.j.WaitTid(tid)
		done <- err
	}
	g.close()
	first := l.change(t, 1, 10)
	go wait(first)
	l.waiting(t, 1)
	go wait(first)
	<-g.reached
	second := l.change(t, 2, 11)
	go wait(second)
	go wait(second)
	l.waiting(t, 2)
	g.open()
	for range 2 { // of the first commit: the others go on waiting
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if tid := l.change(t, 3, 12); tid != second {
		t.Fatalf("a change goes to transaction %d, want %d: its commit did not wait for the callers of the last one", tid, second)
	}
	go wait(second)
	l.waiting(t, 3)
	go wait(second)
	for range 4 - 1 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantBlocks(t, l.crash(t), map[uint64]uint64{10: 1, 11: 2, 12: 3})
}

// TestGatherGivesUp: whoever is expected and does not come costs no more than a commit's time, once.
func TestGatherGivesUp(t *testing.T) {
	l := newLog(t)
	b := logOf(l)
	b.mu.Lock()
	b.avgCommit, b.expected = minBatch, 7
	b.mu.Unlock()
	mustCommitOf(t, l, 1)
	b.mu.Lock()
	expected := b.expected
	b.avgCommit, b.maxBatch = time.Hour, time.Hour
	b.mu.Unlock()
	if expected != 1 {
		t.Errorf("%d callers are expected after a commit for one", expected)
	}
	mustCommitOf(t, l, 2) // would wait an hour for a second caller
	wantBlocks(t, l.crash(t), map[uint64]uint64{10: 2})
}

func mustCommitOf(t *testing.T, l *logLab, v uint64) {
	t.Helper()
	if _, err := l.j.WaitTid(l.change(t, v, 10)); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkSharedCommits has four tasks commit on a device whose flush takes a while, and reports the waits that one commit serves.
func BenchmarkSharedCommits(b *testing.B) {
	for _, gather := range []bool{false, true} {
		name := map[bool]string{false: "alone", true: "gather"}[gather]
		b.Run(name, func(b *testing.B) { benchShared(b, gather) })
	}
}

// slowFlush is a disk's write cache.
type slowFlush struct{ blockdev.Device }

func (s slowFlush) Flush() error {
	time.Sleep(200 * time.Microsecond)
	return s.Device.Flush()
}

func benchShared(b *testing.B, gather bool) {
	l := newLog(b)
	log := logOf(l)
	log.dev = slowFlush{l.faults}
	log.threads = gather
	const tasks = 4
	first := l.change(b, 1, 5)
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ResetTimer()
	for k := range uint64(tasks) {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				for start := time.Now(); time.Since(start) < 50*time.Microsecond; { // what a caller does between two fsyncs
				}
				tid := l.change(b, 1, 20+k)
				if _, err := l.j.WaitTid(tid); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/float64(l.change(b, 2, 5)-first), "waits/commit")
}
