package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"inlinefs/blockdev"
	"inlinefs/internal/fserr"
	"inlinefs/ondisk/jbd2"
)

var errMedium = errors.New("medium error")

// superOf is the journal's superblock on the device.
func superOf(t *testing.T, l *logLab) *jbd2.Superblock {
	t.Helper()
	p := l.mem.Snapshot()[logAt*testBlock:][:testBlock]
	if err := jbd2.VerifySuperblock(p); err != nil {
		t.Fatal(err)
	}
	sb, err := jbd2.DecodeSuperblock(p)
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

func logOf(l *logLab) *log { return l.j.be.(*log) }

// state is what the log knows of itself.
func state(l *log) (head, free uint32, queued int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head, l.free, len(l.cpq)
}

func mustCommit(t *testing.T, l *logLab) {
	t.Helper()
	if err := l.j.Commit(); err != nil {
		t.Fatalf("commit: %v", err)
	}
}

// wantBlocks holds blocks of a recovered device against values.
func wantBlocks(t *testing.T, img []byte, want map[uint64]uint64) {
	t.Helper()
	for b, v := range want {
		if got := at(img, b); got != v {
			t.Errorf("block %d has %d after recovery, want %d", b, got, v)
		}
	}
}

// TestSharedCommit: tasks that changed blocks in one transaction share its commit, which takes two flushes.
func TestSharedCommit(t *testing.T) {
	l := newLog(t)
	l.change(t, 1, 5)
	mustCommit(t, l) // the first one makes the log non-empty besides
	var tids []uint32
	for k := range uint64(4) {
		tids = append(tids, l.change(t, 1, 10+k))
	}
	before := l.faults.Count(blockdev.OpFlush)
	var wg sync.WaitGroup
	for _, tid := range tids {
		if tid != tids[0] {
			t.Fatalf("transactions %v, want one", tids)
		}
		wg.Go(func() {
			if _, err := l.j.WaitTid(tid); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := l.faults.Count(blockdev.OpFlush) - before; n != 2 {
		t.Errorf("%d flushes for the commit that four tasks wait for, want 2", n)
	}
	if waited, err := l.j.WaitTid(tids[0]); waited || err != nil {
		t.Errorf("a transaction on the device: waited %v, %v", waited, err)
	}
	wantBlocks(t, l.crash(t), map[uint64]uint64{10: 1, 11: 1, 12: 1, 13: 1})
}

// TestSharedCommits counts the commits of many concurrent fsyncers: never more than waits, and none is lost.
func TestSharedCommits(t *testing.T) {
	l := newLog(t)
	const tasks, each = 4, 50
	first := l.change(t, 1, 5)
	var wg sync.WaitGroup
	for k := range uint64(tasks) {
		wg.Go(func() {
			for v := range uint64(each) {
				task := l.j.NewTask("fsync", 0)
				h, err := l.j.Start(task, Misc, 1)
				if err != nil {
					t.Error(err)
					return
				}
				err = l.store(h, 20+k, v+1)
				tid := h.Tid()
				err = errors.Join(err, h.Stop(), task.End())
				if _, e := l.j.WaitTid(tid); e != nil || err != nil {
					t.Error(err, e)
					return
				}
				if got := at(l.crash(t), 20+k); got < v+1 {
					t.Errorf("block %d has %d after the wait for %d", 20+k, got, v+1)
					return
				}
			}
		})
	}
	wg.Wait()
	last := l.change(t, 2, 5)
	if n := last - first; n > tasks*each+1 {
		t.Errorf("%d commits for %d waits", n, tasks*each)
	} else {
		t.Logf("%d commits for %d waits", n, tasks*each)
	}
}

// TestWrapAround goes around the log with transactions whose blocks lie across its end.
func TestWrapAround(t *testing.T) {
	l := newLog(t)
	b := logOf(l)
	wraps := 0
	last, _, _ := state(b)
	for v := uint64(1); v <= 60; v++ {
		var blks []uint64
		for k := range uint64(23) {
			blks = append(blks, 100+k)
		}
		l.change(t, v, blks...)
		mustCommit(t, l)
		head, _, _ := state(b)
		if head < last {
			wraps++
		}
		last = head
		img := l.crash(t)
		for _, n := range blks {
			if got := at(img, n); got != v {
				t.Fatalf("block %d has %d after recovery, want %d (head %d)", n, got, v, head)
			}
		}
	}
	if wraps < 4 {
		t.Errorf("head went around %d times, want at least 4", wraps)
	}
}

// TestLogFull fills the log with transactions that stay in memory: a handle waits for the checkpoint, which puts them in place.
func TestLogFull(t *testing.T) {
	l := newLog(t)
	b := logOf(l)
	b.cpMu.Lock() // no checkpoint for now
	v := uint64(0)
	for {
		b.mu.Lock()
		room := b.free > 2*b.logBlocks(testCredits, testCredits)+2*revokeSlack
		b.mu.Unlock()
		if !room {
			break
		}
		v++
		l.change(t, v, 10+v, 40, 41)
		mustCommit(t, l)
	}
	// The next handles do not fit before something was put in place.
	done := make(chan error, 1)
	go func() {
		task := l.j.NewTask("big", 0)
		var errs []error
		for range 4 {
			h, err := l.j.Start(task, Misc, testCredits)
			if err != nil {
				errs = append(errs, err)
				break
			}
			for k := range uint64(testCredits) {
				errs = append(errs, l.store(h, 100+k, 1000))
			}
			errs = append(errs, h.Stop(), l.j.Commit())
		}
		done <- errors.Join(append(errs, task.End())...)
	}()
	b.cpMu.Unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	img := l.crash(t)
	wantBlocks(t, img, map[uint64]uint64{11: 1, 10 + v: v, 40: v, 100: 1000, 100 + testCredits - 1: 1000})
	if raw := l.mem.Snapshot(); at(raw, 11) != 1 {
		t.Errorf("block of the oldest transaction has %d in place, want 1: no checkpoint was made", at(raw, 11))
	}
}

// gate is a device whose flushes wait while it is shut.
type gate struct {
	blockdev.Device
	mu      sync.Mutex
	shut    chan struct{} // guarded by mu; nil while open
	reached chan struct{} // immutable
}

func (g *gate) Flush() error {
	g.mu.Lock()
	c := g.shut
	g.mu.Unlock()
	if c != nil {
		g.reached <- struct{}{}
		<-c
	}
	return g.Device.Flush()
}

// close makes flushes wait; open lets them go.
func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.shut)
	g.shut = nil
}

// TestCopyOut changes and frees blocks in the next transaction while the one that logs them is being written.
func TestCopyOut(t *testing.T) {
	l := newLog(t)
	b := logOf(l)
	g := &gate{Device: l.faults, reached: make(chan struct{}, 16)}
	b.dev = g // no commit has begun
	g.close()
	tid := l.change(t, 1, 10, 11, 12)
	done := make(chan error, 1)
	go func() {
		_, err := l.j.WaitTid(tid)
		done <- err
	}()
	<-g.reached
	next := l.change(t, 2, 10, 13)
	l.forget(t, 11)
	if next != tid+1 {
		t.Errorf("changed again in transaction %d, want %d", next, tid+1)
	}
	g.open()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantBlocks(t, l.crash(t), map[uint64]uint64{10: 1, 11: 1, 12: 1, 13: 0})
	if err := l.bufs.WriteDirty(); err != nil {
		t.Fatal(err)
	}
	if raw := l.mem.Snapshot(); at(raw, 10) != 0 || at(raw, 13) != 0 {
		t.Errorf("uncommitted blocks were written in place: %d %d", at(raw, 10), at(raw, 13))
	}
	mustCommit(t, l)
	wantBlocks(t, l.crash(t), map[uint64]uint64{10: 2, 12: 1, 13: 2})
}

// TestTailBehindCommit checkpoints between the moment a transaction is in the log and the moment it is taken note of: the tail must not
// pass it.
func TestTailBehindCommit(t *testing.T) {
	l := newLog(t)
	b := logOf(l)
	l.change(t, 1, 10)
	mustCommit(t, l)
	l.change(t, 2, 11)
	b.mu.Lock()
	tx := b.running
	tx.locked = true
	b.mu.Unlock()
	blocks := b.copyOut(tx)
	b.switchTo(tx)
	if err := b.write(tx, blocks); err != nil {
		t.Fatal(err)
	}
	if err := b.checkpointOldest(); err != nil {
		t.Fatal(err)
	}
	wantBlocks(t, l.crash(t), map[uint64]uint64{10: 1, 11: 2})
	b.finish(tx, nil)
	wantBlocks(t, l.crash(t), map[uint64]uint64{10: 1, 11: 2})
}

// TestNoTailAfterAbort: a block that a failed commit had is not in place; its older copy in the log must stay.
func TestNoTailAfterAbort(t *testing.T) {
	l := newLog(t)
	b := logOf(l)
	l.change(t, 1, 10)
	mustCommit(t, l)
	l.change(t, 2, 10)
	l.faults.Add(blockdev.Rule{Op: blockdev.OpWrite, Start: logAt * testBlock, Err: errMedium})
	if err := l.j.Commit(); !errors.Is(err, errMedium) {
		t.Fatalf("commit says %v, want %v", err, errMedium)
	}
	l.faults.Clear()
	if err := b.checkpointOldest(); err == nil {
		t.Error("a checkpoint after the abort went through")
	}
	wantBlocks(t, l.crash(t), map[uint64]uint64{10: 1})
	if err := l.j.Close(); err == nil {
		t.Error("close after the abort says nothing")
	}
	if sb := superOf(t, l); sb.Start == 0 || sb.Errno != -int32(syscall.EIO) {
		t.Errorf("superblock after the close: s_start %d, s_errno %d, want a log to recover and -EIO", sb.Start, sb.Errno)
	}
	wantBlocks(t, l.crash(t), map[uint64]uint64{10: 1})
}

// TestCleanClose leaves an empty log that opens again and goes on counting.
func TestCleanClose(t *testing.T) {
	l := newLog(t)
	tid := l.change(t, 3, 10, 11)
	if err := l.j.Close(); err != nil {
		t.Fatal(err)
	}
	sb := superOf(t, l)
	if sb.Start != 0 || sb.Errno != 0 || !jbd2.TidGT(sb.Sequence, tid) {
		t.Errorf("superblock after the close: s_start %d, s_errno %d, s_sequence %d, want 0, 0, more than %d", sb.Start, sb.Errno, sb.Sequence, tid)
	}
	if raw := l.mem.Snapshot(); at(raw, 10) != 3 || at(raw, 11) != 3 {
		t.Errorf("blocks in place after the close: %d %d, want 3 3", at(raw, 10), at(raw, 11))
	}
}

// TestWaitersHear fails each request of a commit in turn while tasks wait for it and others want to start: nobody hangs, and all hear.
func TestWaitersHear(t *testing.T) {
	for _, op := range []blockdev.Op{blockdev.OpWrite, blockdev.OpFlush} {
		for nth := 1; nth <= 4; nth++ {
			t.Run(fmt.Sprintf("%s %d", op, nth), func(t *testing.T) { waitersHear(t, op, nth) })
		}
	}
}

func waitersHear(t *testing.T, op blockdev.Op, nth int) {
	l := newLog(t)
	l.faults.Add(blockdev.Rule{Op: op, Nth: nth, Err: errMedium})
	var wg sync.WaitGroup
	for k := range uint64(4) {
		wg.Go(func() {
			for {
				task := l.j.NewTask("waiter", 0)
				h, err := l.j.Start(task, Misc, 40)
				if err != nil {
					if !errors.Is(err, fserr.ReadOnly) {
						t.Errorf("start: %v, want %v", err, fserr.ReadOnly)
					}
					return
				}
				_ = l.store(h, 10+k, 1) // fails under a handle that the abort has met
				tid := h.Tid()
				_ = h.Stop() // an abort meanwhile shows in the wait
				if _, err := l.j.WaitTid(tid); err != nil && l.j.Aborted() == nil {
					t.Errorf("wait: %v, and the journal is not aborted", err)
				}
			}
		})
	}
	wg.Wait()
	if err := l.j.Aborted(); !errors.Is(err, errMedium) {
		t.Errorf("aborted because of %v, want %v", err, errMedium)
	}
	if n := l.j.OpenHandles(); n != 0 {
		t.Errorf("%d handles open", n)
	}
}

// store is put for goroutines of a test.
func (l *logLab) store(h *Handle, n, v uint64) error {
	b, err := l.bufs.Read(n)
	if err != nil {
		return err
	}
	defer b.Release()
	if err := h.GetWriteAccess(b); err != nil {
		return err
	}
	b.Lock()
	binary.LittleEndian.PutUint64(b.Data(), v)
	b.Unlock()
	return h.DirtyMetadata(b)
}

// TestAbortUnderHandle: a handle that is open when the journal ends can be stopped, restarted (in vain) and asked for a callback.
func TestAbortUnderHandle(t *testing.T) {
	l := newLog(t)
	task := l.j.NewTask("test", 0)
	h, err := l.j.Start(task, Misc, 2)
	if err != nil {
		t.Fatal(err)
	}
	l.put(t, h, 10, 1)
	l.j.Abort(errMedium)
	if err := h.EnsureCredits(testCredits); !errors.Is(err, fserr.ReadOnly) {
		t.Errorf("extension: %v, want %v", err, fserr.ReadOnly)
	}
	if err := h.Forget(10); !errors.Is(err, fserr.ReadOnly) {
		t.Errorf("forget: %v, want %v", err, fserr.ReadOnly)
	}
	h.OnCommit(func() { t.Error("called back after the abort") })
	if err := h.Stop(); err == nil {
		t.Error("stop says nothing of the abort")
	}
	if err := errors.Join(task.End()); err != nil {
		t.Error(err)
	}
	if err := l.j.Commit(); !errors.Is(err, errMedium) {
		t.Errorf("commit: %v, want %v", err, errMedium)
	}
	wantBlocks(t, l.crash(t), map[uint64]uint64{10: 0})
}

// TestLeakUnderError: a task that ends with nested handles after an error leaves no handle, so that commits go on.
func TestLeakUnderError(t *testing.T) {
	for name, make := range labs {
		t.Run(name, func(t *testing.T) {
			l := make(t)
			task, h := l.start(t, 1)
			if _, err := l.j.Start(task, Misc, 1); err != nil {
				t.Fatal(err)
			}
			if err := h.DirtyMetadata(l.block(t, 9)); err == nil {
				t.Fatal("a change without access went through")
			}
			if err := task.End(); !errors.Is(err, fserr.IO) {
				t.Errorf("end: %v, want %v", err, fserr.IO)
			}
			if n := l.j.OpenHandles(); n != 0 || task.Current() != nil {
				t.Errorf("%d handles open, current %p", n, task.Current())
			}
			l.works(t)
		})
	}
}

// TestRevokeHistory frees and logs blocks again at random, in the same transaction and in later ones; data of a freed block is written
// in place once the transaction is committed. After each commit recovery must find the last state.
func TestRevokeHistory(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	l := newLog(t)
	const blks = 8
	type owner struct {
		meta bool
		v    uint64
	}
	own := map[uint64]owner{}
	for v := uint64(1); v <= 300; v++ {
		freed := map[uint64]bool{}
		for range rng.IntN(4) + 1 {
			n := 10 + rng.Uint64N(blks)
			if own[n].meta && rng.IntN(2) == 0 {
				l.forget(t, n)
				own[n] = owner{}
				freed[n] = true
			} else if own[n].meta || !freed[n] || rng.IntN(2) == 0 {
				if own[n].v != 0 && !own[n].meta {
					continue // file data has it
				}
				l.change(t, v, n)
				own[n] = owner{true, v}
			}
		}
		mustCommit(t, l)
		for n := range freed {
			if own[n].meta || rng.IntN(2) == 0 {
				continue
			}
			if _, err := l.mem.WriteAt([]byte{byte(v), byte(v >> 8), 0xDA, 0, 0, 0, 0, 0}, int64(n)*testBlock); err != nil {
				t.Fatal(err)
			}
			own[n] = owner{false, v | 0xDA0000}
		}
		img := l.crash(t)
		for n, o := range own {
			if o.v != 0 && at(img, n) != o.v {
				t.Fatalf("round %d: block %d has %x after recovery, want %x (metadata %v)", v, n, at(img, n), o.v, o.meta)
			}
		}
		if rng.IntN(5) == 0 { // file data goes: the block is free again
			n := 10 + rng.Uint64N(blks)
			if !own[n].meta {
				own[n] = owner{}
			}
		}
	}
}

// TestForgetKeepsOthers: freeing one block neither delays nor loses the others of older transactions.
func TestForgetKeepsOthers(t *testing.T) {
	l := newLog(t)
	l.change(t, 1, 10, 11)
	mustCommit(t, l)
	l.forget(t, 10)
	mustCommit(t, l)
	b := logOf(l)
	for {
		if _, _, n := state(b); n == 0 {
			break
		}
		if err := b.checkpointOldest(); err != nil {
			t.Fatal(err)
		}
	}
	raw := l.mem.Snapshot()
	if at(raw, 10) != 0 || at(raw, 11) != 1 {
		t.Errorf("in place: %d %d, want 0 (freed, not written) and 1", at(raw, 10), at(raw, 11))
	}
	if sb := superOf(t, l); sb.Start == 0 {
		t.Errorf("the log is marked empty while it is open")
	}
}

// TestOpenRefused: a log that is not fit for writing is refused with what was found.
func TestOpenRefused(t *testing.T) {
	for name, change := range map[string]func(*jbd2.Superblock){
		"not recovered": func(s *jbd2.Superblock) { s.Start = 1 },
		"format 1":      func(s *jbd2.Superblock) { s.Type = jbd2.TypeSuperblockV1 },
		"too short":     func(s *jbd2.Superblock) { s.MaxLen = 100 },
		"block size":    func(s *jbd2.Superblock) { s.BlockSize = 4096 },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLog(t)
			if err := l.j.Close(); err != nil {
				t.Fatal(err)
			}
			sb := superOf(t, l)
			change(sb)
			p := make([]byte, testBlock)
			if err := sb.Encode(p); err != nil {
				t.Fatal(err)
			}
			if _, err := l.mem.WriteAt(p, logAt*testBlock); err != nil {
				t.Fatal(err)
			}
			_, err := NewJBD2(Options{Log: quiet(), Violations: l.j.V, Bufs: l.bufs}, LogOptions{Dev: l.mem, Blocks: l.blocks})
			if err == nil {
				t.Fatal("opened")
			}
			t.Log(err)
		})
	}
}
