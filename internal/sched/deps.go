//go:build explore

package sched

import "inlinefs/internal/lock"

// mode is how a step touches its object; conflicts says which modes do not commute.
type mode uint8

const (
	modeRead    mode = iota // a load, a read point, a mutex that is taken for reading only
	modeWrite               // a store, a point, a mutex that is taken
	modeQueue               // a writer of a RWMutex stops later readers
	modeShared              // a reader of a RWMutex takes it
	modeOwn                 // a writer of a RWMutex takes it, having queued
	modeTry                 // a lock is taken if free
	modeRelease             // a lock is given back, where somebody tries it
	modes
)

// conflicts has the bits of the modes that do not commute with each. A reader and a writer of a RWMutex meet in modeQueue: when the
// writer has queued, no reader is enabled, and before it has, modeOwn is not. A release conflicts with nobody but those who try: who
// waits is not enabled before it.
var conflicts = [modes]uint32{
	modeRead:    1<<modeWrite | 1<<modeTry,
	modeWrite:   1<<modeRead | 1<<modeWrite | 1<<modeTry,
	modeQueue:   1<<modeShared | 1<<modeTry,
	modeShared:  1<<modeQueue | 1<<modeTry,
	modeOwn:     1<<modeOwn | 1<<modeTry,
	modeTry:     1<<modeRead | 1<<modeWrite | 1<<modeQueue | 1<<modeShared | 1<<modeOwn | 1<<modeTry | 1<<modeRelease,
	modeRelease: 1 << modeTry,
}

// pending is the step that an actor takes when it is chosen next.
type pending struct {
	kind lock.Kind
	mode mode
	dep  int32     // index of the object that it touches; -1: none
	part lock.Part // of the object
	look lock.Part // parts that it only reads, whatever its mode
	slot int32     // index of the lock that must be free; -1: none
	what string
	inst uint64
	to   string // what is stored, for the trace
}

// dependent tells whether the order of the two steps, by different actors, matters.
func (p *pending) dependent(q *pending) bool {
	return p.dep >= 0 && p.dep == q.dep && clash(p.part, p.look, p.mode, q.part, q.look, q.mode)
}

// clash tells whether two steps on one object do not commute: there is a part that both touch, in modes that conflict.
func clash(part, look lock.Part, m mode, part2, look2 lock.Part, m2 mode) bool {
	return part&part2 != 0 && conflicts[m]&(1<<m2) != 0 || part&look2 != 0 && conflicts[m]&(1<<modeRead) != 0 ||
		look&part2 != 0 && conflicts[modeRead]&(1<<m2) != 0
}

// on is how the step touches part n of its object; false: not at all.
func (p *pending) on(n int) (mode, bool) {
	if p.part&(1<<n) != 0 {
		return p.mode, true
	}
	return modeRead, p.look&(1<<n) != 0
}

// clock has for each actor the index+1 of its last step that happened before.
type clock [MaxActors]int32

func (c *clock) join(o *clock) {
	for i, v := range o {
		if v > c[i] {
			c[i] = v
		}
	}
}

// event is one step that was taken.
type event struct {
	actor int8
	mode  mode
	// failed says of modeTry that the lock was not free.
	failed bool
	kind   lock.Kind
	part   lock.Part
	look   lock.Part
	dep    int32
	slot   int32
	node   int32 // of the search's path
	clock  clock // its own index+1 included
}

// object is what is remembered of accesses to one named thing in one execution.
type object struct {
	epoch uint64
	last  [lock.Parts][modes][MaxActors]int32 // index+1 of the last event
}

type objectKey struct {
	what string
	inst uint64
}

// objectID finds the object of that name. Numbers stay for the life of the exec.
func (x *exec) objectID(what string, inst uint64) int32 {
	k := objectKey{what, inst}
	id, ok := x.ids[k]
	if !ok {
		id = int32(len(x.objects))
		x.ids[k] = id
		x.objects = append(x.objects, object{})
	}
	if o := &x.objects[id]; o.epoch != x.epoch {
		*o = object{epoch: x.epoch}
	}
	return id
}

// joinPart puts c after the steps on one part of an object that a step of mode m conflicts with.
func (x *exec) joinPart(c *clock, last *[modes][MaxActors]int32, mine mode) {
	for m := range modes {
		if conflicts[mine]&(1<<m) == 0 {
			continue
		}
		for q := range x.n {
			if i := last[m][q]; i > c[q] {
				c.join(&x.events[i-1].clock)
			}
		}
	}
}

// touch gives the step that actor a takes its place in the happens-before order.
func (x *exec) touch(a *actor) {
	p := &a.pend
	k := int32(len(x.events))
	c := a.clock
	if p.dep >= 0 {
		o := &x.objects[p.dep]
		for n := range lock.Parts {
			if m, touches := p.on(n); touches {
				x.joinPart(&c, &o.last[n], m)
				o.last[n][m][a.id] = k + 1
			}
		}
	}
	if p.slot >= 0 {
		l := &x.locks[p.slot]
		switch {
		case p.kind == lock.Acquire:
			c.join(&l.released)
			c.join(&l.releasedShared)
		case p.kind == lock.RAcquire:
			c.join(&l.released)
		}
	}
	c[a.id] = k + 1
	a.clock = c
	x.events = append(x.events, event{actor: a.id, mode: p.mode, kind: p.kind, part: p.part, look: p.look, dep: p.dep, slot: p.slot, node: x.node, clock: c})
}
