//go:build deadlock && !explore

package lock

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// maxClasses bounds the classes of a program.
const maxClasses = 256

// numbers gives every class in use a number below maxClasses.
var numbers = struct {
	mu sync.Mutex
	of sync.Map // immutable itself; *Class to int
	n  int      // guarded by mu
}{}

// number is the class's number, given at its first use.
func number(c *Class) int {
	if c == nil {
		return 0
	}
	if n, ok := numbers.of.Load(c); ok {
		return n.(int)
	}
	numbers.mu.Lock()
	defer numbers.mu.Unlock()
	if n, ok := numbers.of.Load(c); ok {
		return n.(int)
	}
	numbers.n++
	if numbers.n == maxClasses {
		panic(fmt.Sprintf("lock: more than %d classes", maxClasses-1))
	}
	numbers.of.Store(c, numbers.n)
	return numbers.n
}

// usage is how each class was ever taken, a bit for each mode; known has a bit for each pair (held, taken) that was judged. Both are read
// at every acquisition and change a few times in a process's life.
var (
	usage [maxClasses]atomic.Uint32
	known [maxClasses][maxClasses / 64]atomic.Uint64
)

func see(num int, m mode) {
	if u := &usage[num]; u.Load()&uint32(m) != uint32(m) {
		u.Or(uint32(m))
	}
}

func isKnown(held, taken int) bool { return known[held][taken/64].Load()&(1<<(taken%64)) != 0 }

func setKnown(held, taken int) { known[held][taken/64].Or(1 << (taken % 64)) }

// cleared says that the pair of h's class with the class of each lock held was judged before. A class with itself never is: that is a
// question of instances.
func cleared(held []hold, h *hold) bool {
	for k := range held {
		if b := &held[k]; b.class != nil && (b.num == h.num || !isKnown(b.num, h.num)) {
			return false
		}
	}
	return true
}

// edge says that a lock of class to was taken under one of class from, as it was first seen.
type edge struct {
	from, to         *Class
	fromNum, toNum   int
	held, taken      stack
	heldMode, toMode mode
	goroutine        int64
	bad              bool // reported: it proves nothing about the order
}

func newEdge(id int64, b, h *hold) *edge {
	return &edge{from: b.class, to: h.class, fromNum: b.num, toNum: h.num, held: b.at, taken: h.at, heldMode: b.mode, toMode: h.mode, goroutine: id}
}

// graph is the order of classes as far as it was seen (lockdep's lock_list). Readers are edges like writers.
var graph = struct {
	mu       sync.Mutex
	out      [maxClasses][]*edge // guarded by mu; by class held
	reported map[[2]int]bool     // guarded by mu; pairs of classes, the smaller number first
}{reported: map[[2]int]bool{}}

// firstTime says whether the pair of classes is reported for the first time. The caller holds graph.mu.
func firstTime(a, b int) bool {
	p := [2]int{min(a, b), max(a, b)}
	was := graph.reported[p]
	graph.reported[p] = true
	return !was
}

// verdict is what is wrong with taking one lock under another.
type verdict struct {
	kind  string
	held  *hold
	taken *hold
	chain []*edge // the path from the taken class to the held one, nil if only the table knows it
	other *pair   // the same two instances in the other order
}

// judge compares h, which goroutine id is about to wait for, with each lock that it holds, the latest first.
func judge(id int64, held []hold, h *hold) {
	var found []verdict
	for k := len(held) - 1; k >= 0; k-- {
		b := &held[k]
		if b.class == nil {
			continue
		}
		v := verdict{held: b, taken: h}
		switch {
		case b.num != h.num:
			v.kind, v.chain = judgeClasses(id, b, h)
		case b.is(&h.tag) || b.key != nil && b.key == h.key:
			v.kind = onceFor(h.num, KindRecursion)
		case !h.class.Nests:
			v.kind = onceFor(h.num, KindNesting)
		default:
			v.kind, v.other = judgeInstances(id, held[:k], b, h)
		}
		if v.kind != "" {
			found = append(found, v)
		}
	}
	for _, v := range found {
		deliver(id, v)
	}
}

// onceFor is kind if the class was not reported with itself before.
func onceFor(num int, kind string) string {
	graph.mu.Lock()
	defer graph.mu.Unlock()
	if firstTime(num, num) {
		return kind
	}
	return ""
}

// judgeClasses adds the pair to the graph. It is wrong by the table of ranks, or when what was seen before leads from h's class to b's.
func judgeClasses(id int64, b, h *hold) (kind string, chain []*edge) {
	if isKnown(b.num, h.num) {
		return "", nil
	}
	graph.mu.Lock()
	defer graph.mu.Unlock()
	if isKnown(b.num, h.num) {
		return "", nil
	}
	e := newEdge(id, b, h)
	chain = chainOf(h.num, b.num)
	switch {
	case b.class.Rank != 0 && h.class.Rank != 0 && h.class.Rank < b.class.Rank:
		kind = KindRank
	case chain != nil:
		kind = KindCycle
	}
	e.bad = kind != ""
	graph.out[b.num] = append(graph.out[b.num], e)
	setKnown(b.num, h.num)
	if kind != "" && !firstTime(b.num, h.num) {
		kind = ""
	}
	return kind, chain
}

// chainOf is the shortest chain of good edges that leads from one class to another, nil for none. The caller holds graph.mu.
func chainOf(from, to int) []*edge {
	by := map[int]*edge{from: nil}
	for queue := []int{from}; len(queue) > 0; queue = queue[1:] {
		for _, e := range graph.out[queue[0]] {
			if _, seen := by[e.toNum]; seen || e.bad {
				continue
			}
			by[e.toNum] = e
			if e.toNum != to {
				queue = append(queue, e.toNum)
				continue
			}
			var chain []*edge
			for e := by[to]; e != nil; e = by[e.fromNum] {
				chain = append([]*edge{e}, chain...)
			}
			return chain
		}
	}
	return nil
}

// pair is two locks of one class in the order in which they were taken.
type pair struct {
	edge
	fromInst, toInst uint64
	gates            []uint64 // what was held exclusively around both
}

// maxPairs bounds the pairs that are remembered; all are forgotten when there are more.
const maxPairs = 1 << 14

var pairs = struct {
	mu sync.Mutex
	m  map[[2]uint64]*pair // guarded by mu; by the locks' ids
}{m: map[[2]uint64]*pair{}}

// forgetPairs forgets the order of instances: a rename between directories may have made a parent of a child. It is called under the lock
// without which no directory gets another parent, at its release.
func forgetPairs() {
	pairs.mu.Lock()
	clear(pairs.m)
	pairs.mu.Unlock()
}

// judgeInstances remembers the order of two locks of a class that nests. The other order is wrong, unless one lock is held around both at
// both places: then the two never meet. outer is what was held before b.
func judgeInstances(id int64, outer []hold, b, h *hold) (kind string, other *pair) {
	if b.id == 0 || h.id == 0 {
		return "", nil // pseudo-locks are told apart by class only
	}
	gates := gatesOf(outer)
	pairs.mu.Lock()
	other = pairs.m[[2]uint64{h.id, b.id}]
	if _, ok := pairs.m[[2]uint64{b.id, h.id}]; !ok {
		if len(pairs.m) >= maxPairs {
			clear(pairs.m)
		}
		pairs.m[[2]uint64{b.id, h.id}] = &pair{edge: *newEdge(id, b, h), fromInst: b.inst, toInst: h.inst, gates: gates}
	}
	pairs.mu.Unlock()
	if other == nil || meet(other.gates, gates) {
		return "", nil
	}
	return onceFor(h.num, KindInstances), other
}

// gatesOf is the locks that are held exclusively.
func gatesOf(held []hold) []uint64 {
	var ids []uint64
	for k := range held {
		if b := &held[k]; b.id != 0 && b.mode&exclusive != 0 {
			ids = append(ids, b.id)
		}
	}
	return ids
}

func meet(a, b []uint64) bool {
	for _, x := range a {
		for _, y := range b {
			if x == y {
				return true
			}
		}
	}
	return false
}
