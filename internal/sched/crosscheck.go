//go:build explore

package sched

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// identity says the execution up to the order of independent steps: of each actor its steps, what was chosen, and what happened before each.
func (x *exec) identity() string {
	names := make([]objectKey, len(x.objects))
	for k, id := range x.ids {
		names[id] = k
	}
	place := make([]uint64, len(x.events)+1) // of each event (index+1) among its actor's
	lines := make([][]byte, x.n)
	var count [MaxActors]uint64
	actor, i := 0, 0
	for _, d := range x.schedule.Steps {
		if d < 0 {
			lines[actor] = binary.AppendVarint(append(lines[actor], '?'), int64(^d))
			continue
		}
		e := &x.events[i]
		i++
		actor = int(d)
		count[actor]++
		place[i] = count[actor]
		l := append(lines[actor], '!', byte(e.kind), byte(e.mode), byte(e.part), byte(e.look))
		if e.dep >= 0 {
			l = append(l, names[e.dep].what...)
			l = binary.AppendUvarint(append(l, 0), names[e.dep].inst)
		}
		for q := range x.n {
			l = binary.AppendUvarint(l, place[e.clock[q]])
		}
		lines[actor] = l
	}
	h := sha256.New()
	for _, l := range append(lines, []byte(x.schedule.Finer)) {
		h.Write(binary.AppendUvarint(nil, uint64(len(l))))
		h.Write(l)
	}
	return string(bytes.Clone(h.Sum(nil)))
}

// outcome says what became of the execution.
func (x *exec) outcome() string {
	var parts []string
	for _, f := range x.failures {
		parts = append(parts, fmt.Sprint(f.Class, " ", f.Blocked))
	}
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), ", ") + "; " + x.state
}

// walker chooses at random; it goes on with the same actor with a probability that is drawn for each execution.
type walker struct {
	rng  *rand.Rand
	stay float64
}

func (w *walker) pick(x *exec, enabled uint32) int {
	if x.prev >= 0 && enabled&(1<<x.prev) != 0 && w.rng.Float64() < w.stay {
		return x.prev
	}
	var all []int
	each(enabled, func(i int) { all = append(all, i) })
	return all[w.rng.IntN(len(all))]
}

func (w *walker) choose(_ *exec, n int) int { return w.rng.IntN(n) }

func (*walker) taken(*exec, *actor) {}
func (*walker) stuck(*exec, *actor) {}

// Crosschecked is what Crosscheck has compared.
type Crosschecked struct {
	Result Result // of the exhaustive search
	Runs   int    // random executions
	Traces int    // different ones among them
}

// Crosscheck tests what Exhaustive takes for granted: that steps with no object in common commute, in this program. It explores all and
// then makes runs random executions; each must be of a trace that was explored and end as that did (World.State, classes of failures).
// Otherwise actors share something that is no lock, flag or point, or the reduction is wrong: the error has the schedule.
func Crosscheck(p Program, runs int, seed uint64, o Options) (Crosschecked, error) {
	var c Crosschecked
	outcomes := map[string]string{}
	finest := ""
	o.inspect = func(x *exec) {
		if x.schedule.Finer != finest {
			finest = x.schedule.Finer
			clear(outcomes)
		}
		outcomes[x.identity()] = x.outcome()
	}
	d := &dfs{reduce: true, bound: -1}
	s := newSearch(p, o, d)
	s.x.wantState = true
	c.Result = s.explore(d)
	if c.Result.Err != nil {
		return c, c.Result.Err
	}
	if !c.Result.Complete {
		return c, fmt.Errorf("%s is too big to explore: %s", p.Name, c.Result.Summary())
	}
	w := &walker{}
	var wrong error
	seen := map[string]bool{}
	o.inspect = func(x *exec) {
		id := x.identity()
		seen[id] = true
		was, explored := outcomes[id]
		switch now := x.outcome(); {
		case x.schedule.Finer != finest:
			wrong = fmt.Errorf("schedule %s needs finer steps than the search had (%s)", x.schedule, finest)
		case !explored:
			wrong = fmt.Errorf("the trace of schedule %s was not explored; it ends with %q", x.schedule, now)
		case was != now:
			wrong = fmt.Errorf("schedule %s ends with %q, its trace was explored and ended with %q", x.schedule, now, was)
		}
	}
	f, err := parseFiner(finest)
	if err != nil {
		return c, err
	}
	r := newSearch(p, o, w)
	r.x.wantState, r.x.learned = true, f
	defer r.x.close()
	for i := range runs {
		w.rng = rand.New(rand.NewPCG(seed, uint64(i)))
		w.stay = w.rng.Float64()
		if r.one(); r.r.Err != nil || wrong != nil || o.Stop != nil && o.Stop() {
			break
		}
		c.Runs, c.Traces = i+1, len(seen)
	}
	if r.r.Err != nil {
		return c, r.r.Err
	}
	return c, wrong
}
