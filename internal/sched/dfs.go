//go:build explore

package sched

import (
	"fmt"
	"math/bits"

	"inlinefs/internal/lock"
)

// node is one decision on the path of a depth-first search.
type node struct {
	choice   bool
	n, value int // of a choice: how many values there are, the one being explored

	enabled   uint32
	backtrack uint32 // who is to be explored from here
	done      uint32 // who has been
	sleep     uint32 // whose subtrees need not be: explored elsewhere
	actor     int8   // being explored
	step      stepKey
}

// stepKey is what must be the same when a prefix is repeated.
type stepKey struct {
	kind lock.Kind
	what string
	inst uint64
}

func (k stepKey) String() string { return fmt.Sprintf("%s %s %d", k.kind, k.what, k.inst) }

// dfs is a depth-first search over the schedules.
type dfs struct {
	reduce bool // dynamic partial-order reduction with sleep sets
	bound  int  // preemptions allowed; -1: any number
	bitten bool // the bound has kept something out

	path  []node
	pos   int    // of the next decision
	fresh int    // from this node on, races have not been looked at
	sleep uint32 // of the state before the next decision
	err   error
	odd   int // races that could not be turned round at their node
}

// begin is called before each execution.
func (d *dfs) begin() {
	d.pos, d.sleep, d.err = 0, 0, nil
}

// pick repeats the path and extends it.
func (d *dfs) pick(x *exec, enabled uint32) int {
	if d.pos == len(d.path) && !d.extend(x, enabled) {
		return -1
	}
	n := &d.path[d.pos]
	a := &x.actors[n.actor]
	key := stepKey{a.pend.kind, a.pend.what, a.pend.inst}
	if n.choice || n.enabled != enabled || n.step.what != "" && n.step != key {
		d.err = fmt.Errorf("the program is not deterministic: decision %d of %s was %s (enabled %b), is %s of %s (enabled %b)",
			d.pos, x.schedule, n.step, n.enabled, key, a.Name, enabled)
		return -1
	}
	n.step = key
	x.node = int32(d.pos)
	d.pos++
	if d.reduce {
		sleepers := (n.sleep | n.done) &^ (1 << n.actor)
		d.sleep = 0
		each(sleepers, func(i int) {
			if !x.actors[i].pend.dependent(&a.pend) {
				d.sleep |= 1 << i
			}
		})
	}
	return int(n.actor)
}

// extend adds a node for a state that is new. It prefers to let the same actor go on: schedules are then short to tell.
func (d *dfs) extend(x *exec, enabled uint32) bool {
	n := node{enabled: enabled, sleep: d.sleep}
	candidates := enabled &^ n.sleep
	if d.bound >= 0 && x.preemptions >= d.bound && x.prev >= 0 && enabled&(1<<x.prev) != 0 {
		if candidates&^(1<<x.prev) != 0 {
			d.bitten = true
		}
		candidates &= 1 << x.prev
	}
	if candidates == 0 {
		return false
	}
	n.actor = int8(bits.TrailingZeros32(candidates))
	if x.prev >= 0 && candidates&(1<<x.prev) != 0 {
		n.actor = int8(x.prev)
	}
	n.backtrack = candidates
	if d.reduce {
		n.backtrack = 1 << n.actor
	}
	d.path = append(d.path, n)
	return true
}

// choose repeats and extends the path for a choice.
func (d *dfs) choose(x *exec, n int) int {
	if d.pos == len(d.path) {
		d.path = append(d.path, node{choice: true, n: n})
	}
	c := &d.path[d.pos]
	if !c.choice || c.n != n {
		d.err = fmt.Errorf("the program is not deterministic: decision %d of %s is a choice of %d", d.pos, x.schedule, n)
		return 0
	}
	d.pos++
	return c.value
}

// next moves the path to the next execution; false: there is none.
func (d *dfs) next() bool {
	for len(d.path) > 0 {
		n := &d.path[len(d.path)-1]
		if n.choice {
			if n.value+1 < n.n {
				n.value++
				d.fresh = len(d.path) - 1
				return true
			}
		} else {
			n.done |= 1 << n.actor
			if rest := n.backtrack &^ (n.done | n.sleep); rest != 0 {
				n.actor = int8(bits.TrailingZeros32(rest))
				n.step = stepKey{}
				d.fresh = len(d.path) - 1
				return true
			}
		}
		d.path = d.path[:len(d.path)-1]
	}
	return false
}

// taken looks for races of the step.
func (d *dfs) taken(x *exec, a *actor) {
	if d.reduce && int(x.node) >= d.fresh {
		d.races(x, a)
	}
}

// stuck looks for a race of a step that waits at the end: had none of those come first that are in its way, it could have been taken. They
// are turned round together, since one is enough to stop it. What a waits for by having queued was a race when it queued. An execution that
// is given up because the rest sleeps counts as well: what waits in it for actors that wait themselves waits for good.
func (d *dfs) stuck(x *exec, a *actor) {
	mask := x.blocking(a)
	if !d.reduce || a.pend.dep < 0 || mask&(1<<a.id) != 0 {
		return
	}
	if a.pend.mode == modeOwn {
		mask = 0
		if w := x.locks[a.pend.slot].writer; w != 0 {
			mask = 1 << (w - 1)
		}
	}
	last := x.concurrent(a)
	for q := range x.n {
		if mask&(1<<q) == 0 {
			last[q] = 0
		} else if last[q] == 0 {
			return // it came before another step of a: a never could
		}
	}
	d.reverseAll(x, a, &last)
}

// concurrent is for each other actor the index+1 of its last step that the next step of a depends on, if that does not come before the
// last step of a; else 0.
func (x *exec) concurrent(a *actor) (last clock) {
	o := &x.objects[a.pend.dep]
	for n := range lock.Parts {
		mine, touches := a.pend.on(n)
		if !touches {
			continue
		}
		for m := range modes {
			if conflicts[mine]&(1<<m) == 0 {
				continue
			}
			for q, i := range o.last[n][m] {
				if i > a.clock[q] && i > last[q] && q != int(a.id) {
					last[q] = i
				}
			}
		}
	}
	return last
}

// races finds the steps that the next step of a is in a race with: dependent, by another actor, and not ordered before it by steps between.
// The edge to an acquire from the release that ends what e began is not counted: it is the acquires that race.
func (d *dfs) races(x *exec, a *actor) {
	if a.pend.dep < 0 {
		return
	}
	last := x.concurrent(a)
	readers := 0
	for q := range x.n {
		e := last[q]
		if e == 0 {
			continue
		}
		if x.events[e-1].mode == modeRead {
			readers++
		}
		immediate := !x.released(&a.pend, q, e)
		for r := range x.n {
			if r == q || last[r] == 0 {
				continue
			}
			// A try that failed came while the lock was taken: the step waited then, and could not have stood between.
			if f := &x.events[last[r]-1]; !f.failed && f.clock[q] >= e {
				immediate = false
			}
		}
		if immediate {
			d.reverse(x, int(e-1), a)
		}
	}
	// Those who shared a mutex may have kept each other from giving it back, so that none of them is in a race alone.
	if readers > 1 && a.pend.kind == lock.Acquire {
		d.reverseAll(x, a, &last)
	}
}

// released tells whether the step with index e-1 of actor q is before the acquire p by way of a release; of q's own only if e is a try that
// failed.
func (x *exec) released(p *pending, q int, e int32) bool {
	if p.kind != lock.Acquire && p.kind != lock.RAcquire {
		return false
	}
	l := &x.locks[p.slot]
	for r := range x.n {
		if r == q && !x.events[e-1].failed {
			continue
		}
		if i := l.releases[r]; i > 0 && x.events[i-1].clock[q] >= e {
			return true
		}
		if i := l.releasesShared[r]; p.kind == lock.Acquire && i > 0 && x.events[i-1].clock[q] >= e {
			return true
		}
	}
	return false
}

// reverse makes sure that a trace is explored in which the next step of a comes before event e. What follows e and does not depend on it,
// and then a's step, can happen at the node of e: one of the actors that can begin this sequence must be explored there.
func (d *dfs) reverse(x *exec, e int, a *actor) {
	var one clock
	one[x.events[e].actor] = int32(e + 1)
	d.sequence(x, e, a, &one)
}

// reverseAll does it for several events at once, at the node of the first.
func (d *dfs) reverseAll(x *exec, a *actor, all *clock) {
	e := int32(0)
	for _, i := range all {
		if i != 0 && (e == 0 || i < e) {
			e = i
		}
	}
	if e != 0 {
		d.sequence(x, int(e-1), a, all)
	}
}

// sequence is the steps after e that none of the events in without (index+1 by actor) comes before, and then the next step of a.
func (d *dfs) sequence(x *exec, e int, a *actor, without *clock) {
	var first clock // index+1 of each actor's first step of the sequence
	var initials uint32
	p := &a.pend
	c := a.clock // of a's step at the end of the sequence
	for j := e + 1; j < len(x.events); j++ {
		f := &x.events[j]
		if x.after(&f.clock, without) {
			continue
		}
		if f.dep == p.dep && clash(p.part, p.look, p.mode, f.part, f.look, f.mode) {
			c.join(&f.clock)
		}
		if first[f.actor] != 0 {
			continue
		}
		if x.startsAlone(&f.clock, f.actor, &first) {
			initials |= 1 << f.actor
		}
		first[f.actor] = int32(j + 1)
	}
	if first[a.id] == 0 && x.startsAlone(&c, a.id, &first) {
		initials |= 1 << a.id
	}
	d.oneOf(&d.path[x.events[e].node], initials, 1<<a.id)
}

// oneOf makes sure that one of the initials is explored at n, rather the preferred one.
func (d *dfs) oneOf(n *node, initials, preferred uint32) {
	initials &= n.enabled
	if initials&(n.backtrack|n.sleep) != 0 {
		return
	}
	switch {
	case initials == 0: // a lock without a name was in the way
		d.odd++
		n.backtrack |= n.enabled
	case initials&preferred != 0:
		n.backtrack |= preferred
	default:
		n.backtrack |= initials & -initials
	}
}

// after tells whether one of the events in without (index+1 by actor) comes before a step with clock c.
func (x *exec) after(c, without *clock) bool {
	for q := range x.n {
		if without[q] != 0 && c[q] >= without[q] {
			return true
		}
	}
	return false
}

// startsAlone tells whether no step in first, by another actor, happens before a step with clock c.
func (x *exec) startsAlone(c *clock, self int8, first *clock) bool {
	for s := range x.n {
		if s != int(self) && first[s] != 0 && c[s] >= first[s] {
			return false
		}
	}
	return true
}
