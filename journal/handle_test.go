package journal

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"inlinefs/internal/fserr"
)

// TestNilHandleComesFirst: the bug of this project is reported even when another rule was broken before.
func TestNilHandleComesFirst(t *testing.T) {
	l := newLab(t)
	task := l.j.NewTask("write", 1)
	for _, c := range []Class{ModeMismatch, NilHandle, InlineWriteback, LockCycle, NilHandle} {
		if err := l.j.V.Raise(c, task, 12, nil, "number %s", c); !errors.Is(err, fserr.IO) {
			t.Fatalf("%v is not an I/O error", err)
		}
	}
	if f := l.j.V.First(); f.Class != string(NilHandle) {
		t.Errorf("first violation is of class %s, want %s", f.Class, NilHandle)
	}
	if n := l.j.V.Counts(); n[string(NilHandle)] != 2 || n[string(ModeMismatch)] != 1 || n[string(InlineWriteback)] != 1 {
		t.Errorf("counts %v", n)
	}
}

// TestEveryClassHasAMirror: a report without the kernel's check says nothing.
func TestEveryClassHasAMirror(t *testing.T) {
	for _, c := range []Class{NilHandle, LeakedHandle, NotOwner, NotCurrent, ForeignJournal, NestingLimit, ModeMismatch, NoWriteAccess, NoCredits,
		TooManyCredits, StaleHandle, BufferLocked, BufferUnlocked, ForeignBuffer, InlineWriteback, LockCycle, HandleInFault, Unmounting, Hang} {
		if mirrors[c] == "" {
			t.Errorf("class %s has no mirror", c)
		}
	}
	if len(mirrors) != 19 {
		t.Errorf("%d mirrors, want 19: a class is missing from this test", len(mirrors))
	}
}

// TestNesting: the same handle is returned, and only the last stop ends it.
func TestNesting(t *testing.T) {
	l := newLab(t)
	task, h := l.start(t, 3)
	g, err := l.j.Start(task, Dir, 1)
	if err != nil || g != h {
		t.Fatalf("nested start gives %p, %v, want %p", g, err, h)
	}
	if err := l.j.Stop(task, g, 1); err != nil || task.Current() != h || l.j.OpenHandles() != 1 {
		t.Fatalf("after the inner stop: %v, current %p, %d open", err, task.Current(), l.j.OpenHandles())
	}
	if err := l.j.Stop(task, h, 1); err != nil || task.Current() != nil || l.j.OpenHandles() != 0 {
		t.Fatalf("after the outer stop: %v, current %p, %d open", err, task.Current(), l.j.OpenHandles())
	}
}

// TestCredits: a block costs one credit however often it is changed, forgetting it gives the credit back, extensions add.
func TestCredits(t *testing.T) {
	l := newLab(t)
	task, h := l.start(t, 2)
	b := l.block(t, 5)
	step := func(want int, err error) {
		t.Helper()
		if err != nil || h.Credits() != want {
			t.Fatalf("%d credits, %v, want %d", h.Credits(), err, want)
		}
	}
	step(2, h.GetWriteAccess(b))
	step(1, h.DirtyMetadata(b))
	step(1, h.DirtyMetadata(b))
	step(2, h.Forget(5))
	if b.Dirty() {
		t.Error("a forgotten block is dirty")
	}
	step(10, h.EnsureCredits(10))
	step(10, h.EnsureCredits(4))
	if err := errors.Join(h.Stop(), task.End()); err != nil {
		t.Fatal(err)
	}
}

// TestAbortAndReadOnly: nothing starts afterwards, and changes under an open handle fail too.
func TestAbortAndReadOnly(t *testing.T) {
	for _, how := range []string{"abort", "read-only"} {
		t.Run(how, func(t *testing.T) {
			l := newLab(t)
			task, h := l.start(t, 2)
			b := l.block(t, 5)
			if err := h.GetWriteAccess(b); err != nil {
				t.Fatal(err)
			}
			reason := errors.New("device is gone")
			if how == "abort" {
				l.j.Abort(reason)
				l.j.Abort(errors.New("later"))
				if got := l.j.Aborted(); got != reason { //nolint:errorlint // the very error
					t.Errorf("aborted because of %v, want %v", got, reason)
				}
			} else {
				l.j.SetReadOnly()
			}
			if err := h.DirtyMetadata(b); !errors.Is(err, fserr.ReadOnly) {
				t.Errorf("change says %v, want %v", err, fserr.ReadOnly)
			}
			if err := h.Stop(); err != nil && !errors.Is(err, fserr.ReadOnly) {
				t.Errorf("stop says %v", err)
			}
			if _, err := l.j.Start(task, Misc, 1); !errors.Is(err, fserr.ReadOnly) {
				t.Errorf("start says %v, want %v", err, fserr.ReadOnly)
			}
			if n := l.j.V.Counts(); len(n) != 0 {
				t.Errorf("violations %v, want none", n)
			}
		})
	}
}

// TestOnAbortOnce: the mount hears of the first error only.
func TestOnAbortOnce(t *testing.T) {
	l := newLab(t)
	var heard []error
	j := NewNoJournal(Options{Log: quiet(), Violations: l.j.V, Bufs: l.bufs, OnAbort: func(err error) { heard = append(heard, err) }})
	j.Abort(fserr.IO)
	j.Abort(fserr.NoSpace)
	if len(heard) != 1 || !errors.Is(heard[0], fserr.IO) {
		t.Errorf("heard %v, want one %v", heard, fserr.IO)
	}
}

// TestManyTasks: handles of different tasks do not disturb each other, and violations are counted exactly.
func TestManyTasks(t *testing.T) {
	l := newLab(t)
	const tasks, rounds = 8, 100
	var wg sync.WaitGroup
	errs := make(chan error, tasks)
	for w := range tasks {
		wg.Go(func() {
			for n := range rounds {
				if err := round(l, uint64(w*16+n%16)); err != nil {
					errs <- fmt.Errorf("task %d, round %d: %w", w, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if n := l.j.V.Counts()[string(NilHandle)]; n != tasks*rounds {
		t.Errorf("%d nil handles counted, want %d", n, tasks*rounds)
	}
	if n := l.j.OpenHandles(); n != 0 {
		t.Errorf("%d handles open", n)
	}
}

// round changes a block properly and stops a nil handle.
func round(l *lab, blk uint64) error {
	task := l.j.NewTask("round", 1)
	h, err := l.j.Start(task, Misc, 1)
	if err != nil {
		return err
	}
	b, err := l.bufs.Read(blk)
	if err != nil {
		return err
	}
	defer b.Release()
	if err := h.GetWriteAccess(b); err != nil {
		return err
	}
	b.Lock()
	b.Data()[1]++
	b.Unlock()
	if err := errors.Join(h.DirtyMetadata(b), h.Stop()); err != nil {
		return err
	}
	if err := l.j.Stop(task, task.Current(), 12); !errors.Is(err, fserr.IO) {
		return fmt.Errorf("nil handle stopped with %w", err)
	}
	return task.End()
}
