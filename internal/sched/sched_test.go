//go:build explore

package sched

import (
	"fmt"
	"strings"
	"testing"

	"inlinefs/internal/lock"
)

// The classes of the tests' locks; ranks are their own.
var (
	classA   = &lock.Class{Name: "A", Rank: 1001}
	classB   = &lock.Class{Name: "B", Rank: 1002}
	classC   = &lock.Class{Name: "C", Rank: 1003}
	classRW  = &lock.Class{Name: "rwsem", Rank: 1004, Nests: true}
	fork     = &lock.Class{Name: "fork", Rank: 1005, Nests: true}
	leafLock = &lock.Class{Name: "leaf", Rank: 1006, Leaf: true}
)

// program makes a Program of a function that builds the world's actors and its end.
func program(name string, build func() ([]func(), func() []Failure)) Program {
	return Program{Name: name, New: func() World {
		runs, finish := build()
		w := World{Finish: finish}
		for i, run := range runs {
			w.Actors = append(w.Actors, Actor{Name: fmt.Sprintf("p%d", i), Run: run})
		}
		return w
	}}
}

// points lets each actor write its counter count times; the counters are one or the actor's own.
func points(actors, count int, shared, read bool) Program {
	return program("points", func() ([]func(), func() []Failure) {
		var runs []func()
		for a := range actors {
			runs = append(runs, func() {
				for range count {
					inst := uint64(a)
					if shared {
						inst = 0
					}
					if read {
						lock.ReadPoint("x", inst)
					} else {
						lock.Point("x", inst)
					}
				}
			})
		}
		return runs, nil
	})
}

func binomial(n, k int) int64 {
	r := int64(1)
	for i := 1; i <= k; i++ {
		r = r * int64(n-k+i) / int64(i)
	}
	return r
}

func TestCounts(t *testing.T) {
	for _, c := range []struct {
		name                 string
		p                    Program
		reduced, brute       int64
		maxSleepBlockedCount int64
	}{
		{"2 actors, independent", points(2, 5, false, false), 1, binomial(10, 5), 0},
		{"2 actors, same variable", points(2, 5, true, false), binomial(10, 5), binomial(10, 5), 0},
		{"2 actors, readers", points(2, 5, true, true), 1, binomial(10, 5), 0},
		{"3 actors, independent", points(3, 3, false, false), 1, 1680, 0},
		{"3 actors, same variable", points(3, 3, true, false), 1680, 1680, 0},
		{"3 actors, readers", points(3, 3, true, true), 1, 1680, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := Exhaustive(c.p, Options{})
			if r.Err != nil || !r.Complete || r.Traces != c.reduced || r.Cut > c.maxSleepBlockedCount {
				t.Errorf("reduced: %s, %d cut, complete %v, error %v; want %d traces", r.Summary(), r.Cut, r.Complete, r.Err, c.reduced)
			}
			b := BruteForce(c.p, Options{})
			if b.Err != nil || !b.Complete || b.Traces != c.brute {
				t.Errorf("brute force: %s, complete %v, error %v; want %d traces", b.Summary(), b.Complete, b.Err, c.brute)
			}
		})
	}
}

// TestLastZero has writers of their own variable each, from the one before it, and a reader that stops at the first zero.
func TestLastZero(t *testing.T) {
	const n = 4
	p := program("lastzero", func() ([]func(), func() []Failure) {
		v := make([]int, n+1)
		runs := []func(){func() {
			for i := n; i > 0; i-- {
				lock.ReadPoint("v", uint64(i))
				if v[i] == 0 {
					return
				}
			}
		}}
		for i := 1; i <= n; i++ {
			runs = append(runs, func() {
				lock.ReadPoint("v", uint64(i-1))
				x := v[i-1] + 1
				lock.Point("v", uint64(i))
				v[i] = x
			})
		}
		return runs, nil
	})
	r := Exhaustive(p, Options{})
	t.Log(r.Summary(), r.Cut)
	// By that name in Abdulla, Aronis, Jonsson, Sagonas, "Optimal dynamic partial order reduction" (2014); (n+3) * 2^(n-2) traces.
	if want := int64((n + 3) << (n - 2)); !r.Complete || r.Traces != want {
		t.Errorf("%d traces, complete %v, want %d", r.Traces, r.Complete, want)
	}
}

func lostUpdate() Program {
	return program("lost update", func() ([]func(), func() []Failure) {
		v := 0
		inc := func() {
			lock.ReadPoint("v", 0)
			x := v
			lock.Point("v", 0)
			v = x + 1
		}
		return []func(){inc, inc}, func() []Failure {
			if v != 2 {
				return []Failure{{Class: "lost-update", Detail: fmt.Sprint(v)}}
			}
			return nil
		}
	})
}

func TestLostUpdate(t *testing.T) {
	r := Exhaustive(lostUpdate(), Options{})
	f, ok := r.Failures["lost-update"]
	if !ok || !r.Complete || r.Traces != 4 {
		t.Fatal(r.Summary())
	}
	if f.Preemptions != 1 {
		t.Errorf("%d preemptions in %s", f.Preemptions, f.Schedule)
	}
}

// abba takes two locks in opposite orders.
func abba() Program {
	return program("abba", func() ([]func(), func() []Failure) {
		var a, b lock.Mutex
		lock.NameMutex(&a, classA, 1)
		lock.NameMutex(&b, classB, 2)
		return []func(){
			func() { a.Lock(); b.Lock(); b.Unlock(); a.Unlock() },
			func() { b.Lock(); a.Lock(); a.Unlock(); b.Unlock() },
		}, nil
	})
}

func TestABBA(t *testing.T) {
	r := Exhaustive(abba(), Options{})
	f := r.Failures[LockCycle]
	if !r.Complete || !f.Blocked || r.Traces != 3 {
		t.Fatalf("%s, blocked %v", r.Summary(), f.Blocked)
	}
	if f.Detail != "deadlock: p0 waits for B 2 of p1 (holds it); p1 waits for A 1 of p0 (holds it)" {
		t.Error(f.Detail)
	}
	one, err := Replay(abba(), Schedule{Steps: []int16{0, 0, 1, 1}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !one.Has(LockCycle) || one.Failures[0].Blocked || !strings.HasPrefix(one.Failures[0].Detail, "inversion: ") {
		t.Errorf("the order alone is not reported: %+v", one.Failures)
	}
	t.Log(one)
}

// readerWriterReader deadlocks only because a waiting writer stops new readers.
func readerWriterReader() Program {
	return program("reader, writer, reader", func() ([]func(), func() []Failure) {
		var s lock.RWMutex
		var m lock.Mutex
		lock.NameRW(&s, classRW, 7)
		lock.NameMutex(&m, classA, 1)
		return []func(){
			func() { s.RLock(); m.Lock(); m.Unlock(); s.RUnlock() },
			func() { s.Lock(); s.Unlock() },
			func() { m.Lock(); s.RLock(); s.RUnlock(); m.Unlock() },
		}, nil
	})
}

func TestReaderWriterReader(t *testing.T) {
	r := Exhaustive(readerWriterReader(), Options{})
	f := r.Failures[LockCycle]
	if !r.Complete || !f.Blocked {
		t.Fatal(r.Summary(), f.Detail)
	}
	for _, part := range []string{"p0 waits for A 1 of p2 (holds it)", "p2 waits for rwsem 7 of p1 (a writer that waits for it)",
		"p1 waits for rwsem 7 of p0 (reads under it)"} {
		if !strings.Contains(f.Detail, part) {
			t.Errorf("%s lacks %q", f.Detail, part)
		}
	}
	// Without the writer nothing can block.
	two := program("two readers", func() ([]func(), func() []Failure) {
		w := readerWriterReader().New()
		return []func(){w.Actors[0].Run, w.Actors[2].Run}, nil
	})
	if f := Exhaustive(two, Options{}).Failures[LockCycle]; f.Blocked || f.Detail == "" {
		t.Errorf("two readers: %+v", f)
	}
}

func philosophers(n int) Program {
	return program("philosophers", func() ([]func(), func() []Failure) {
		forks := make([]lock.Mutex, n)
		var runs []func()
		for i := range n {
			lock.NameMutex(&forks[i], fork, uint64(i))
			runs = append(runs, func() {
				forks[i].Lock()
				forks[(i+1)%n].Lock()
				forks[(i+1)%n].Unlock()
				forks[i].Unlock()
			})
		}
		return runs, nil
	})
}

func TestPhilosophers(t *testing.T) {
	for n := 2; n <= 4; n++ {
		r := Exhaustive(philosophers(n), Options{})
		if f := r.Failures[LockCycle]; !r.Complete || !f.Blocked {
			t.Errorf("%d: %s %+v", n, r.Summary(), f)
		}
		t.Log(n, r.Summary(), r.Cut)
	}
}
