//go:build explore

package sched

import (
	"fmt"
	"math/bits"
	"strings"

	"inlinefs/internal/lock"
)

// maxClasses is how many classes of locks the order check tells apart in one execution.
const maxClasses = 64

// order is lockdep's graph for one execution: which class was taken while which was held.
type order struct {
	classes []*lock.Class
	after   [maxClasses]uint64 // after[a] has bit b: b was taken under a
	edges   []edge
}

type edge struct {
	from, to         int
	fromInst, toInst uint64
	actors           uint32 // who did so
}

func (o *order) reset() {
	clear(o.after[:len(o.classes)])
	o.classes, o.edges = o.classes[:0], o.edges[:0]
}

func (o *order) index(c *lock.Class) int {
	for i, d := range o.classes {
		if c == d {
			return i
		}
	}
	if len(o.classes) == maxClasses {
		return -1
	}
	o.classes = append(o.classes, c)
	return len(o.classes) - 1
}

// ordered checks that a may take a lock of class c after those that it holds. The attempt counts, as in lockdep.
func (x *exec) ordered(a *actor, c *lock.Class, inst uint64) {
	if len(a.held) == 0 {
		return
	}
	o := &x.order
	to := o.index(c)
	for i := range a.held {
		h := &a.held[i]
		if h.class == nil || h.hidden || to < 0 {
			continue
		}
		if h.class == c {
			if !c.Nests && h.inst != inst {
				x.fail(Failure{Class: LockCycle, Detail: fmt.Sprintf("inversion: %s takes %s %d while it holds %d of the class, which does not nest",
					a.Name, c.Name, inst, h.inst)})
			}
			continue
		}
		x.edge(a, edge{from: o.index(h.class), to: to, fromInst: h.inst, toInst: inst, actors: 1 << a.id})
	}
}

// edge notes that a took e.to under e.from and, if that is new, looks for a cycle that two actors make.
func (x *exec) edge(a *actor, e edge) {
	o := &x.order
	if e.from < 0 {
		return
	}
	if o.after[e.from]&(1<<e.to) != 0 {
		old := o.find(e.from, e.to)
		if old.actors&(1<<a.id) != 0 {
			return
		}
		old.actors |= 1 << a.id
	} else {
		o.after[e.from] |= 1 << e.to
		o.edges = append(o.edges, e)
	}
	if !o.reaches(e.to, e.from) {
		return
	}
	path := o.cycle([]int{e.from, e.to}, o.find(e.from, e.to).actors)
	var text []string
	for i := 1; i < len(path); i++ {
		d := o.find(path[i-1], path[i])
		text = append(text, fmt.Sprintf("%s takes %s %d under %s %d", x.names(d.actors), o.classes[d.to].Name, d.toInst,
			o.classes[d.from].Name, d.fromInst))
	}
	if text != nil {
		x.fail(Failure{Class: LockCycle, Detail: "inversion: " + strings.Join(text, ", ")})
	}
}

func (o *order) find(from, to int) *edge {
	for i := range o.edges {
		if o.edges[i].from == from && o.edges[i].to == to {
			return &o.edges[i]
		}
	}
	return nil
}

// reaches tells whether there is a way from one class to another along the edges.
func (o *order) reaches(from, to int) bool {
	seen := uint64(1) << from
	for todo := seen; todo != 0; {
		c := bits.TrailingZeros64(todo)
		todo &^= 1 << c
		if c == to {
			return true
		}
		todo |= o.after[c] &^ seen
		seen |= o.after[c]
	}
	return false
}

// cycle is the shortest way to go on from path, without a class twice, back to its start, such that more than one actor made the edges; nil
// if there is none. who made those of path.
func (o *order) cycle(path []int, who uint32) (best []int) {
	for i := range o.edges {
		e := &o.edges[i]
		if e.from != path[len(path)-1] {
			continue
		}
		next := append(path[:len(path):len(path)], e.to)
		if e.to == path[0] {
			if bits.OnesCount32(who|e.actors) > 1 {
				return next
			}
			continue
		}
		if contains(path, e.to) || !o.reaches(e.to, path[0]) {
			continue
		}
		if c := o.cycle(next, who|e.actors); c != nil && (best == nil || len(c) < len(best)) {
			best = c
		}
	}
	return best
}

// names lists the actors of a mask.
func (x *exec) names(mask uint32) string {
	var names []string
	each(mask, func(i int) { names = append(names, x.actors[i].Name) })
	return strings.Join(names, " and ")
}

// blockers says who keeps a from going on, and how.
func (x *exec) blockers(a *actor) string {
	l := &x.locks[a.pend.slot]
	var parts []string
	each(x.blocking(a), func(i int) {
		b := &x.actors[i]
		switch {
		case int(l.writer) == i+1:
			parts = append(parts, b.Name+" (holds it)")
		case a.pend.kind == lock.RAcquire && l.waiting&(1<<i) != 0:
			parts = append(parts, b.Name+" (a writer that waits for it)")
		default:
			parts = append(parts, b.Name+" (reads under it)")
		}
	})
	return strings.Join(parts, ", ")
}

// deadlock reports that nobody can go on. After a panic that is only a consequence: the panicking actor's locks may never come back.
func (x *exec) deadlock() {
	for i := range x.n {
		if x.actors[i].crashed {
			return
		}
	}
	var parts []string
	for _, i := range x.waitCycle() {
		a := &x.actors[i]
		l := &x.locks[a.pend.slot]
		what := a.pend.what
		if l.o.Class == nil {
			what = "a lock without a name"
		}
		parts = append(parts, fmt.Sprintf("%s waits for %s %d of %s", a.Name, what, a.pend.inst, x.blockers(a)))
	}
	x.fail(Failure{Class: LockCycle, Detail: "deadlock: " + strings.Join(parts, "; "), Blocked: true})
}

// waitCycle is a cycle of actors that wait for each other; without one (an actor ended with a lock held) all that wait.
func (x *exec) waitCycle() []int {
	var all []int
	for i := range x.n {
		if x.actors[i].live {
			all = append(all, i)
		}
	}
	for _, start := range all {
		if c := x.follow([]int{start}); c != nil {
			return c
		}
	}
	return all
}

// follow looks for a way along the waits from the path's end to its start.
func (x *exec) follow(path []int) []int {
	var found []int
	each(x.blocking(&x.actors[path[len(path)-1]]), func(i int) {
		switch {
		case found != nil || !x.actors[i].live:
		case i == path[0]:
			found = path
		case !contains(path, i):
			found = x.follow(append(path[:len(path):len(path)], i))
		}
	})
	return found
}

func contains(path []int, i int) bool {
	for _, j := range path {
		if i == j {
			return true
		}
	}
	return false
}

// leaks reports the locks that are held though all actors have ended.
func (x *exec) leaks() {
	for i := range x.n {
		for _, h := range x.actors[i].held {
			if h.class != nil {
				x.fail(Failure{Class: LockLeak, Detail: fmt.Sprintf("%s ended with %s %d", x.actors[i].Name, h.class.Name, h.inst)})
			}
		}
	}
}
