//go:build explore

package sched

import (
	"math/bits"

	"inlinefs/internal/lock"
)

// lockState is one lock in one execution, by its own identity: two locks may have the same name.
type lockState struct {
	o              *lock.Object
	writer         int8 // actor+1; 0 is nobody
	readers        [MaxActors]uint8
	sharers        int
	waiting        uint32           // writers that have queued
	released       clock            // of the writers that gave it back
	releasedShared clock            // of the readers
	releases       [MaxActors]int32 // by holder: index+1 of the last step that gave it back
	releasesShared [MaxActors]int32
	visible        bool // its operations are switch points
	tried          bool // so are its releases
	whole          bool // its sections do not commute by parts
}

// lockOf finds the state of a lock, its index included.
func (x *exec) lockOf(o *lock.Object) (int32, *lockState) {
	if o.Epoch != x.epoch {
		o.Epoch, o.Slot = x.epoch, int32(len(x.locks))
		l := lockState{o: o}
		if c := o.Class; c != nil {
			l.visible, l.tried, l.whole = !c.Leaf || x.finer.leaf[c.Rank], x.finer.try[c.Rank], x.finer.whole[c.Rank]
		}
		x.locks = append(x.locks, l)
	}
	return o.Slot, &x.locks[o.Slot]
}

// free tells whether an actor could take the lock now.
func (l *lockState) free(shared bool) bool {
	if shared {
		return l.writer == 0 && l.waiting == 0
	}
	return l.writer == 0 && l.sharers == 0
}

// canGo tells whether the actor's next step is enabled.
func (x *exec) canGo(a *actor) bool {
	switch a.pend.kind {
	case lock.Acquire:
		return x.locks[a.pend.slot].free(false)
	case lock.RAcquire:
		l := &x.locks[a.pend.slot]
		return l.free(true) && (l.o.RW || l.readers[a.id] == 0) // a mutex is not recursive, who only reads included
	}
	return true
}

// Lock is lock.Controller's.
func (x *exec) Lock(o *lock.Object, shared bool) {
	if x.skip() {
		return
	}
	a := x.cur
	slot, l := x.lockOf(o)
	reading := o.Reading
	o.Reading = false
	part := o.TakePart()
	if l.whole || l.tried { // releases that are steps end sections of two
		part = lock.AllParts
	}
	p := pending{kind: lock.Acquire, mode: modeWrite, dep: -1, part: part, slot: slot, what: o.What, inst: o.Instance}
	if shared || reading {
		p.kind, p.mode = lock.RAcquire, modeRead
	}
	if !l.visible {
		if a.pend = p; x.canGo(a) {
			x.grant(a, l, &p)
			return
		}
		x.step(a, p)
		return
	}
	x.ordered(a, o.Class, o.Instance)
	p.dep = x.objectID(o.What, o.Instance)
	if o.RW && shared {
		p.mode = modeShared
	} else if o.RW {
		p.mode = modeOwn
		if l.writer != a.id+1 { // else it waits for itself: no reader is kept out by that
			q := p
			q.kind, q.mode = lock.Queue, modeQueue
			x.step(a, q)
		}
	}
	x.step(a, p)
}

// TryLock is lock.Controller's. Who has the lock already fails in every schedule, so that is no switch point.
func (x *exec) TryLock(o *lock.Object, shared bool) bool {
	if x.skip() {
		return true
	}
	a := x.cur
	slot, l := x.lockOf(o)
	if l.writer == a.id+1 || !shared && l.readers[a.id] > 0 {
		return false
	}
	p := pending{kind: lock.TryAcquire, mode: modeTry, dep: -1, part: lock.AllParts, slot: slot, what: o.What, inst: o.Instance}
	if shared {
		p.kind = lock.TryRAcquire
	}
	if l.visible {
		x.learned.try[o.Class.Rank] = true
		p.dep = x.objectID(o.What, o.Instance)
		x.step(a, p)
		return a.got
	}
	if !l.free(shared) {
		return false
	}
	x.grant(a, l, &p)
	return true
}

// Mine is lock.Controller's. Nobody else changes the answer, so that it is no switch point.
func (x *exec) Mine(o *lock.Object) bool {
	_, l := x.lockOf(o)
	return l.writer == x.cur.id+1 || l.readers[x.cur.id] > 0
}

// take does to the locks what the step of a that was chosen does.
func (x *exec) take(a *actor) {
	p := &a.pend
	if p.slot < 0 {
		x.record(a, p.kind, p.what, p.inst, p.to)
		return
	}
	l := &x.locks[p.slot]
	switch p.kind {
	case lock.Queue:
		l.waiting |= 1 << a.id
		x.logLock(a, p.slot, 0, 0, 1)
		x.record(a, p.kind, p.what, p.inst, "")
	case lock.TryAcquire, lock.TryRAcquire:
		shared := p.kind == lock.TryRAcquire
		if a.got = l.free(shared); !a.got {
			x.events[len(x.events)-1].failed = true
			x.record(a, p.kind, p.what, p.inst, "fails")
			return
		}
		c := &a.clock
		c.join(&l.released)
		if !shared {
			c.join(&l.releasedShared)
		}
		x.events[len(x.events)-1].clock = *c
		x.grant(a, l, p)
	case lock.Acquire, lock.RAcquire:
		x.grant(a, l, p)
	default: // a release that is a step of its own happens when the actor goes on
	}
}

// grant gives the lock to a.
func (x *exec) grant(a *actor, l *lockState, p *pending) {
	shared := p.kind == lock.RAcquire || p.kind == lock.TryRAcquire
	if shared {
		l.readers[a.id]++
		l.sharers++
		x.logLock(a, p.slot, 0, 1, 0)
	} else {
		l.writer = a.id + 1
		x.logLock(a, p.slot, 1, 0, -int8(l.waiting>>a.id&1))
		l.waiting &^= 1 << a.id
	}
	hidden := p.dep < 0
	if hidden {
		a.hidden++
	}
	partial := !hidden && p.part != lock.AllParts
	if partial {
		a.partial++
	}
	a.held = append(a.held, holding{class: l.o.Class, inst: l.o.Instance, slot: p.slot, shared: shared, hidden: hidden, partial: partial})
	if !hidden {
		x.record(a, p.kind, p.what, p.inst, "")
	}
}

// Unlock is lock.Controller's. A lock that somebody tries is given back in a step of its own; for any other a switch before the release
// would show nothing: whoever could tell waits.
func (x *exec) Unlock(o *lock.Object, shared bool) {
	if x.skip() {
		return
	}
	a := x.cur
	slot, l := x.lockOf(o)
	if l.visible && l.tried {
		kind := lock.Release
		if shared {
			kind = lock.RRelease
		}
		x.step(a, pending{kind: kind, mode: modeRelease, part: lock.AllParts, dep: x.objectID(o.What, o.Instance), slot: slot, what: o.What, inst: o.Instance})
		l = &x.locks[slot]
	}
	owner := a
	switch {
	case l.writer != 0:
		owner = &x.actors[l.writer-1]
		l.writer = 0
		x.logLock(a, slot, -1, 0, 0)
		shared = false
	case l.sharers > 0:
		if l.readers[a.id] == 0 {
			owner = &x.actors[firstReader(l)]
		}
		l.readers[owner.id]--
		l.sharers--
		x.logLock(a, slot, 0, -1, 0)
		shared = true
	default:
		panic("unlock of unlocked " + o.What)
	}
	h := drop(owner, func(h *holding) bool { return h.slot == slot && h.shared == shared })
	switch {
	case h.partial: // one step: those that it conflicts with come after the acquire anyway, and others shall not
	case shared:
		l.releasedShared.join(&a.clock)
		l.releasesShared[owner.id] = a.clock[a.id]
	default:
		l.released.join(&a.clock)
		l.releases[owner.id] = a.clock[a.id]
	}
	if h.hidden {
		return
	}
	if shared {
		x.record(a, lock.RRelease, o.What, o.Instance, "")
	} else {
		x.record(a, lock.Release, o.What, o.Instance, "")
	}
}

func firstReader(l *lockState) int {
	for i, n := range l.readers {
		if n > 0 {
			return i
		}
	}
	return 0
}

// drop removes the last matching holding.
func drop(a *actor, match func(*holding) bool) holding {
	for i := len(a.held) - 1; i >= 0; i-- {
		if h := a.held[i]; match(&h) {
			a.held = append(a.held[:i], a.held[i+1:]...)
			if h.hidden {
				a.hidden--
			}
			if h.partial {
				a.partial--
			}
			return h
		}
	}
	return holding{hidden: true}
}

// Flag is lock.Controller's.
func (x *exec) Flag(o *lock.Object, store bool, to string) {
	if o.What == "" || x.skip() {
		return
	}
	p := pending{kind: lock.LoadOp, mode: modeRead, part: lock.AllParts, dep: x.objectID(o.What, o.Instance), slot: -1, what: o.What, inst: o.Instance, to: to}
	if store {
		p.kind, p.mode = lock.StoreOp, modeWrite
	}
	x.step(x.cur, p)
}

// Loaded is lock.Controller's.
func (x *exec) Loaded(v bool) {
	if !x.tracing || x.unwinding || len(x.steps) == 0 {
		return
	}
	if s := &x.steps[len(x.steps)-1]; s.Kind == lock.LoadOp && s.Detail == "" {
		s.Detail = "false"
		if v {
			s.Detail = "true"
		}
	}
}

// Point is lock.Controller's.
func (x *exec) Point(what string, inst uint64, read bool) {
	if x.skip() {
		return
	}
	p := pending{kind: lock.PointOp, mode: modeWrite, part: lock.AllParts, dep: x.objectID(what, inst), slot: -1, what: what, inst: inst}
	if read {
		p.kind, p.mode = lock.ReadPointOp, modeRead
	}
	x.step(x.cur, p)
}

// Enter is lock.Controller's. It is no switch point: it waits for nobody and nobody can tell.
func (x *exec) Enter(c *lock.Class, inst uint64) {
	if x.skip() {
		return
	}
	x.ordered(x.cur, c, inst)
	x.cur.held = append(x.cur.held, holding{class: c, inst: inst, slot: -1, shared: true})
	x.record(x.cur, lock.EnterOp, c.Name, inst, "")
}

// Leave is lock.Controller's.
func (x *exec) Leave(c *lock.Class, inst uint64) {
	if x.skip() {
		return
	}
	drop(x.cur, func(h *holding) bool { return h.slot < 0 && h.class == c && h.inst == inst })
	x.record(x.cur, lock.LeaveOp, c.Name, inst, "")
}

// promote is called when a comes to a switch point within sections that were to have none: then their order may matter after all.
func (x *exec) promote(a *actor) {
	for i := range a.held {
		h := &a.held[i]
		switch {
		case h.partial:
			x.learned.whole[h.class.Rank] = true
		case !h.hidden:
		case h.class == nil:
			x.warnings["a lock without a name is held across a switch point"] = true
		case x.opts.TrustLeaf:
			x.warnings["leaf "+h.class.Name+" is held across a switch point"] = true
		default:
			x.learned.leaf[h.class.Rank] = true
		}
	}
}

// readersOf lists the actors that share the lock.
func readersOf(l *lockState) (mask uint32) {
	for i, n := range l.readers {
		if n > 0 {
			mask |= 1 << i
		}
	}
	return mask
}

// blocking is the set of actors that a waits for.
func (x *exec) blocking(a *actor) uint32 {
	l := &x.locks[a.pend.slot]
	var m uint32
	if l.writer != 0 {
		m |= 1 << (l.writer - 1)
	}
	if a.pend.kind == lock.RAcquire {
		if !l.o.RW {
			m |= readersOf(l) & (1 << a.id)
		}
		return m | l.waiting
	}
	return m | readersOf(l)
}

func each(mask uint32, f func(i int)) {
	for ; mask != 0; mask &= mask - 1 {
		f(bits.TrailingZeros32(mask))
	}
}

func lowest(mask uint32) int { return bits.TrailingZeros32(mask) }
