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
		d.races(x, a, ^uint32(0))
	}
}

// stuck looks for races of a step that will never be taken with those of who is in its way: had they not come first, it could have been.
func (d *dfs) stuck(x *exec, a *actor) {
	if mask := x.blocking(a); d.reduce && mask&(1<<a.id) == 0 {
		d.races(x, a, mask)
	}
}

// races finds the steps of the actors among that the next step of a is in a race with: dependent, by another actor, and not ordered before it by steps
// between. The edge from a release to the acquire that it allows is not counted, since it is the acquires that race, but for a try that
// failed: it was before the release.
func (d *dfs) races(x *exec, a *actor, among uint32) {
	p := &a.pend
	if p.dep < 0 {
		return
	}
	o := &x.objects[p.dep]
	var last clock // index+1 of each actor's last dependent step, if it is not before a's last step
	for m := range modes {
		if conflicts[p.mode]&(1<<m) == 0 {
			continue
		}
		for q, i := range o.last[m] {
			if i > a.clock[q] && i > last[q] && q != int(a.id) {
				last[q] = i
			}
		}
	}
	for q := range x.n {
		e := last[q]
		if e == 0 || among&(1<<q) == 0 {
			continue
		}
		immediate := !x.events[e-1].failed || !x.beforeRelease(p, q, e)
		for r := range x.n {
			if r != q && last[r] != 0 && x.events[last[r]-1].clock[q] >= e {
				immediate = false
			}
		}
		if immediate {
			d.reverse(x, int(e-1), a, &last)
		}
	}
}

// beforeRelease tells whether the step with index e-1 of actor q came before a release that p's acquire had to wait for.
func (x *exec) beforeRelease(p *pending, q int, e int32) bool {
	if p.slot < 0 {
		return false
	}
	l := &x.locks[p.slot]
	return l.released[q] >= e || (p.kind == lock.Acquire || p.kind == lock.TryAcquire) && l.releasedShared[q] >= e
}

// reverse makes sure that a trace is explored in which the next step of a comes before event e. What follows e and does not depend on it,
// and then a's step, can happen at the node of e: one of the actors that can begin this sequence must be explored there.
func (d *dfs) reverse(x *exec, e int, a *actor, last *clock) {
	q := x.events[e].actor
	var first clock // index+1 of each actor's first step of the sequence
	var initials uint32
	for j := e + 1; j < len(x.events); j++ {
		f := &x.events[j]
		if f.clock[q] > int32(e) || first[f.actor] != 0 {
			continue
		}
		if startsAlone(x, &f.clock, f.actor, &first) {
			initials |= 1 << f.actor
		}
		first[f.actor] = int32(j + 1)
	}
	if first[a.id] == 0 {
		c := a.clock
		for _, i := range last {
			if i != 0 && x.events[i-1].clock[q] <= int32(e) {
				c.join(&x.events[i-1].clock)
			}
		}
		if startsAlone(x, &c, a.id, &first) {
			initials |= 1 << a.id
		}
	}
	n := &d.path[x.events[e].node]
	initials &= n.enabled
	if initials&(n.backtrack|n.sleep) != 0 {
		return
	}
	switch {
	case initials == 0: // a lock without a name was in the way
		d.odd++
		n.backtrack |= n.enabled
	case initials&(1<<a.id) != 0:
		n.backtrack |= 1 << a.id
	default:
		n.backtrack |= initials & -initials
	}
}

// startsAlone tells whether no step in first, by another actor, happens before a step with clock c.
func startsAlone(x *exec, c *clock, self int8, first *clock) bool {
	for s := range x.n {
		if s != int(self) && first[s] != 0 && c[s] >= first[s] {
			return false
		}
	}
	return true
}
