//go:build explore

package sched

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"inlinefs/internal/lock"
)

func TestScheduleRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Schedule{Steps: rapid.SliceOf(rapid.Int16Range(-4, MaxActors-1)).Draw(t, "steps")}
		if rapid.Bool().Draw(t, "finer") {
			s.Finer = "l95,t130"
		}
		back, err := ParseSchedule(s.String())
		if err != nil || back.Finer != s.Finer || len(back.Steps) != len(s.Steps) || back.String() != s.String() {
			t.Fatalf("%v prints as %s and reads as %v: %v", s.Steps, s, back.Steps, err)
		}
	})
	s := Schedule{Finer: "t130", Steps: []int16{0, 0, 0, 1, ^1, ^0, ^0, 2}}
	if got := s.String(); got != "t130:0x3,1,c1,c0x2,2" {
		t.Error(got)
	}
	for _, bad := range []string{"x", "0x0", "9", "c", "-1", "0,,1", "0x99999999999", "c40000", "q5:0", "l:0", "0x2000000"} {
		if s, err := ParseSchedule(bad); err == nil {
			t.Errorf("%q reads as %v", bad, s.Steps)
		}
	}
}

// TestReplayRepeats repeats every failure of random programs and wants the same failure and the same schedule, twice the same trace.
func TestReplayRepeats(t *testing.T) {
	repeated := 0
	rapid.Check(t, func(t *rapid.T) {
		p := random(genActors(t), func(string) {})
		r := Exhaustive(p, Options{MaxExecutions: 2000})
		for class, f := range r.Failures {
			text := f.Schedule.String()
			s, err := ParseSchedule(text)
			if err != nil {
				t.Fatal(err)
			}
			a, err := Replay(p, s, Options{})
			if err != nil {
				t.Fatalf("%s of %s: %v", text, class, err)
			}
			b, err := Replay(p, a.Schedule, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if !a.Has(class) || a.Schedule.String() != text || a.Preemptions != f.Preemptions || !reflect.DeepEqual(a, b) {
				t.Fatalf("%s: replayed as %s with %v\n%s\n%s", text, a.Schedule, a.Failures, a, b)
			}
			repeated++
		}
	})
	t.Logf("%d failures repeated", repeated)
}

func TestReplayRefusesAnotherProgram(t *testing.T) {
	for _, s := range []string{"0,2", "c1", "0x2,1,0x9,1x9,0"} {
		parsed, err := ParseSchedule(s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Replay(abba(), parsed, Options{}); err == nil {
			t.Errorf("%s was replayed", s)
		}
	}
}

func TestChromeTrace(t *testing.T) {
	f, _, err := Fewest(readerWriterReader(), func(f Failure) bool { return f.Blocked }, Options{})
	if err != nil {
		t.Fatal(err)
	}
	deadlock, err := Replay(readerWriterReader(), f.Schedule, Options{})
	if err != nil {
		t.Fatal(err)
	}
	fine, err := Replay(abba(), Schedule{}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range []*Run{deadlock, fine} {
		var b bytes.Buffer
		if err := run.Chrome(&b); err != nil {
			t.Fatal(err)
		}
		var doc struct {
			TraceEvents []struct {
				Ph, Name string
				ID, Pid  int
			}
		}
		if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for _, e := range doc.TraceEvents {
			count[e.Ph]++
		}
		if count["b"] == 0 || count["b"] != count["e"] || count["s"] != count["f"] || count["M"] != 2*len(run.Actors) || count["X"] == 0 {
			t.Errorf("events by phase: %v", count)
		}
		if run == fine && count["s"] != 2 {
			t.Errorf("%d arrows, want one for each lock", count["s"])
		}
	}
}

func TestTraceSaysWhatHappened(t *testing.T) {
	p := program("trace", func() ([]func(), func() []Failure) {
		var m lock.Mutex
		var b lock.Bool
		lock.NameMutex(&m, classA, 1)
		lock.NameBool(&b, "flag", 3)
		return []func(){
			func() {
				lock.Enter(classB, 0)
				m.Lock()
				b.Store(true)
				Note("stored")
				m.Unlock()
				lock.Leave(classB, 0)
				Fail("mine", "said so")
			},
			func() {
				lock.Reading(&m)
				m.Lock()
				b.Load()
				m.Unlock()
				Choose("luck", 3)
			},
		}, nil
	})
	run, err := Replay(p, Schedule{Steps: []int16{0, 1}}, Options{})
	if err == nil {
		t.Fatalf("actor 1 took a lock that is held:\n%s", run)
	}
	run, err = Replay(p, Schedule{Steps: []int16{0, 0}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"p0 enter B 0 [B 0]", "p0 acquire A 1 [B 0, A 1]", "p1 wait A 1: for p0 (holds it)", "p0 store flag 3: true [B 0, A 1]",
		"p0 note: stored [B 0, A 1]", "p0 release A 1 [B 0]", "p0 leave B 0", "p0 note mine 0: said so", "p0 end",
		"p1 racquire A 1 [A 1 (read)]", "p1 load flag 3: true [A 1 (read)]", "p1 rrelease A 1", "p1 choose luck 0: 0", "p1 end",
	}
	var got []string
	for _, s := range run.Steps {
		got = append(got, strings.Join(strings.Fields(s.String()), " "))
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !run.Has("mine") {
		t.Error(run.Failures)
	}
}

func TestPanicLivelockLeak(t *testing.T) {
	type build = func() ([]func(), func() []Failure)
	var m *lock.Mutex
	locked := func(then func()) build {
		return func() ([]func(), func() []Failure) {
			m = &lock.Mutex{}
			lock.NameMutex(m, classA, 1)
			return []func(){then, func() { m.Lock(); m.Unlock() }}, nil
		}
	}
	for _, c := range []struct {
		name, class, detail string
		build               build
	}{
		{"panic", Panic, "p0: ouch", locked(func() { m.Lock(); panic("ouch") })},
		{"unlock", Panic, "unlock of unlocked A", locked(func() { m.Unlock() })},
		{"livelock", Livelock, "200 steps", locked(func() {
			for {
				lock.Point("spin", 0)
			}
		})},
		{"leak", LockLeak, "p0 ended with A 1", locked(func() { m.TryLock() })},
		{"itself", LockCycle, "p0 waits for A 1 of p0 (holds it)", locked(func() { m.Lock(); m.Lock() })},
	} {
		r := Exhaustive(program(c.name, c.build), Options{MaxSteps: 200, MaxExecutions: 50})
		if f, ok := r.Failures[c.class]; !ok || !strings.Contains(f.Detail, c.detail) {
			t.Errorf("%s: %s %+v %v", c.name, r.Summary(), f, r.Err)
		}
		if c.class == Livelock && r.Complete {
			t.Error("a search with a livelock calls itself complete")
		}
		if c.class == Panic {
			if _, ok := r.Failures[LockCycle]; ok {
				t.Errorf("%s: a lock that a panic left behind counts as a deadlock", c.name)
			}
		}
	}
}

// TestMineIsNoStep: an actor is told whether it holds a lock itself, whatever others do with it, and that makes no schedule more.
func TestMineIsNoStep(t *testing.T) {
	count := func(ask bool) int64 {
		r := Exhaustive(program("mine", func() ([]func(), func() []Failure) {
			var m lock.Mutex
			lock.NameMutex(&m, classA, 1)
			check := func(want bool) {
				if !ask {
					return
				}
				if mine, known := lock.Mine(&m); mine != want || !known {
					Fail("wrong", fmt.Sprintf("mine %v, known %v, want %v", mine, known, want))
				}
			}
			run := func() {
				lock.Point("begin", 0)
				check(false)
				m.Lock()
				lock.Point("within", 0)
				check(true)
				m.Unlock()
				lock.Point("end", 0)
				check(false)
			}
			return []func(){run, run}, nil
		}), Options{})
		if r.Err != nil || !r.Complete || len(r.Failures) > 0 {
			t.Fatalf("%s: %v %+v", r.Summary(), r.Err, r.Failures)
		}
		return r.Executions
	}
	if asked, not := count(true), count(false); asked != not {
		t.Errorf("%d executions with the question, %d without", asked, not)
	}
}

// TestAbandonedActorsUnwind wants deferred calls to run, once, in executions that are given up, deep in the stack, through a recover.
func TestAbandonedActorsUnwind(t *testing.T) {
	begun, ended, closed := 0, 0, 0
	var dive func(depth int, m *lock.Mutex)
	dive = func(depth int, m *lock.Mutex) {
		var pad [256]byte
		pad[depth%256] = 1
		if depth > 0 {
			dive(depth-1, m)
			pad[0]++
			return
		}
		m.Lock()
		defer m.Unlock()
		m.Lock()
	}
	p := Program{Name: "deep", New: func() World {
		var m lock.Mutex
		lock.NameMutex(&m, classA, 1)
		run := func() {
			begun++
			defer func() { ended++ }()
			func() {
				defer func() { _ = recover() }() // code under test may swallow what it does not know
				dive(2000, &m)
			}()
			for range 100 {
				m.Lock() // no-ops by then
			}
		}
		return World{Actors: []Actor{{"a", run}, {"b", run}}, Close: func() { closed++ }}
	}}
	r := Exhaustive(p, Options{})
	if !r.Complete || r.Failures[LockCycle].Count != r.Traces || begun == 0 || begun != ended || int64(closed) != r.Executions {
		t.Errorf("%s: %d begun, %d ended, %d closed", r.Summary(), begun, ended, closed)
	}
}

func TestChoices(t *testing.T) {
	p := program("choices", func() ([]func(), func() []Failure) {
		sum := 0
		run := func() {
			for range 3 {
				lock.Point("own", uint64(Running()))
				sum += Choose("fault", 2)
			}
		}
		return []func(){run, run}, func() []Failure { return []Failure{{Class: fmt.Sprintf("sum%d", sum)}} }
	})
	for _, c := range []struct {
		faults int
		traces int64
	}{{0, 64}, {1, 7}, {2, 22}, {-1, 1}} {
		r := Exhaustive(p, Options{Faults: c.faults})
		if !r.Complete || r.Traces != c.traces {
			t.Errorf("faults %d: %s, want %d", c.faults, r.Summary(), c.traces)
		}
		if c.faults == 1 {
			f := r.Failures["sum1"]
			if run, err := Replay(p, f.Schedule, Options{}); err != nil || !run.Has("sum1") {
				t.Errorf("%s: %v", f.Schedule, err)
			}
		}
	}
	if Choose("outside", 5) != 0 || Fail("outside", "") || Running() != -1 {
		t.Error("outside of an execution something happens")
	}
}

func TestNondeterminismIsSeen(t *testing.T) {
	runs := uint64(0)
	p := program("nondeterministic", func() ([]func(), func() []Failure) {
		run := func() {
			for range 3 {
				lock.Point("x", runs/3)
			}
		}
		runs++
		return []func(){run, run}, nil
	})
	if r := Exhaustive(p, Options{}); r.Err == nil || r.Complete {
		t.Errorf("%s, error %v", r.Summary(), r.Err)
	}
}

func TestBoundsAndProgress(t *testing.T) {
	p := points(3, 4, true, false)
	if r := Exhaustive(p, Options{MaxExecutions: 100}); r.Executions != 100 || r.Complete {
		t.Error(r.Summary())
	}
	stopped := false
	if r := Exhaustive(p, Options{Stop: func() bool { stopped = true; return true }}); r.Complete || !stopped {
		t.Error(r.Summary())
	}
	shown := 0
	if r := Exhaustive(points(3, 6, true, false), Options{Limit: 1200 * time.Millisecond, Progress: func(Result) { shown++ }}); r.Complete || shown == 0 {
		t.Errorf("%s, shown %d times", r.Summary(), shown)
	}
	if r := Exhaustive(points(MaxActors+1, 1, true, false), Options{}); r.Err == nil {
		t.Error("too many actors are run")
	}
	if r := Exhaustive(lostUpdate(), Options{Until: First}); r.Complete || len(r.Failures) != 1 {
		t.Error(r.Summary())
	}
}

// parts is a Case of actors with ops.
type parts [][]op

func (c parts) Program() Program { return random(c, func(string) {}) }

func (c parts) Reduce() []parts {
	var smaller []parts
	for a := range c {
		for i := range c[a] {
			var d parts
			for b := range c {
				ops := c[b]
				if a == b {
					ops = append(append([]op(nil), ops[:i]...), ops[i+1:]...)
				}
				d = append(d, ops)
			}
			smaller = append(smaller, d)
		}
	}
	return smaller
}

func TestShrink(t *testing.T) {
	lockBoth := func(a, b int) op { return op{kind: opLock, n: a, body: []op{{kind: opLoad}, {kind: opLock, n: b}}} }
	c := parts{
		{{kind: opLoad}, lockBoth(0, 1), {kind: opStore}},
		{{kind: opStore, n: 1}, {kind: opRead}, lockBoth(1, 0)},
		{{kind: opWrite}},
	}
	small, f, err := Shrink(c, func(f Failure) bool { return f.Blocked }, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(small); got != fmt.Sprint(parts{{lockBoth(0, 1)}, {lockBoth(1, 0)}, {}}) || f.Preemptions != 1 {
		t.Errorf("%s with %d preemptions by %s", got, f.Preemptions, f.Schedule)
	}
	if _, _, err := Shrink(c, OfClass("nothing"), nil, Options{}); err == nil {
		t.Error("a case that does not fail is shrunk")
	}
}

func TestCrosscheck(t *testing.T) {
	c, err := Crosscheck(readerWriterReader(), 2000, 1, Options{})
	if err != nil || int64(c.Traces) != c.Result.Traces {
		t.Errorf("%d traces of %d met, error %v", c.Traces, c.Result.Traces, err)
	}
	// The two actors share a variable that nothing announces.
	hidden := Program{Name: "hidden", New: func() World {
		v := 0
		run := func(k int) func() {
			return func() {
				lock.Point("own", uint64(k))
				v = v*3 + k
			}
		}
		return World{Actors: []Actor{{"a", run(1)}, {"b", run(2)}}, State: func() string { return fmt.Sprint(v) }}
	}}
	if c, err := Crosscheck(hidden, 100, 1, Options{}); err == nil || c.Result.Traces != 1 {
		t.Errorf("shared state is not seen: %+v", c)
	}
	if _, err := Crosscheck(points(2, 5, true, false), 1, 1, Options{MaxExecutions: 10}); err == nil {
		t.Error("an incomplete search is compared")
	}
}
