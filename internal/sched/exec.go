//go:build explore

package sched

import (
	"fmt"
	"iter"
	"runtime/debug"
	"slices"
	"strings"

	"inlinefs/internal/lock"
)

// abandoned is the panic that unwinds an actor of an execution that was given up.
type abandoned struct{}

// maxUnwind is how many operations an actor may do while it unwinds before it is made to panic again.
const maxUnwind = 1 << 14

// coro is a coroutine that runs one actor after the other, so that its stack has grown once for all executions.
type coro struct {
	next  func() (struct{}, bool)
	stop  func()
	yield func(struct{}) bool
	run   func()
}

func newCoro() *coro {
	c := &coro{}
	c.next, c.stop = iter.Pull(func(yield func(struct{}) bool) {
		c.yield = yield
		for {
			c.run()
			if !yield(struct{}{}) {
				return
			}
		}
	})
	return c
}

// actor is an Actor in an execution.
type actor struct {
	Actor
	id      int8
	co      *coro
	pend    pending
	clock   clock // of its last step
	held    []holding
	hidden  int // locks without switch points that it holds
	partial int // sections that it is in which touch only a part
	live    bool
	got     bool // its last TryLock succeeded
	waited  bool // the trace has its wait
	waits   bool // for good
	crashed bool
}

// holding is one lock, or something ordered like one, that an actor holds.
type holding struct {
	class  *lock.Class
	inst   uint64
	slot   int32 // -1: Enter
	shared bool
	hidden bool
	// partial says that the section touches a part of what the lock guards, and is one step.
	partial bool
}

// ending is why an execution stopped.
type ending uint8

const (
	endRunning ending = iota
	endDone           // all actors ended
	endBlocked        // no actor can go on
	endCut            // the strategy gave up
	endTruncated
)

// strategy decides. Both methods are called with exec's state at the decision.
type strategy interface {
	// pick names one of the enabled actors, or is negative to give the execution up.
	pick(x *exec, enabled uint32) int
	// choose names a value below n.
	choose(x *exec, n int) int
	// taken is told of the step that was picked, before it happens.
	taken(x *exec, a *actor)
	// stuck is told that actor a waits at the end of the execution.
	stuck(x *exec, a *actor)
}

// exec runs one execution after the other.
type exec struct {
	opts     Options
	strat    strategy
	maxSteps int
	coros    []*coro

	n         int
	actors    [MaxActors]actor
	cur       *actor // who runs
	chosen    *actor // who runs next
	prev      int    // who ran the last step, -1 at first
	end       ending
	started   bool // every actor stands at its first switch point
	unwinding bool
	unwound   int

	epoch   uint64
	locks   []lockState
	ids     map[objectKey]int32
	objects []object
	events  []event
	node    int32 // of the strategy's path, for the event that is being taken
	order   order

	schedule    Schedule
	preemptions int
	faults      int // choices other than 0
	failures    []Failure

	wantState bool
	state     string // World.State

	tracing bool
	steps   []Step
	logging bool
	lockLog []lockStep

	finer    finer // switch points beyond the declared ones, in this execution
	learned  finer // and in the next
	warnings map[string]bool
}

func newExec(o Options, s strategy) *exec {
	x := &exec{opts: o, strat: s, maxSteps: o.MaxSteps, ids: map[objectKey]int32{}, finer: newFiner(), learned: newFiner(),
		warnings: map[string]bool{}}
	if x.maxSteps == 0 {
		x.maxSteps = 20000
	}
	return x
}

// close ends the coroutines.
func (x *exec) close() {
	for _, c := range x.coros {
		c.stop()
	}
	x.coros = nil
}

// current is the execution under way, for Fail, Choose and Note.
var current *exec

// run makes one execution of p.
func (x *exec) run(p Program) error {
	w := p.New()
	if w.Close != nil {
		defer w.Close()
	}
	if len(w.Actors) == 0 || len(w.Actors) > MaxActors {
		return fmt.Errorf("program %s has %d actors, want 1 to %d", p.Name, len(w.Actors), MaxActors)
	}
	x.reset(w)
	x.control(x.drive)
	x.judge(w)
	return nil
}

// control runs f with the locks in the scheduler's hands.
func (x *exec) control(f func()) {
	lock.Control, current = x, x
	defer func() { lock.Control, current = nil, nil }()
	f()
}

func (x *exec) reset(w World) {
	x.epoch++
	x.n = len(w.Actors)
	x.prev, x.end, x.started, x.unwinding, x.unwound = -1, endRunning, false, false, 0
	x.locks, x.events, x.failures, x.steps = x.locks[:0], x.events[:0], nil, nil
	x.lockLog, x.state = x.lockLog[:0], ""
	x.finer = x.learned.clone()
	x.schedule = Schedule{Finer: x.finer.String(), Steps: x.schedule.Steps[:0]}
	x.preemptions, x.faults, x.node = 0, 0, 0
	x.order.reset()
	for len(x.coros) < x.n {
		x.coros = append(x.coros, newCoro())
	}
	for i := range x.n {
		x.actors[i] = actor{Actor: w.Actors[i], id: int8(i), co: x.coros[i], live: true, held: x.actors[i].held[:0]}
		a := &x.actors[i]
		a.co.run = func() { x.act(a) }
	}
}

// drive brings every actor to its first switch point, in order, and then lets the strategy decide until nobody is left to run.
func (x *exec) drive() {
	for i := range x.n {
		x.resume(&x.actors[i])
	}
	x.started = true
	x.decide()
	for x.chosen != nil {
		a := x.chosen
		x.resume(a)
		if !a.live && x.end == endRunning {
			x.decide()
		}
	}
	if x.end == endBlocked {
		x.deadlock()
	}
	for i := range x.n {
		if a := &x.actors[i]; a.live && !x.canGo(a) {
			a.waits = x.end == endBlocked
			x.strat.stuck(x, a)
		}
	}
	x.unwinding = true
	for i := range x.n {
		if a := &x.actors[i]; a.live {
			x.resume(a)
		}
	}
}

// resume runs a until its next switch point or its end.
func (x *exec) resume(a *actor) {
	x.cur = a
	a.co.next()
	x.cur = nil
}

// act is an actor's life, on its coroutine.
func (x *exec) act(a *actor) {
	defer func() {
		a.live = false
		r := recover()
		if x.unwinding {
			return
		}
		if r != nil {
			a.crashed = true
			x.fail(Failure{Class: Panic, Detail: fmt.Sprintf("%s: %v\n%s", a.Name, r, panicStack())})
		}
		x.record(a, lock.EndOp, "", 0, "")
	}()
	a.Run()
}

// panicStack is the stack below the panic, without the frames of the recovery.
func panicStack() string {
	s := string(debug.Stack())
	if i := strings.LastIndex(s, "panic("); i >= 0 {
		if j := strings.IndexByte(s[i:], '\n'); j >= 0 {
			s = s[i+j+1:]
			if j = strings.IndexByte(s, '\n'); j >= 0 { // the panic's own file and line
				s = s[j+1:]
			}
		}
	}
	return s
}

// decide chooses who takes the next step and takes it for the state of locks and clocks; chosen is nil at the end.
func (x *exec) decide() {
	x.chosen = nil
	if len(x.events) >= x.maxSteps {
		x.end = endTruncated
		return
	}
	var enabled uint32
	live := false
	for i := range x.n {
		if a := &x.actors[i]; a.live {
			live = true
			if x.canGo(a) {
				enabled |= 1 << i
			} else if x.tracing && !a.waited {
				a.waited = true
				x.record(a, lock.WaitOp, a.pend.what, a.pend.inst, "for "+x.blockers(a))
			}
		}
	}
	if enabled == 0 {
		x.end = endDone
		if live {
			x.end = endBlocked
		}
		return
	}
	i := x.strat.pick(x, enabled)
	if i < 0 {
		x.end = endCut
		return
	}
	a := &x.actors[i]
	if x.prev >= 0 && x.prev != i && enabled&(1<<x.prev) != 0 {
		x.preemptions++
	}
	x.prev = i
	x.schedule.Steps = append(x.schedule.Steps, int16(i))
	x.strat.taken(x, a)
	x.touch(a)
	x.take(a)
	x.chosen = a
}

// step hands a's next step over and returns when it was chosen and taken.
func (x *exec) step(a *actor, p pending) {
	if a.hidden > 0 || a.partial > 0 {
		x.promote(a)
	}
	a.pend = p
	a.waited = false
	if x.started {
		x.decide()
		if x.chosen == a {
			return
		}
	}
	x.cur = nil
	a.co.yield(struct{}{})
	if x.unwinding {
		panic(abandoned{})
	}
}

// skip tells whether an operation of an unwinding actor is to be left out. An actor that recovers from the unwinding and goes on for
// long is made to panic again.
func (x *exec) skip() bool {
	if !x.unwinding {
		return false
	}
	if x.unwound++; x.unwound%maxUnwind == 0 {
		panic(abandoned{})
	}
	return true
}

// judge adds what can be said after the end.
func (x *exec) judge(w World) {
	switch x.end {
	case endTruncated:
		x.fail(Failure{Class: Livelock, Detail: fmt.Sprintf("%d steps without an end", len(x.events))})
	case endDone:
		crashed := slices.ContainsFunc(x.actors[:x.n], func(a actor) bool { return a.crashed })
		if crashed {
			return
		}
		x.leaks()
		if w.Finish != nil {
			x.failures = append(x.failures, w.Finish()...)
		}
		if x.wantState && w.State != nil {
			x.state = w.State()
		}
	}
}

// fail notes a failure once.
func (x *exec) fail(f Failure) {
	if !slices.Contains(x.failures, f) {
		x.failures = append(x.failures, f)
	}
}

// Fail says, from an actor or from code under it, that the execution has failed. The execution goes on. Outside of an execution it does
// nothing and returns false.
func Fail(class, detail string) bool {
	x := current
	if x == nil {
		return false
	}
	if !x.skip() {
		x.fail(Failure{Class: class, Detail: detail})
		x.record(x.cur, lock.NoteOp, class, 0, detail)
	}
	return true
}

// Choose is a decision of the environment: a value from 0 to n-1, of which a search tries all (Options.Faults). Outside of an execution it
// is 0.
func Choose(name string, n int) int {
	x := current
	if x == nil || n <= 1 || x.skip() {
		return 0
	}
	if x.opts.Faults < 0 || x.opts.Faults > 0 && x.faults >= x.opts.Faults {
		n = 1
	}
	v := x.strat.choose(x, n)
	if v != 0 {
		x.faults++
	}
	x.schedule.Steps = append(x.schedule.Steps, ^int16(v))
	x.record(x.cur, lock.ChooseOp, name, 0, fmt.Sprint(v))
	return v
}

// Note puts a line into the trace of the execution, if one is recorded.
func Note(text string) {
	if x := current; x != nil {
		x.Note(text)
	}
}

// Running is the index of the actor that runs, -1 outside of an execution.
func Running() int {
	if current == nil || current.cur == nil {
		return -1
	}
	return int(current.cur.id)
}
