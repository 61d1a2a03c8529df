//go:build deadlock && !explore

package lock

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files")

// reports collects what is reported while the test runs.
type reports struct {
	mu   sync.Mutex
	list []Report // guarded by mu
}

func listen(t *testing.T) *reports {
	t.Helper()
	r := &reports{}
	OnCycle(func(x Report) {
		r.mu.Lock()
		r.list = append(r.list, x)
		r.mu.Unlock()
	})
	t.Cleanup(func() { OnCycle(nil) })
	return r
}

// want checks that exactly one report was made, of the given kind and pair, since the last call.
func (r *reports) want(t *testing.T, kind, held, taken string) Report {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	got := r.list
	r.list = nil
	if len(got) != 1 {
		t.Fatalf("%d reports, want one of %s: %s under %s\n%v", len(got), kind, taken, held, got)
	}
	if x := got[0]; x.Kind != kind || x.Held != held || x.Taken != taken {
		t.Fatalf("report %s: %s under %s, want %s: %s under %s\n%s", x.Kind, x.Taken, x.Held, kind, taken, held, x.Text)
	}
	return got[0]
}

func (r *reports) none(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.list) != 0 {
		t.Fatalf("%d reports, want none:\n%s", len(r.list), r.list[0].Text)
	}
}

// apart runs fn on a goroutine of its own and waits for its end.
func apart(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	<-done
}

func named(c *Class, inst uint64) *Mutex {
	m := new(Mutex)
	NameMutex(m, c, inst)
	return m
}

func namedRW(c *Class, inst uint64) *RWMutex {
	m := new(RWMutex)
	NameRW(m, c, inst)
	return m
}

// both takes a and then b.
func both(a, b sync.Locker) {
	a.Lock()
	b.Lock()
	b.Unlock()
	a.Unlock()
}

// lineNumbers is what changes in a report from run to run and edit to edit.
var lineNumbers = regexp.MustCompile(`goroutine \d+|\.go:\d+`)

// golden compares a report, without its numbers and the frames of the test runner, with the file.
func golden(t *testing.T, name, text string) {
	t.Helper()
	var w strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, "testing.") {
			continue
		}
		w.WriteString(lineNumbers.ReplaceAllStringFunc(line, func(s string) string {
			if strings.HasPrefix(s, "goroutine") {
				return "goroutine G"
			}
			return ".go:N"
		}))
	}
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(w.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if w.String() != string(want) {
		t.Errorf("the report is\n%s\nwant\n%s", w.String(), want)
	}
}

func TestInversionOfTwo(t *testing.T) {
	r := listen(t)
	a, b := &Class{Name: "ab_a"}, &Class{Name: "ab_b"}
	m, n := named(a, 1), named(b, 2)
	apart(func() { both(m, n) })
	r.none(t)
	apart(func() { both(n, m) })
	golden(t, "inversion.txt", r.want(t, KindCycle, "ab_b", "ab_a").Text)
	// By class: other instances in either order are the same pair.
	apart(func() { both(named(b, 3), named(a, 4)) })
	apart(func() { both(named(a, 3), named(b, 4)) })
	r.none(t)
}

func TestCycleOfThree(t *testing.T) {
	r := listen(t)
	a, b, c := &Class{Name: "abc_a"}, &Class{Name: "abc_b"}, &Class{Name: "abc_c"}
	apart(func() { both(named(a, 1), named(b, 2)) })
	apart(func() { both(named(b, 3), named(c, 4)) })
	r.none(t)
	apart(func() { both(named(c, 5), named(a, 6)) })
	x := r.want(t, KindCycle, "abc_c", "abc_a")
	golden(t, "three.txt", x.Text)
	// The wrong edge is blamed once and proves nothing: the right ones go on.
	apart(func() { both(named(a, 1), named(c, 2)) })
	r.none(t)
}

func TestShortestCycle(t *testing.T) {
	r := listen(t)
	a, b, c, d := &Class{Name: "short_a"}, &Class{Name: "short_b"}, &Class{Name: "short_c"}, &Class{Name: "short_d"}
	for _, p := range [][2]*Class{{a, b}, {b, c}, {c, d}, {a, d}} {
		apart(func() { both(named(p[0], 1), named(p[1], 2)) })
	}
	apart(func() { both(named(d, 1), named(a, 2)) })
	x := r.want(t, KindCycle, "short_d", "short_a")
	if strings.Contains(x.Text, "-> #2") || strings.Contains(x.Text, "Chain exists") || !strings.Contains(x.Text, "-> #1 (short_d)") {
		t.Errorf("the cycle of two is shorter than the one of four:\n%s", x.Text)
	}
}

func TestRank(t *testing.T) {
	r := listen(t)
	low, high := &Class{Name: "rank_low", Rank: 1000}, &Class{Name: "rank_high", Rank: 1001}
	apart(func() { both(namedRW(high, 7).RLocker(), namedRW(low, 8)) })
	golden(t, "rank.txt", r.want(t, KindRank, "rank_high", "rank_low").Text)
	apart(func() { both(namedRW(low, 7), namedRW(high, 8)) })
	r.none(t)
}

func TestRecursion(t *testing.T) {
	OnCycle(nil)
	r := &reports{}
	OnCycle(func(x Report) {
		r.mu.Lock()
		r.list = append(r.list, x)
		r.mu.Unlock()
		runtime.Goexit() // the lock would wait for its own goroutine
	})
	defer OnCycle(nil)
	m := named(&Class{Name: "recursive"}, 3)
	apart(func() {
		m.Lock()
		m.Lock()
	})
	golden(t, "recursion.txt", r.want(t, KindRecursion, "recursive", "recursive").Text)
	n := namedRW(&Class{Name: "recursive_read", Nests: true}, 3)
	apart(func() {
		n.RLock()
		n.RLock()
	})
	r.want(t, KindRecursion, "recursive_read", "recursive_read")
}

func TestNesting(t *testing.T) {
	r := listen(t)
	c := &Class{Name: "alone"}
	apart(func() { both(named(c, 1), named(c, 2)) })
	r.want(t, KindNesting, "alone", "alone")
}

// TestReaders: a writer who waits between the two stops the second reader.
func TestReaders(t *testing.T) {
	r := listen(t)
	a, b := &Class{Name: "read_a", Rank: 1010, Nests: true}, &Class{Name: "read_b", Rank: 1020}
	m, n := namedRW(a, 1), namedRW(b, 2)
	apart(func() { both(m.RLocker(), n.RLocker()) })
	apart(func() { both(n.RLocker(), m.RLocker()) })
	x := r.want(t, KindRank, "read_b", "read_a")
	for _, s := range []string{"rlock(read_b 2);", "rlock(read_a);", "-> #1 (read_b){-+--}, shared"} {
		if !strings.Contains(x.Text, s) {
			t.Errorf("no %q in\n%s", s, x.Text)
		}
	}
}

func TestInstances(t *testing.T) {
	r := listen(t)
	c := &Class{Name: "tree", Nests: true}
	outer := named(&Class{Name: "gate"}, 0)
	parent, child, other := namedRW(c, 20), namedRW(c, 10), namedRW(c, 30)
	apart(func() { both(parent, child); both(child, other); both(parent, other) })
	r.none(t)
	// Under one exclusive lock at both places the two orders never meet.
	apart(func() {
		outer.Lock()
		x, y := namedRW(c, 1), namedRW(c, 2)
		both(x, y)
		both(y, x)
		outer.Unlock()
	})
	r.none(t)
	apart(func() { both(child, parent) })
	golden(t, "instances.txt", r.want(t, KindInstances, "tree", "tree").Text)
}

// TestMovedDirectory: who is whose parent may change under s_vfs_rename_mutex.
func TestMovedDirectory(t *testing.T) {
	r := listen(t)
	c := &Class{Name: "moved", Nests: true}
	a, b, rename := namedRW(c, 1), namedRW(c, 2), named(Rename, 0)
	apart(func() { both(a, b) })
	apart(func() { rename.Lock(); rename.Unlock() })
	apart(func() { both(b, a) })
	r.none(t)
	apart(func() { both(a, b) })
	r.want(t, KindInstances, "moved", "moved")
}

func TestTryLock(t *testing.T) {
	r := listen(t)
	low, high := &Class{Name: "try_low", Rank: 1030}, &Class{Name: "try_high", Rank: 1040}
	m, n := named(low, 1), named(high, 2)
	apart(func() { // a try waits for nobody
		n.Lock()
		defer n.Unlock()
		if !m.TryLock() {
			t.Error("free lock, and TryLock fails")
		}
		apart(func() {
			if m.TryLock() {
				t.Error("held lock, and TryLock succeeds")
			}
		})
		m.Unlock()
	})
	r.none(t)
	// A failed try keeps the record of the real holder: his recursion is still seen. And what is taken under a tried lock is judged.
	apart(func() {
		if !n.TryLock() {
			t.Fatal("free lock, and TryLock fails")
		}
		m.Lock()
		m.Unlock()
		n.Unlock()
	})
	x := r.want(t, KindRank, "try_high", "try_low")
	if !strings.Contains(x.Text, "(try_high){+-+-} of 2, exclusive by trying") {
		t.Errorf("the report does not say that the lock was tried:\n%s", x.Text)
	}
	// go-deadlock compares orders for a try too; of locks with names nobody hears it.
	apart(func() { both(m, n) })
	apart(func() {
		n.Lock()
		if !m.TryLock() {
			t.Error("free lock, and TryLock fails")
		}
		m.Unlock()
		n.Unlock()
	})
	time.Sleep(10 * time.Millisecond) // its reports come from another goroutine
	r.none(t)
	rw := namedRW(&Class{Name: "try_rw"}, 1)
	switch {
	case !rw.TryRLock() || !rw.TryRLock():
		t.Error("no writer, and TryRLock fails")
	case rw.TryLock():
		t.Error("readers, and TryLock succeeds")
	}
	rw.RUnlock()
	rw.RUnlock()
	if !rw.TryLock() || rw.TryRLock() {
		t.Error("TryLock of a free lock fails, or TryRLock of a held one succeeds")
	}
	rw.Unlock()
}

func TestTriesInParallel(t *testing.T) {
	r := listen(t)
	m := named(&Class{Name: "tries"}, 1)
	var wg sync.WaitGroup
	n, got := 0, make([]int, 4) // n is guarded by m
	for k := range got {
		wg.Go(func() {
			for range 2000 {
				if k%2 == 0 {
					m.Lock()
				} else if !m.TryLock() {
					continue
				}
				n++
				got[k]++
				m.Unlock()
			}
		})
	}
	wg.Wait()
	if sum := got[0] + got[1] + got[2] + got[3]; n != sum {
		t.Errorf("counted %d under the lock, want %d", n, sum)
	}
	r.none(t)
}

// TestHandle: what is entered takes part like a lock.
func TestHandle(t *testing.T) {
	r := listen(t)
	handle, sem := &Class{Name: "handle", Rank: 1050}, &Class{Name: "sem", Rank: 1060}
	m := namedRW(sem, 12)
	apart(func() {
		Enter(handle, 0)
		m.Lock()
		m.Unlock()
		Leave(handle, 0)
		m.Lock()
		Enter(handle, 0)
		Leave(handle, 0)
		m.Unlock()
	})
	golden(t, "handle.txt", r.want(t, KindRank, "sem", "handle").Text)
	apart(func() {
		Enter(handle, 1)
		Enter(handle, 2)
		Leave(handle, 1)
		Leave(handle, 2)
	})
	r.want(t, KindNesting, "handle", "handle")
	apart(func() {
		defer func() {
			if recover() == nil {
				t.Error("Leave without Enter, want a panic")
			}
		}()
		Leave(handle, 3)
	})
}

// TestOtherGoroutineReleases: the record goes with the lock, whoever releases it.
func TestOtherGoroutineReleases(t *testing.T) {
	r := listen(t)
	low, high := &Class{Name: "pass_low", Rank: 1070}, &Class{Name: "pass_high", Rank: 1080}
	m, n := named(low, 1), named(high, 1)
	n.Lock()
	apart(n.Unlock)
	m.Lock()
	m.Unlock()
	Enter(high, 5)
	apart(func() { Leave(high, 5) })
	m.Lock()
	m.Unlock()
	r.none(t)
	for k := range running {
		s := &running[k]
		s.mu.Lock()
		for id, g := range s.m {
			for _, h := range g.held {
				if h.class == low || h.class == high {
					t.Errorf("goroutine %d still holds %s", id, h.class.Name)
				}
			}
		}
		s.mu.Unlock()
	}
}

// TestWithoutNames: locks without names are go-deadlock's.
func TestWithoutNames(t *testing.T) {
	heard := make(chan Report, 10)
	OnCycle(func(x Report) { heard <- x })
	defer OnCycle(nil)
	var a, b Mutex
	for range 3 {
		both(&a, &b)
		both(&b, &a)
	}
	x := <-heard
	if x.Kind != KindInstances || !strings.Contains(x.Text, "Inconsistent locking") || !strings.Contains(x.Text, "TestWithoutNames") {
		t.Errorf("report %s, want go-deadlock's of an inversion:\n%s", x.Kind, x.Text)
	}
}

// TestReceiverMayLock: the receiver of a report runs under what its goroutine holds, and its own locks are not judged.
func TestReceiverMayLock(t *testing.T) {
	low, high := &Class{Name: "recv_low", Rank: 1090}, &Class{Name: "recv_high", Rank: 1100}
	lowest := named(&Class{Name: "recv_lowest", Rank: 1085}, 0)
	n := 0
	OnCycle(func(Report) {
		n++
		lowest.Lock()
		lowest.Unlock()
	})
	defer OnCycle(nil)
	apart(func() { both(named(high, 1), named(low, 1)) })
	if n != 1 {
		t.Errorf("%d reports, want 1", n)
	}
}

// TestMine: a lock is the caller's while it holds it, not another's, with a name and without.
func TestMine(t *testing.T) {
	for _, m := range []*Mutex{named(&Class{Name: "mine"}, 1), new(Mutex)} {
		want := func(what string, want bool) {
			t.Helper()
			if mine, known := Mine(m); mine != want || !known {
				t.Errorf("%s: mine %v, known %v", what, mine, known)
			}
		}
		want("free", false)
		m.Lock()
		want("taken", true)
		apart(func() { want("taken by another", false) })
		m.Unlock()
		want("given back", false)
		if !m.TryLock() {
			t.Fatal("a free lock is not to be had")
		}
		want("tried", true)
		m.Unlock()
	}
}

// TestDefault runs itself: without a receiver a report ends the process with status 2.
func TestDefault(t *testing.T) {
	low, high := &Class{Name: "exit_low", Rank: 1110}, &Class{Name: "exit_high", Rank: 1120}
	if os.Getenv("LOCK_TEST_EXIT") != "" {
		both(named(high, 1), named(low, 1))
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestDefault$")
	cmd.Env = append(os.Environ(), "LOCK_TEST_EXIT=1")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "exit_low taken under exit_high closes a cycle") {
		t.Errorf("%v, want exit status 2 and the report:\n%s", err, out)
	}
}

func BenchmarkNestedPair(b *testing.B) {
	m, n := named(&Class{Name: "bench_a"}, 1), named(&Class{Name: "bench_b"}, 1)
	b.ReportAllocs()
	for b.Loop() {
		both(m, n)
	}
}
