//go:build explore

package sched

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"inlinefs/internal/lock"
)

// handover fails only if the actors alternate n times.
func handover(n int) Program {
	return program("handover", func() ([]func(), func() []Failure) {
		turn, met := 0, 0
		run := func(self int) func() {
			return func() {
				for range n {
					lock.Point("turn", 0)
					if turn%2 == self {
						turn++
						met++
					}
				}
			}
		}
		return []func(){run(0), run(1)}, func() []Failure {
			if met == 2*n {
				return []Failure{{Class: "alternated"}}
			}
			return nil
		}
	})
}

func TestFewestPreemptions(t *testing.T) {
	for _, c := range []struct {
		p     Program
		class string
		want  int
	}{
		{lostUpdate(), "lost-update", 1},
		{abba(), LockCycle, 1},
		// The reader is preempted under its lock and, after the writer has queued and waits, the other reader runs into both.
		{readerWriterReader(), LockCycle, 1},
		// One philosopher is preempted; the others, from the last to the first, each wait for the one before.
		{philosophers(4), LockCycle, 1},
		{handover(1), "alternated", 0},
		{handover(3), "alternated", 4},
	} {
		want := func(f Failure) bool { return f.Class == c.class && (f.Class != LockCycle || f.Blocked) }
		f, r, err := Fewest(c.p, want, Options{})
		if err != nil || f.Preemptions != c.want {
			t.Errorf("%s: %d preemptions, want %d: %s, error %v (%s)", c.p.Name, f.Preemptions, c.want, f.Schedule, err, r.Summary())
		}
		f, _, err = FewestBounded(c.p, want, 6, Options{})
		if err != nil || f.Preemptions != c.want {
			t.Errorf("%s: bounded search: %d preemptions, want %d: %s, error %v", c.p.Name, f.Preemptions, c.want, f.Schedule, err)
		}
	}
	if _, _, err := Fewest(abba(), OfClass("lost-update"), Options{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a class that does not occur: %v", err)
	}
	if _, _, err := FewestBounded(abba(), OfClass("lost-update"), 6, Options{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a class that does not occur: %v", err)
	}
}

// TestFewestAgrees compares the two ways to the fewest preemptions on random programs that deadlock.
func TestFewestAgrees(t *testing.T) {
	compared := 0
	rapid.Check(t, func(t *rapid.T) {
		actors := genActors(t)
		p := random(actors, func(string) {})
		blocked := func(f Failure) bool { return f.Blocked }
		a, _, errA := Fewest(p, blocked, Options{})
		b, r, errB := FewestBounded(p, blocked, 5, Options{MaxExecutions: 5000})
		if errB != nil && !r.Complete {
			t.Skip("too big")
		}
		if errors.Is(errA, ErrNotFound) && errors.Is(errB, ErrNotFound) {
			return
		}
		if errA != nil || errB != nil || a.Preemptions != b.Preemptions {
			t.Fatalf("%v: %d (%s, %v), bounded %d (%s, %v)", actors, a.Preemptions, a.Schedule, errA, b.Preemptions, b.Schedule, errB)
		}
		compared++
	})
	t.Logf("%d deadlocks compared", compared)
}

func TestPCT(t *testing.T) {
	for _, c := range []struct {
		p     Program
		class string
		depth int
	}{
		{lostUpdate(), "lost-update", 2},
		{abba(), LockCycle, 2},
		{readerWriterReader(), LockCycle, 3},
		{handover(2), "alternated", 4},
	} {
		a := PCT(c.p, c.depth, 500, 1, Options{})
		if a.Err != nil || a.Failures[c.class].Count == 0 || a.Complete {
			t.Errorf("%s: %s, complete %v, error %v", c.p.Name, a.Summary(), a.Complete, a.Err)
		}
		b := PCT(c.p, c.depth, 500, 1, Options{})
		if a.Steps != b.Steps || a.Failures[c.class].Count != b.Failures[c.class].Count {
			t.Errorf("%s: the same seed gives %s, then %s", c.p.Name, a.Summary(), b.Summary())
		}
		f := a.Failures[c.class]
		if run, err := Replay(c.p, f.Schedule, Options{}); err != nil || !run.Has(c.class) {
			t.Errorf("%s: %s does not fail again: %v", c.p.Name, f.Schedule, err)
		}
	}
}
