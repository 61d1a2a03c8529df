//go:build explore

package sched

import "math/rand/v2"

// pct is the scheduler of Burckhardt, Kothari, Musuvathi, Nagarakatte, "A randomized scheduler with probabilistic guarantees of finding
// bugs" (2010): the actor with the highest random priority runs; at depth-1 random steps the one that would run falls behind all others.
type pct struct {
	rng      *rand.Rand
	depth    int
	length   int // the longest execution so far
	step     int
	priority [MaxActors]int
	changes  []int // steps of the falls
}

// begin draws the priorities of n actors and the steps of the falls.
func (c *pct) begin(n int) {
	c.step = 0
	for i, v := range c.rng.Perm(n) {
		c.priority[i] = c.depth + v
	}
	c.changes = c.changes[:0]
	for range c.depth - 1 {
		c.changes = append(c.changes, c.rng.IntN(max(c.length, 1)))
	}
}

func (c *pct) pick(x *exec, enabled uint32) int {
	best := c.highest(enabled)
	for i, at := range c.changes {
		if at == c.step {
			c.priority[best] = i
			best = c.highest(enabled)
		}
	}
	c.step++
	return best
}

func (c *pct) highest(enabled uint32) int {
	best := -1
	each(enabled, func(i int) {
		if best < 0 || c.priority[i] > c.priority[best] {
			best = i
		}
	})
	return best
}

// choose is 0 three times of four.
func (c *pct) choose(_ *exec, n int) int {
	if n < 2 || c.rng.IntN(4) != 0 {
		return 0
	}
	return 1 + c.rng.IntN(n-1)
}

func (*pct) taken(*exec, *actor) {}
func (*pct) stuck(*exec, *actor) {}

// PCT makes runs random executions. One that needs depth ordering constraints to fail is found by each run with a probability of at least
// 1/(n*k^(depth-1)), for n actors and k steps. The same seed gives the same runs.
func PCT(p Program, depth, runs int, seed uint64, o Options) Result {
	c := &pct{rng: rand.New(rand.NewPCG(seed, 0)), depth: max(depth, 1)}
	s := newSearch(p, o, c)
	w := p.New()
	n := min(len(w.Actors), MaxActors)
	if w.Close != nil {
		w.Close()
	}
	for range runs {
		if s.over() {
			break
		}
		c.rng = rand.New(rand.NewPCG(seed, uint64(s.r.Executions)))
		c.begin(n)
		if s.one() {
			break
		}
		c.length = max(c.length, len(s.x.events))
	}
	return s.finish()
}
