//go:build explore

package sched

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// search runs executions of p by d until there are no more.
type search struct {
	p     Program
	x     *exec
	r     Result
	start time.Time
	shown time.Time
}

func newSearch(p Program, o Options, s strategy) *search {
	now := time.Now()
	return &search{p: p, x: newExec(o, s), r: Result{Failures: map[string]Found{}}, start: now, shown: now}
}

// finish completes the result.
func (s *search) finish() Result {
	s.x.close()
	s.r.Elapsed = time.Since(s.start)
	for _, f := range s.x.learned.names() {
		s.r.Promoted = append(s.r.Promoted, f)
	}
	s.r.Warnings = slices.Sorted(maps.Keys(s.x.warnings))
	return s.r
}

// one makes one execution and counts it; done says that the search ends here.
func (s *search) one() (done bool) {
	if s.r.Err = s.x.run(s.p); s.r.Err != nil {
		return true
	}
	x := s.x
	s.r.Executions++
	s.r.Steps += int64(len(x.events))
	s.r.Longest = max(s.r.Longest, len(x.events))
	switch x.end {
	case endCut:
		s.r.Cut++
		return false
	case endTruncated:
		s.r.Truncated++
	default:
		s.r.Traces++
	}
	if x.opts.inspect != nil {
		x.opts.inspect(x)
	}
	return len(x.failures) > 0 && s.r.note(x)
}

// over tells whether a bound of the search is reached, and shows progress.
func (s *search) over() bool {
	o := &s.x.opts
	if o.MaxExecutions > 0 && s.r.Executions >= o.MaxExecutions {
		return true
	}
	if s.r.Executions%64 != 0 {
		return false
	}
	now := time.Now()
	if o.Progress != nil && now.Sub(s.shown) >= time.Second/2 {
		s.shown = now
		r := s.r
		r.Elapsed = now.Sub(s.start)
		o.Progress(r)
	}
	return o.Limit > 0 && now.Sub(s.start) >= o.Limit || o.Stop != nil && o.Stop()
}

// explore runs a depth-first search.
func explore(p Program, o Options, d *dfs) Result { return newSearch(p, o, d).explore(d) }

func (s *search) explore(d *dfs) Result {
	for !s.over() {
		d.begin()
		done := s.one()
		if d.err != nil {
			s.r.Err = d.err
		}
		if s.r.Err != nil || done {
			return s.finish()
		}
		if s.x.learned.size() > s.x.finer.size() { // begin again with more switch points
			d.path, d.fresh, d.odd = d.path[:0], 0, 0
			s.r.Executions, s.r.Traces, s.r.Cut, s.r.Truncated = 0, 0, 0, 0
			continue
		}
		if !d.next() {
			s.r.Complete = s.r.Truncated == 0
			return s.finish()
		}
	}
	return s.finish()
}

// Exhaustive explores every execution up to the order of independent steps.
func Exhaustive(p Program, o Options) Result { return explore(p, o, &dfs{reduce: true, bound: -1}) }

// BruteForce explores every execution; it is there to check Exhaustive.
func BruteForce(p Program, o Options) Result { return explore(p, o, &dfs{bound: -1}) }

// Bounded explores every execution with at most so many preemptions: switches away from an actor that could have gone on. Complete then
// speaks of these.
func Bounded(p Program, preemptions int, o Options) Result {
	return explore(p, o, &dfs{bound: preemptions})
}

// replayer follows a schedule; after its end every actor runs as far as it can.
type replayer struct {
	s   Schedule
	pos int
	err error
}

func (r *replayer) pick(x *exec, enabled uint32) int {
	if r.pos >= len(r.s.Steps) {
		if x.prev >= 0 && enabled&(1<<x.prev) != 0 {
			return x.prev
		}
		return lowest(enabled)
	}
	i := int(r.s.Steps[r.pos])
	if i < 0 || enabled&(1<<i) == 0 {
		r.err = fmt.Errorf("the schedule does not fit the program: decision %d is %d, enabled are %b", r.pos, i, enabled)
		return -1
	}
	r.pos++
	return i
}

func (r *replayer) choose(x *exec, n int) int {
	if r.pos >= len(r.s.Steps) {
		return 0
	}
	v := int(r.s.Steps[r.pos])
	if v >= 0 || ^v >= n {
		if r.err == nil {
			r.err = fmt.Errorf("the schedule does not fit the program: decision %d is %d, wanted is a choice below %d", r.pos, v, n)
		}
		return 0
	}
	r.pos++
	return ^v
}

func (*replayer) taken(*exec, *actor) {}
func (*replayer) stuck(*exec, *actor) {}

// ErrNoRun is returned by Replay with what is wrong.
var ErrNoRun = errors.New("schedule cannot be repeated")

// Replay repeats a schedule and writes everything down. A schedule that ends early is completed without preemptions and faults.
func Replay(p Program, s Schedule, o Options) (*Run, error) {
	f, err := parseFiner(s.Finer)
	if err != nil {
		return nil, errors.Join(ErrNoRun, err)
	}
	r := &replayer{s: s}
	x := newExec(o, r)
	defer x.close()
	x.learned, x.tracing = f, true
	if err := x.run(p); err != nil {
		return nil, errors.Join(ErrNoRun, err)
	}
	if r.err != nil {
		return nil, errors.Join(ErrNoRun, r.err)
	}
	run := &Run{Failures: x.failures, Schedule: x.schedule.clone(), Preemptions: x.preemptions, Steps: x.steps,
		Truncated: x.end == endTruncated}
	for i := range x.n {
		run.Actors = append(run.Actors, x.actors[i].Name)
	}
	return run, nil
}
