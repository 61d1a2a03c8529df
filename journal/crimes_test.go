package journal

import (
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"inlinefs/blockdev"
	"inlinefs/buffer"
	"inlinefs/internal/event"
	"inlinefs/internal/fserr"
)

const (
	testBlock   = 1024
	testBlocks  = 256
	testCredits = 64 // the most that one handle may have
)

// lab is a journal over a device in memory.
type lab struct {
	j    *Journal
	bufs *buffer.Cache
}

// labs are the kinds of journal that the crimes are committed on.
var labs = map[string]func(t *testing.T) *lab{"none": newLab}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func newLab(*testing.T) *lab {
	bufs := buffer.New(blockdev.NewMem(make([]byte, testBlock*testBlocks)), testBlock, 1<<20)
	events := func(ino uint64) []event.Event { return []event.Event{{Op: "seen", Task: ino}} }
	v := NewViolations(quiet(), "test", events)
	return &lab{bufs: bufs, j: NewNoJournal(Options{Log: quiet(), Violations: v, Bufs: bufs, MaxCredits: testCredits})}
}

// start opens a handle in a new task.
func (l *lab) start(t *testing.T, credits int) (*Task, *Handle) {
	t.Helper()
	task := l.j.NewTask("crime", 7)
	h, err := l.j.Start(task, InodeOp, credits)
	if err != nil {
		t.Fatal(err)
	}
	h.SetInode(12)
	return task, h
}

// block returns an up-to-date block; it is released when the test ends.
func (l *lab) block(t *testing.T, n uint64) *buffer.Head {
	t.Helper()
	b, err := l.bufs.Read(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Release)
	return b
}

// works changes a block as the rules want it.
func (l *lab) works(t *testing.T) {
	t.Helper()
	task, h := l.start(t, 2)
	b := l.block(t, 200)
	var errs []error
	errs = append(errs, h.GetWriteAccess(b))
	b.Lock()
	b.Data()[0]++
	b.Unlock()
	errs = append(errs, h.DirtyMetadata(b), l.j.Stop(task, h, 12), task.End(), l.j.Commit())
	if err := errors.Join(errs...); err != nil {
		t.Errorf("the journal does not work afterwards: %v", err)
	}
}

// crime breaks one rule once.
type crime struct {
	name   string
	class  Class
	want   error  // fserr.IO unless set
	opener string // a function that the opener's stack must show, "" for a crime without one
	final  bool   // the journal is closed afterwards
	logged bool   // means something only with a log
	commit func(t *testing.T, l *lab) error
}

// openHere gives the opener's stack a name to look for.
func openHere(t *testing.T, l *lab, credits int) (*Task, *Handle) {
	t.Helper()
	return l.start(t, credits)
}

func stopAll(t *testing.T, task *Task, h *Handle) {
	t.Helper()
	for task.Current() != nil {
		if err := h.Stop(); err != nil && task.Current() != nil {
			t.Fatal(err)
		}
	}
	if err := task.End(); err != nil {
		t.Fatal(err)
	}
}

func crimes() []crime { return slices.Concat(handleCrimes(), limitCrimes(), blockCrimes()) }

func handleCrimes() []crime {
	return []crime{
		{name: "stop without start", class: NilHandle, commit: func(_ *testing.T, l *lab) error {
			return l.j.Stop(l.j.NewTask("write", 7), nil, 12)
		}},
		{name: "task ends with a handle", class: LeakedHandle, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			task, _ := openHere(t, l, 1)
			return task.End()
		}},
		{name: "task ends with a nested handle", class: LeakedHandle, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			task, _ := openHere(t, l, 1)
			if _, err := l.j.Start(task, Dir, 1); err != nil {
				t.Fatal(err)
			}
			return task.End()
		}},
		{name: "stop of another task's handle", class: NotOwner, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			task, h := openHere(t, l, 1)
			defer stopAll(t, task, h)
			return l.j.Stop(l.j.NewTask("thief", 8), h, 12)
		}},
		{name: "stop of a handle that is not current", class: NotCurrent, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			task, h := openHere(t, l, 1)
			// Another task is another goroutine: one that holds two handles would break the lock order.
			err := make(chan error)
			go func() {
				defer close(err)
				other, g := l.start(t, 1)
				task.current = g
				err <- h.Stop()
				task.current = h
				stopAll(t, other, g)
			}()
			defer stopAll(t, task, h)
			e := <-err
			<-err // closed: the other is done
			return e
		}},
		{name: "start under another journal's handle", class: ForeignJournal, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			foreign := newLab(t)
			task, h := openHere(t, foreign, 1)
			defer stopAll(t, task, h)
			_, err := l.j.Start(task, Misc, 1)
			return err
		}},
	}
}

func limitCrimes() []crime {
	return []crime{
		{name: "nesting without end", class: NestingLimit, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			task, h := openHere(t, l, 1)
			defer stopAll(t, task, h)
			for range 2 * maxNesting {
				if _, err := l.j.Start(task, Misc, 1); err != nil {
					return err
				}
			}
			return nil
		}},
		{name: "start wants too much", class: TooManyCredits, want: fserr.NoSpace, commit: func(_ *testing.T, l *lab) error {
			_, err := l.j.Start(l.j.NewTask("huge", 7), Truncate, testCredits+1)
			return err
		}},
		{name: "extension wants too much", class: TooManyCredits, want: fserr.NoSpace, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			task, h := openHere(t, l, 1)
			defer stopAll(t, task, h)
			return h.EnsureCredits(testCredits + 1)
		}},
		{name: "handle stopped twice", class: StaleHandle, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			task, h := openHere(t, l, 1)
			stopAll(t, task, h)
			return h.Stop()
		}},
		{name: "extension of a stopped handle", class: StaleHandle, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			task, h := openHere(t, l, 1)
			stopAll(t, task, h)
			return h.EnsureCredits(2)
		}},
		{name: "start after close", class: Unmounting, final: true, commit: func(t *testing.T, l *lab) error {
			if err := l.j.Close(); err != nil {
				t.Fatal(err)
			}
			_, err := l.j.Start(l.j.NewTask("late", 7), Misc, 1)
			return err
		}},
		{name: "fault under a handle", class: HandleInFault, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			task, h := openHere(t, l, 1)
			defer stopAll(t, task, h)
			return l.j.V.Raise(HandleInFault, task, 12, h.opener, "fault of task %d with a handle open", task.ID)
		}},
		{name: "hang", class: Hang, commit: func(_ *testing.T, l *lab) error {
			return l.j.V.Raise(Hang, l.j.NewTask("fault", 7), 12, nil, "a request does not end")
		}},
	}
}

func blockCrimes() []crime {
	return []crime{
		{name: "change without access", class: NoWriteAccess, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			task, h := openHere(t, l, 2)
			err := h.DirtyMetadata(l.block(t, 9))
			if e := l.j.Stop(task, h, 12); !errors.Is(e, err) {
				t.Errorf("stop says %v, want the error under the handle, %v", e, err)
			}
			return err
		}},
		{name: "more blocks than credits", class: NoCredits, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			task, h := openHere(t, l, 2)
			var err error
			for n := range uint64(3) {
				b := l.block(t, 20+n)
				if e := h.GetWriteAccess(b); e != nil {
					t.Fatal(e)
				}
				err = h.DirtyMetadata(b)
				if n < 2 && err != nil {
					t.Fatalf("block %d of 2: %v", n, err)
				}
			}
			if e := l.j.Stop(task, h, 12); !errors.Is(e, err) {
				t.Errorf("stop says %v, want the error under the handle, %v", e, err)
			}
			return err
		}},
		{name: "change under a stopped handle", class: StaleHandle, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			b := l.block(t, 9)
			task, h := openHere(t, l, 2)
			if err := h.GetWriteAccess(b); err != nil {
				t.Fatal(err)
			}
			stopAll(t, task, h)
			return h.DirtyMetadata(b)
		}},
		{name: "access under a stopped handle", class: StaleHandle, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			task, h := openHere(t, l, 2)
			stopAll(t, task, h)
			return h.GetWriteAccess(l.block(t, 9))
		}},
		{name: "forget under a stopped handle", class: StaleHandle, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			task, h := openHere(t, l, 2)
			stopAll(t, task, h)
			return h.Forget(9)
		}},
		{name: "new block not locked", class: BufferUnlocked, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			task, h := openHere(t, l, 2)
			defer stopAll(t, task, h)
			return h.GetCreateAccess(l.block(t, 9))
		}},
		{name: "change under the buffer lock", class: BufferLocked, opener: "openHere", logged: true, commit: func(t *testing.T, l *lab) error {
			task, h := openHere(t, l, 2)
			b := l.block(t, 9)
			err := h.GetWriteAccess(b)
			if err != nil {
				t.Fatal(err)
			}
			b.Lock()
			err = h.DirtyMetadata(b)
			b.Unlock()
			if e := l.j.Stop(task, h, 12); !errors.Is(e, err) {
				t.Errorf("stop says %v, want the error under the handle, %v", e, err)
			}
			return err
		}},
		{name: "nested handle counts on credits of its own", class: NoCredits, opener: "openHere", commit: func(t *testing.T, l *lab) error {
			task, h := openHere(t, l, 1)
			inner, err := l.j.Start(task, Xattr, 5) // the kernel does not look at the 5 either
			if err != nil || inner != h {
				t.Fatalf("nested start gives %p, %v, want %p", inner, err, h)
			}
			for n := range uint64(2) {
				b := l.block(t, 30+n)
				if e := inner.GetWriteAccess(b); e != nil {
					t.Fatal(e)
				}
				err = inner.DirtyMetadata(b)
			}
			for task.Current() != nil {
				if e := h.Stop(); !errors.Is(e, err) {
					t.Errorf("stop says %v, want the error under the handle, %v", e, err)
				}
			}
			return err
		}},
	}
}

func TestCrimes(t *testing.T) {
	for backend, make := range labs {
		for _, c := range crimes() {
			t.Run(backend+"/"+c.name, func(t *testing.T) {
				if c.logged && backend == "none" {
					t.Skip("without a log this is no crime, or cannot be seen")
				}
				l := make(t)
				err := c.commit(t, l)
				punished(t, l, c, err)
				if n := l.j.OpenHandles(); n != 0 {
					t.Errorf("%d handles are open, want 0", n)
				}
				if c.final {
					l = make(t)
				}
				l.works(t)
			})
		}
	}
}

// punished looks for every trace that a crime must leave.
func punished(t *testing.T, l *lab, c crime, err error) {
	t.Helper()
	want := c.want
	if want == nil {
		want = fserr.IO
	}
	var v *ViolationError
	if !errors.As(err, &v) || v.Class != c.class || !errors.Is(err, want) {
		t.Fatalf("error %v, want a violation of class %s that is %v", err, c.class, want)
	}
	if n := l.j.V.Counts(); n[string(c.class)] != 1 || len(n) != 1 {
		t.Errorf("counts %v, want one of %s and nothing else", n, c.class)
	}
	first := l.j.V.First()
	if first == nil || first.Class != string(c.class) {
		t.Fatalf("first violation %+v, want class %s", first, c.class)
	}
	if first.Mirror == "" || first.Message != v.Message || first.Strategy != "test" {
		t.Errorf("record %+v lacks the kernel's check, the message or the strategy", first)
	}
	if !shows(first.Breaker, "Crimes") {
		t.Errorf("breaker's stack %q does not lead to this test", first.Breaker)
	}
	switch {
	case c.opener == "" && len(first.Opener) != 0:
		t.Errorf("opener's stack %q, want none", first.Opener)
	case c.opener != "" && !shows(first.Opener, c.opener):
		t.Errorf("opener's stack %q does not show %s", first.Opener, c.opener)
	}
	if first.Ino != 0 && (len(first.Events) != 1 || first.Events[0].Task != first.Ino) {
		t.Errorf("events %v, want those of inode %d", first.Events, first.Ino)
	}
}

func shows(stack []string, fn string) bool {
	for _, s := range stack {
		if strings.Contains(s, fn) {
			return true
		}
	}
	return false
}
