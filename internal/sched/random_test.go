//go:build explore

package sched

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"inlinefs/internal/lock"
)

// opKind is one thing that an actor of a random program does.
type opKind int

const (
	opLoad    opKind = iota // a flag into the actor's register
	opStore                 // the register into a flag
	opPoint                 // a shared counter takes the register in
	opLook                  // the register takes a shared counter in
	opLock                  // a mutex around body, which reads and writes the data that it guards
	opReading               // a mutex around body, reading the data that it guards; the body may do more, against the contract of lock.Reading
	opRead                  // a RWMutex around body
	opWrite
	opLeaf // a leaf lock around body
	opTry  // a mutex around body if it is free
	opTryRead
	opTouch // a mutex around a change of one part of the data that it guards
	opPeek  // and around a look at one
	opDraw  // and around a change of one that depends on another
	opChoose
	opKinds
)

var opNames = [...]string{"load", "store", "point", "look", "lock", "reading", "read", "write", "leaf", "try", "tryread", "touch", "peek", "draw", "choose"}

type op struct {
	kind opKind
	n    int // which flag, counter or lock
	body []op
}

func (o op) String() string {
	if o.kind >= opLock && o.kind < opTouch {
		return fmt.Sprintf("%s%d%v", opNames[o.kind], o.n, o.body)
	}
	return fmt.Sprintf("%s%d", opNames[o.kind], o.n)
}

// steps is how many decisions the op needs at most, without its body.
func (o op) steps() int {
	switch o.kind {
	case opWrite, opTry, opTryRead, opLeaf:
		return 2
	}
	return 1
}

// state is the world of a random program.
type state struct {
	flags    [2]lock.Bool
	counters [2]int
	locks    [2]lock.Mutex
	guarded  [2]int
	parts    [2][2]int
	rw       lock.RWMutex
	rwData   int
	leaf     lock.Mutex
	leafData int // a counter: additions commute
	regs     [4]int
}

func (s *state) run(a int, ops []op, depth int) {
	r := &s.regs[a]
	mix := func(v int) { *r = (*r*31 + v + 1) % 10007 }
	for _, o := range ops {
		switch o.kind {
		case opLoad:
			v := 0
			if s.flags[o.n].Load() {
				v = 1
			}
			mix(v)
		case opStore:
			s.flags[o.n].Store(*r%2 == 0)
		case opPoint:
			lock.Point("counter", uint64(o.n))
			s.counters[o.n] = (s.counters[o.n]*7 + *r + a) % 10007
		case opLook:
			lock.ReadPoint("counter", uint64(o.n))
			mix(s.counters[o.n])
		case opLock:
			s.locks[o.n].Lock()
			s.guarded[o.n] = (s.guarded[o.n]*5 + *r + a + s.parts[o.n][0]) % 10007
			s.parts[o.n][1] += *r
			s.run(a, o.body, depth+1)
			s.locks[o.n].Unlock()
		case opReading:
			lock.Reading(&s.locks[o.n])
			s.locks[o.n].Lock()
			mix(s.guarded[o.n] + s.parts[o.n][1])
			s.run(a, o.body, depth+1)
			s.locks[o.n].Unlock()
		case opTry:
			got := s.locks[o.n].TryLock()
			mix(map[bool]int{true: 3, false: 4}[got])
			if got {
				s.guarded[o.n] = (s.guarded[o.n]*5 + *r + a) % 10007
				s.run(a, o.body, depth+1)
				s.locks[o.n].Unlock()
			}
		case opTouch, opPeek, opDraw:
			s.part(a, o, mix)
		case opChoose:
			mix(Choose("choice", 2))
		default:
			s.section(a, o, depth, mix)
		}
	}
}

// part changes or reads a part of what mutex 0 guards.
func (s *state) part(a int, o op, mix func(int)) {
	lock.Touching(&s.locks[0], lock.Part(1<<o.n))
	if o.kind == opPeek {
		lock.Reading(&s.locks[0])
	}
	if o.kind == opDraw {
		lock.Looking(&s.locks[0], lock.Part(1<<(1-o.n)))
	}
	s.locks[0].Lock()
	switch o.kind {
	case opPeek:
		mix(s.parts[0][o.n])
	case opDraw:
		s.parts[0][o.n] = (s.parts[0][o.n]*3 + s.parts[0][1-o.n] + s.regs[a] + a) % 10007
	default:
		s.parts[0][o.n] = (s.parts[0][o.n]*3 + s.regs[a] + a) % 10007
	}
	s.locks[0].Unlock()
}

// section is the ops on the RWMutex and the leaf lock.
func (s *state) section(a int, o op, depth int, mix func(int)) {
	switch o.kind {
	case opRead:
		s.rw.RLock()
		mix(s.rwData)
		s.run(a, o.body, depth+1)
		s.rw.RUnlock()
	case opWrite:
		s.rw.Lock()
		s.rwData = (s.rwData*3 + s.regs[a] + a) % 10007
		s.run(a, o.body, depth+1)
		s.rw.Unlock()
	case opTryRead:
		got := s.rw.TryRLock()
		mix(map[bool]int{true: 5, false: 6}[got])
		if got {
			mix(s.rwData)
			s.run(a, o.body, depth+1)
			s.rw.RUnlock()
		}
	case opLeaf:
		s.leaf.Lock()
		s.leafData++
		s.run(a, o.body, depth+1)
		s.leaf.Unlock()
	}
}

// random makes a Program of the actors' ops; the final state is reported to done.
func random(actors [][]op, done func(string)) Program {
	return Program{Name: "random", New: func() World {
		s := &state{}
		for i := range s.flags {
			lock.NameBool(&s.flags[i], "flag", uint64(i))
			lock.NameMutex(&s.locks[i], []*lock.Class{classA, classB}[i], 0)
		}
		lock.NameRW(&s.rw, classRW, 0)
		lock.NameMutex(&s.leaf, leafLock, 0)
		w := World{Finish: func() []Failure {
			done(fmt.Sprint(s.flags[0].Load(), s.flags[1].Load(), s.counters, s.guarded, s.parts, s.rwData, s.leafData, s.regs))
			return nil
		}}
		for i, ops := range actors {
			w.Actors = append(w.Actors, Actor{Name: fmt.Sprintf("p%d", i), Run: func() { s.run(i, ops, 0) }})
		}
		return w
	}}
}

// genOps draws the ops of one actor.
func genOps(t *rapid.T, kinds []opKind, budget *int, depth int) []op {
	var ops []op
	for range rapid.IntRange(1, max(1, 4-2*depth)).Draw(t, "n") {
		o := op{kind: rapid.SampledFrom(kinds).Draw(t, "kind"), n: rapid.IntRange(0, 1).Draw(t, "which")}
		if *budget -= o.steps(); *budget < 0 {
			return ops
		}
		if o.kind >= opLock && o.kind < opTouch && depth < 3 {
			o.body = genOps(t, kinds, budget, depth+1)
		}
		ops = append(ops, o)
	}
	return ops
}

// lockKinds are most of what deadlocks are made of.
var lockKinds = []opKind{opLoad, opStore, opLock, opLock, opTouch, opPeek, opDraw, opReading, opRead, opRead, opWrite, opWrite}

// genActors draws a program that brute force can explore, most times.
func genActors(t *rapid.T) [][]op {
	n := rapid.IntRange(2, 4).Draw(t, "actors")
	kinds := lockKinds
	if rapid.Bool().Draw(t, "all kinds") {
		kinds = kinds[:0:0]
		for k := range opKinds {
			kinds = append(kinds, k)
		}
	}
	var actors [][]op
	for range n {
		budget := map[int]int{2: 7, 3: 4, 4: 2}[n]
		actors = append(actors, genOps(t, kinds, &budget, 0))
	}
	return actors
}

// seen is what a search saw of a program.
type seen struct {
	finals   map[string]bool
	failures map[string]bool // class, and whether it blocked
	traces   map[string]int  // by happens-before: how often
	result   Result
}

func look(search func(Program, Options) Result, actors [][]op, o Options) seen {
	s := seen{finals: map[string]bool{}, failures: map[string]bool{}, traces: map[string]int{}}
	finer := ""
	o.inspect = func(x *exec) {
		if x.schedule.Finer != finer { // the search began again
			finer = x.schedule.Finer
			clear(s.traces)
		}
		s.traces[x.identity()]++
		for _, f := range x.failures {
			s.failures[fmt.Sprint(f.Class, f.Blocked)] = true
		}
	}
	s.result = search(random(actors, func(final string) { s.finals[final] = true }), o)
	return s
}

// failer is a *testing.T or *rapid.T.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// compare wants the same of both searches; false: the program is too big for brute force.
func compare(t failer, actors [][]op) (seen, bool) {
	t.Helper()
	brute := look(BruteForce, actors, Options{MaxExecutions: 20000})
	if brute.result.Err != nil {
		t.Fatalf("%v: %v", actors, brute.result.Err)
	}
	if !brute.result.Complete {
		return brute, false
	}
	d := &dfs{reduce: true, bound: -1}
	reduced := look(func(p Program, o Options) Result { return explore(p, o, d) }, actors, Options{})
	if d.odd != 0 {
		t.Fatalf("%v: %d races could not be reversed", actors, d.odd)
	}
	if reduced.result.Err != nil || !reduced.result.Complete {
		t.Fatalf("%v: %v, complete %v", actors, reduced.result.Err, reduced.result.Complete)
	}
	if !maps.Equal(brute.finals, reduced.finals) {
		t.Fatalf("%v: final states differ:\n brute force %v\n reduced %v", actors, sorted(brute.finals), sorted(reduced.finals))
	}
	if !maps.Equal(brute.failures, reduced.failures) {
		t.Fatalf("%v: failures differ:\n brute force %v\n reduced %v", actors, sorted(brute.failures), sorted(reduced.failures))
	}
	for trace, times := range reduced.traces {
		if times != 1 {
			t.Fatalf("%v: a trace was explored %d times: %x", actors, times, trace)
		}
		if brute.traces[trace] == 0 {
			t.Fatalf("%v: a trace that brute force has not: %x", actors, trace)
		}
	}
	if len(reduced.traces) != len(brute.traces) {
		t.Fatalf("%v: %d traces explored, there are %d (%d executions)", actors, len(reduced.traces), len(brute.traces), brute.result.Traces)
	}
	return reduced, true
}

func TestReductionIsSound(t *testing.T) {
	programs, biggest, cut, traces := 0, 0, int64(0), int64(0)
	rapid.Check(t, func(t *rapid.T) {
		actors := genActors(t)
		reduced, ok := compare(t, actors)
		if !ok {
			t.Skip("too big")
		}
		programs++
		biggest = max(biggest, len(reduced.traces))
		cut += reduced.result.Cut
		traces += reduced.result.Traces
	})
	t.Logf("%d programs, up to %d traces, %d traces in all, %d executions cut", programs, biggest, traces, cut)
}

// TestReductionOnKnownPrograms has the programs that reductions of this search have failed on.
func TestReductionOnKnownPrograms(t *testing.T) {
	load, store := op{kind: opLoad}, op{kind: opStore}
	load1, store1 := op{kind: opLoad, n: 1}, op{kind: opStore, n: 1}
	of := func(k opKind, body ...op) op { return op{kind: k, body: body} }
	for _, actors := range [][][]op{
		{{of(opWrite, of(opWrite, load))}, {of(opRead, load)}},                                              // waits for itself
		{{of(opRead, of(opWrite))}, {of(opWrite)}, {of(opRead)}},                                            // two writers keep a reader out for good
		{{of(opRead, of(opWrite, load))}, {of(opTryRead, load)}},                                            // tried while somebody waits for itself
		{{of(opWrite)}, {of(opTryRead)}, {of(opRead)}},                                                      // a try that failed before a reader's release
		{{of(opRead)}, {of(opWrite)}, {of(opWrite)}},                                                        // a writer overtaken by another
		{{of(opReading, store, load1)}, {of(opReading, store1, load)}, {of(opLock)}},                        // each sharer lets the other go
		{{of(opReading, store, store1)}, {of(opReading, store, store1)}, {of(opLock, load)}},                // one does
		{{of(opWrite, of(opRead))}, {of(opWrite, of(opLock))}, {load, of(opLock, of(opRead))}},              // waits in an execution that is given up
		{{load, of(opLock), of(opRead)}, {load, of(opWrite, of(opRead))}, {store, of(opLock, of(opWrite))}}, // kept out twice, one after the other
		{{store, {kind: opTouch}}, {{kind: opTouch, n: 1}, load}},                                           // sections on different parts order nothing
		{{of(opLock, load), {kind: opTouch}}, {{kind: opPeek}, store}, {{kind: opPeek, n: 1}, load}},
		{{{kind: opDraw}, {kind: opDraw, n: 1}}, {{kind: opPeek}, {kind: opDraw}}},
		{{{kind: opDraw}, of(opLock, load)}, {{kind: opPeek, n: 1}, store}, {{kind: opTouch, n: 1}, load}},
		{{of(opTryRead, of(opTryRead))}, {{kind: opPeek}, of(opWrite)}, {of(opRead)}}, // a try failed while it waited
		{{of(opLock, load)}, {{kind: opPeek}, of(opTry), of(opTry)}, {of(opLock)}},
		{{of(opReading, of(opRead, load))}, {of(opWrite, of(opReading))}, {of(opLock)}},
	} {
		if _, ok := compare(t, actors); !ok {
			t.Errorf("%v: too big", actors)
		}
	}
}

func sorted(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }
