//go:build deadlock && !explore

package lock

import (
	"runtime"
	"sync"

	"github.com/petermattis/goid"
)

// mode is how a lock is taken.
type mode uint8

const (
	exclusive mode = 1 << iota
	shared
	tried
	pseudo // no lock: a handle, a lock of the client's kernel
)

// depth is how many frames of each stack are kept.
const depth = 20

// stack is program counters, innermost first.
type stack struct {
	n   int
	pcs [depth]uintptr
}

// hold is one lock that a goroutine has, or waits for.
type hold struct {
	tag
	key     *tag // the lock; nil for a pseudo-lock
	mode    mode
	waiting bool
	at      stack
}

// is says whether h is the lock whose tag is t.
func (h *hold) is(t *tag) bool {
	if h.key == nil {
		return t.id == 0 && t.class != nil && h.class == t.class && h.inst == t.inst
	}
	return h.key == t
}

// goroutine is what one goroutine holds; fields are guarded by the shard's mu.
type goroutine struct {
	held   []hold
	silent bool // a report of it is being delivered: the receiver's own locks are recorded, not judged
}

// Goroutines are spread over shards by number, so that two of them seldom meet; a goroutine that holds nothing has no entry.
const shards = 64

type shard struct {
	mu sync.Mutex
	m  map[int64]*goroutine // guarded by mu
	_  [40]byte             // immutable; keeps neighbours off the cache line
}

var (
	running [shards]shard
	idle    = sync.Pool{New: func() any { return new(goroutine) }}
)

func shardOf(id int64) *shard { return &running[uint64(id)%shards] }

// take records that the goroutine is about to wait for the lock, and judges that.
func take(t *tag, m mode) {
	h := newHold(t, m)
	h.waiting = true
	id := goid.Get()
	if held, suspect := push(id, &h); suspect {
		judge(id, held, &h)
	}
}

// attempt records a lock that is taken without waiting, if it is. It stands in the record while go-deadlock is asked, which compares orders
// for a try as well and may call back.
func attempt(t *tag, m mode, try func() bool) bool {
	h := newHold(t, m|tried)
	h.waiting = true
	id := goid.Get()
	push(id, &h)
	if try() {
		taken(t)
		return true
	}
	shardOf(id).drop(id, t, false)
	return false
}

func newHold(t *tag, m mode) hold {
	h := hold{tag: *t, mode: m}
	if m&pseudo == 0 {
		h.key = t
	}
	if t.class != nil {
		see(t.num, m)
		h.at.n = runtime.Callers(4, h.at.pcs[:]) // above Callers, newHold, take or attempt, and the method
	}
	return h
}

// push appends h to what goroutine id holds. When the classes alone do not clear the acquisition it returns a copy of what was held.
func push(id int64, h *hold) (held []hold, suspect bool) {
	s := shardOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.m[id]
	if g == nil {
		if s.m == nil {
			s.m = map[int64]*goroutine{}
		}
		g = idle.Get().(*goroutine)
		s.m[id] = g
	}
	if h.class != nil && h.mode&tried == 0 && !g.silent && !cleared(g.held, h) {
		held, suspect = append(held, g.held...), true
	}
	g.held = append(g.held, *h)
	return held, suspect
}

// taken says that the wait for the lock is over.
func taken(t *tag) {
	id := goid.Get()
	s := shardOf(id)
	s.mu.Lock()
	if g := s.m[id]; g != nil {
		if k := g.last(t, false); k >= 0 {
			g.held[k].waiting = false
		}
	}
	s.mu.Unlock()
}

// last is the index of the goroutine's latest hold of the lock, -1 for none. done leaves out what it still waits for.
func (g *goroutine) last(t *tag, done bool) int {
	for k := len(g.held) - 1; k >= 0; k-- {
		if g.held[k].is(t) && !(done && g.held[k].waiting) {
			return k
		}
	}
	return -1
}

// drop forgets one hold of the lock: the goroutine's own, or that of another, whose lock this one may release.
func drop(t *tag) bool {
	id := goid.Get()
	if shardOf(id).drop(id, t, true) {
		return true
	}
	for k := range running {
		s := &running[k]
		s.mu.Lock()
		ids := make([]int64, 0, len(s.m))
		for other := range s.m {
			ids = append(ids, other)
		}
		s.mu.Unlock()
		for _, other := range ids {
			if s.drop(other, t, true) {
				return true
			}
		}
	}
	return false
}

// drop forgets goroutine id's latest hold of the lock; done leaves out what it still waits for.
func (s *shard) drop(id int64, t *tag, done bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.m[id]
	if g == nil {
		return false
	}
	k := g.last(t, done)
	if k < 0 {
		return false
	}
	if t.class == Rename {
		forgetPairs()
	}
	g.held = append(g.held[:k], g.held[k+1:]...)
	if len(g.held) == 0 && !g.silent {
		delete(s.m, id)
		idle.Put(g)
	}
	return true
}

// holdings is a copy of what goroutine id holds or waits for.
func holdings(id int64) []hold {
	s := shardOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.m[id]; g != nil {
		return append([]hold(nil), g.held...)
	}
	return nil
}

// silence keeps the goroutine's own locks from being judged while fn runs.
func silence(id int64, fn func()) {
	set := func(on bool) {
		s := shardOf(id)
		s.mu.Lock()
		if g := s.m[id]; g != nil {
			g.silent = on
		}
		s.mu.Unlock()
	}
	set(true)
	defer set(false)
	fn()
}
