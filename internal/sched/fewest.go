//go:build explore

package sched

import (
	"errors"
	"fmt"
	"slices"

	"inlinefs/internal/lock"
)

// lockStep is one change of a lock, for fewest.
type lockStep struct {
	event                   int32 // index of the event under which it happened; -1 before the first
	actor                   int8
	slot                    int32
	excl, shared, waitingBy int8
}

func (x *exec) logLock(a *actor, slot int32, excl, shared, waiting int8) {
	if x.logging {
		x.lockLog = append(x.lockLog, lockStep{int32(len(x.events)) - 1, a.id, slot, excl, shared, waiting})
	}
}

// ErrNotFound says that no execution failed in the wanted way.
var ErrNotFound = errors.New("no execution fails so")

// Fewest finds the schedule with the fewest preemptions that fails as wanted. It explores exhaustively and takes, of each trace that fails,
// the best of all its linear orders: every schedule is a linear order of some trace, so that after a complete search (Result.Complete) the
// minimum is exact, without exploring the schedules one by one as FewestBounded does.
func Fewest(p Program, want func(Failure) bool, o Options) (Found, Result, error) {
	var best Found
	have := false
	until := o.Until
	o.Until = func(f Failure) bool { return have && best.Preemptions == 0 || until != nil && until(f) }
	o.inspect = func(x *exec) {
		i := slices.IndexFunc(x.failures, want)
		if i < 0 {
			return
		}
		bound := x.preemptions
		if have && best.Preemptions-1 < bound {
			bound = best.Preemptions - 1
		}
		if s, n, ok := newLinear(x).fewest(bound); ok {
			best, have = Found{Failure: x.failures[i], Schedule: s, Preemptions: n, Count: 1}, true
		}
	}
	d := &dfs{reduce: true, bound: -1}
	s := newSearch(p, o, d)
	s.x.logging = true
	r := s.explore(d)
	if r.Err != nil {
		return best, r, r.Err
	}
	if !have {
		return best, r, ErrNotFound
	}
	run, err := Replay(p, best.Schedule, o)
	if err != nil {
		return best, r, err
	}
	if i := slices.IndexFunc(run.Failures, want); i < 0 || run.Preemptions != best.Preemptions {
		return best, r, fmt.Errorf("schedule %s was to fail after %d preemptions: repeated, it has %d and %v: something that the actors share "+
			"is no lock, flag or point", best.Schedule, best.Preemptions, run.Preemptions, run.Failures)
	}
	return best, r, nil
}

// FewestBounded finds the same by exploring every schedule with 0, 1, 2 ... at most limit preemptions (Musuvathi, Qadeer 2007).
func FewestBounded(p Program, want func(Failure) bool, limit int, o Options) (Found, Result, error) {
	var r Result
	o.Until = want
	for n := 0; n <= limit; n++ {
		d := &dfs{bound: n}
		r = explore(p, o, d)
		for _, f := range r.Failures {
			if want(f.Failure) {
				return f, r, nil
			}
		}
		if r.Err != nil || !r.Complete || !d.bitten {
			break
		}
	}
	if r.Err != nil {
		return Found{}, r, r.Err
	}
	return Found{}, r, ErrNotFound
}

// linear is a trace whose linear orders are searched.
type linear struct {
	n       int
	finer   string
	prefix  []int16                  // choices before the first step
	steps   [MaxActors][]linearStep  // of each actor
	last    [MaxActors]*pending      // what each waits for at the end; nil: it ended
	changes map[int32][]lockPosition // by lock
}

type linearStep struct {
	kind    lock.Kind
	mode    mode
	slot    int32
	needs   [MaxActors]int16 // how many steps of each actor come before it, its own included
	choices []int16
}

// lockPosition is what one actor's first pos steps have done to a lock.
type lockPosition struct {
	actor                   int8
	pos                     int16
	excl, shared, waitingBy int8
}

func newLinear(x *exec) *linear {
	l := &linear{n: x.n, finer: x.schedule.Finer, changes: map[int32][]lockPosition{}}
	place := make([]int16, len(x.events)+1)
	for i := range x.events {
		e := &x.events[i]
		place[i+1] = int16(len(l.steps[e.actor]) + 1)
		s := linearStep{kind: e.kind, mode: e.mode, slot: e.slot}
		for q := range x.n {
			s.needs[q] = place[e.clock[q]]
		}
		s.needs[e.actor]--
		l.steps[e.actor] = append(l.steps[e.actor], s)
	}
	i := 0
	for _, d := range x.schedule.Steps {
		switch {
		case d >= 0:
			i++
		case i == 0:
			l.prefix = append(l.prefix, d)
		default:
			s := &l.steps[x.events[i-1].actor][place[i]-1]
			s.choices = append(s.choices, d)
		}
	}
	for q := range x.n {
		if x.end == endBlocked && x.actors[q].waits {
			p := x.actors[q].pend
			l.last[q] = &p
		}
	}
	for _, c := range x.lockLog {
		pos := int16(0)
		if c.event >= 0 { // the step under which it happened is always the actor's own
			pos = place[c.event+1]
		}
		l.changes[c.slot] = append(l.changes[c.slot], lockPosition{c.actor, pos, c.excl, c.shared, c.waitingBy})
	}
	return l
}

// could tells whether actor q's next step is enabled when every actor has taken pos of its steps.
func (l *linear) could(q int, pos *[MaxActors]int16) bool {
	var kind lock.Kind
	var m mode
	var slot int32
	switch {
	case int(pos[q]) < len(l.steps[q]):
		s := &l.steps[q][pos[q]]
		kind, m, slot = s.kind, s.mode, s.slot
	case l.last[q] != nil:
		kind, m, slot = l.last[q].kind, l.last[q].mode, l.last[q].slot
	default:
		return false
	}
	if kind != lock.Acquire && kind != lock.RAcquire {
		return true
	}
	var excl, shared, own, waiting int8
	for _, c := range l.changes[slot] {
		if c.pos <= pos[c.actor] {
			excl, shared, waiting = excl+c.excl, shared+c.shared, waiting+c.waitingBy
			if int(c.actor) == q {
				own += c.shared
			}
		}
	}
	if kind == lock.RAcquire {
		return excl == 0 && waiting == 0 && (m == modeShared || own == 0)
	}
	return excl == 0 && shared == 0
}

// place is a state of the search: how far each actor is, and who ran last.
type place struct {
	pos  [MaxActors]int16
	last int8
}

// fewest is the linear order with the fewest preemptions, if it has at most bound: states that cost the same are visited together.
func (l *linear) fewest(bound int) (Schedule, int, bool) {
	start := place{last: -1}
	parent := map[place]place{}
	now := []place{start}
	seen := map[place]bool{start: true}
	for cost := 0; cost <= bound && len(now) > 0; cost++ {
		var later []place
		for i := 0; i < len(now); i++ {
			s := now[i]
			if l.ended(&s) {
				return l.schedule(s, parent), cost, true
			}
			free := s.last < 0 || !l.could(int(s.last), &s.pos)
			for q := range l.n {
				t, ok := l.advance(s, q)
				if !ok || seen[t] {
					continue
				}
				if !free && q != int(s.last) {
					later = append(later, t)
					if _, had := parent[t]; !had {
						parent[t] = s
					}
					continue
				}
				seen[t] = true
				parent[t] = s
				now = append(now, t)
			}
		}
		now = now[:0]
		for _, t := range later {
			if !seen[t] {
				seen[t] = true
				now = append(now, t)
			}
		}
	}
	return Schedule{}, 0, false
}

func (l *linear) ended(s *place) bool {
	for q := range l.n {
		if int(s.pos[q]) < len(l.steps[q]) {
			return false
		}
	}
	return true
}

// advance lets q take its next step, if everything that comes before it has been.
func (l *linear) advance(s place, q int) (place, bool) {
	if int(s.pos[q]) >= len(l.steps[q]) {
		return s, false
	}
	for r, n := range l.steps[q][s.pos[q]].needs[:l.n] {
		if s.pos[r] < n {
			return s, false
		}
	}
	s.pos[q]++
	s.last = int8(q)
	return s, true
}

// schedule reads the way to s backwards.
func (l *linear) schedule(s place, parent map[place]place) Schedule {
	var back [][]int16
	for s.last >= 0 {
		st := &l.steps[s.last][s.pos[s.last]-1]
		back = append(back, append([]int16{int16(s.last)}, st.choices...))
		s = parent[s]
	}
	back = append(back, l.prefix)
	slices.Reverse(back)
	return Schedule{Finer: l.finer, Steps: slices.Concat(back...)}
}
