//go:build explore

package explore

import (
	"bytes"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"inlinefs/inline"
	"inlinefs/internal/sched"
)

// Options of a campaign.
type Options struct {
	Strategies []string // none: all
	Scenarios  []string // names; none: those of Actors
	Actors     int      // 2 (at most), 3, or 0 for both
	// Limit bounds one search; 0 is two minutes. A search that it ends is followed by Runs random ones (PCT).
	Limit time.Duration
	// Depth and Runs are those of probabilistic concurrency testing, Seed makes it repeatable.
	Depth, Runs int
	Seed        uint64
	MaxSteps    int
	// Each hears of each outcome as it is known; may be nil.
	Each func(Outcome)
}

// Outcome is what one search has found: the absence of a class is only claimed when Complete.
type Outcome struct {
	Strategy string `json:"strategy"`
	Scenario string `json:"scenario"`
	Mirrors  string `json:"mirrors"`
	// Method is "exhaustive", or "exhaustive+pct depth D" where the search was ended by its limit.
	Method     string        `json:"method"`
	Executions int64         `json:"executions"`
	Traces     int64         `json:"traces"`
	Complete   bool          `json:"complete"`
	Steps      int64         `json:"steps"`
	Millis     int64         `json:"ms"`
	Failures   []Conviction  `json:"failures"`
	elapsed    time.Duration // of the search
}

// Conviction is one class of failure, with the shortest way to it that was found.
type Conviction struct {
	Class       string   `json:"class"`
	Detail      string   `json:"detail"`
	Count       int64    `json:"count"` // executions that failed so
	Schedule    string   `json:"schedule"`
	Preemptions int      `json:"preemptions"`
	Steps       int      `json:"steps"` // decisions of the schedule
	Ops         []string `json:"ops"`   // what each actor does, after shrinking
	Replay      string   `json:"replay"`
	Shrunk      bool     `json:"shrunk"`
	Timeline    string   `json:"timeline,omitempty"`
}

// All lists every scenario.
func All() []Scenario { return slices.Concat(Pairs(), Triples()) }

// scenarios finds the scenarios of a campaign.
func (o *Options) scenarios() ([]Scenario, error) {
	var out []Scenario
	for _, sc := range All() {
		if len(o.Scenarios) > 0 && slices.Contains(o.Scenarios, sc.Name) || len(o.Scenarios) == 0 && (o.Actors == 0 || o.Actors == max(len(sc.Actors), 2)) {
			out = append(out, sc)
		}
	}
	for _, want := range o.Scenarios {
		if !slices.ContainsFunc(out, func(sc Scenario) bool { return sc.Name == want }) {
			var names []string
			for _, sc := range All() {
				names = append(names, sc.Name)
			}
			return nil, fmt.Errorf("scenario %q is not known, want one of: %s", want, strings.Join(names, "; "))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no scenario has %d actors, want 2 or 3", o.Actors)
	}
	return out, nil
}

// Run searches every scenario under every strategy.
func Run(o Options) ([]Outcome, error) {
	debug.SetGCPercent(800) // executions make garbage of a known, small size
	names := o.Strategies
	if len(names) == 0 {
		names = inline.Names()
	}
	scs, err := o.scenarios()
	if err != nil {
		return nil, err
	}
	var out []Outcome
	for _, name := range names {
		if _, err := inline.ByName(name); err != nil {
			return nil, err
		}
		shrunk := map[string]bool{} // one minimal schedule for each class of a strategy
		for _, sc := range scs {
			r, err := one(sc, name, o, shrunk)
			if err != nil {
				return out, fmt.Errorf("%s, scenario %s: %w", name, sc.Name, err)
			}
			out = append(out, r)
			if o.Each != nil {
				o.Each(r)
			}
		}
	}
	return out, nil
}

// content is what the file of a scenario holds at first.
func (sc *Scenario) content() []byte {
	if sc.Fresh {
		return nil
	}
	return bytes.Repeat([]byte{start0}, 100)
}

// baseOf makes the image that sc begins with.
func baseOf(sc *Scenario) (*base, error) {
	img := plainImage
	if sc.Journal {
		img = journalImage
	}
	raw, err := unpack(img)
	if err != nil {
		return nil, err
	}
	return newBase(raw, sc.content())
}

func one(sc Scenario, strategy string, o Options, shrunk map[string]bool) (Outcome, error) {
	b, err := baseOf(&sc)
	if err != nil {
		return Outcome{}, err
	}
	c := trial{sc: sc, base: b, strategy: strategy, last: new(*world)}
	so := sched.Options{Faults: 1, Limit: o.Limit, MaxSteps: o.MaxSteps}
	if so.Limit == 0 {
		so.Limit = 2 * time.Minute
	}
	r := sched.Exhaustive(c.Program(), so)
	method := "exhaustive"
	if r.Err == nil && !r.Complete {
		p := sched.PCT(c.Program(), max(o.Depth, 1), o.Runs, o.Seed, so)
		method = fmt.Sprintf("exhaustive+pct depth %d", max(o.Depth, 1))
		r.Executions += p.Executions
		for class, f := range p.Failures {
			if _, had := r.Failures[class]; !had {
				r.Failures[class] = f
			}
		}
		r.Err = p.Err
	}
	if r.Err != nil {
		return Outcome{}, r.Err
	}
	out := Outcome{Strategy: strategy, Scenario: sc.Name, Mirrors: sc.Mirrors, Method: method, Executions: r.Executions, Traces: r.Traces,
		Complete: r.Complete, Steps: r.Steps, Millis: r.Elapsed.Milliseconds(), Failures: []Conviction{}, elapsed: r.Elapsed}
	for _, class := range r.Classes() {
		cv, err := c.convict(r.Failures[class], so, !shrunk[class] && r.Complete)
		if err != nil {
			return Outcome{}, err
		}
		shrunk[class] = shrunk[class] || cv.Shrunk
		out.Failures = append(out.Failures, cv)
	}
	return out, nil
}

// trial is a scenario under a strategy, with some operations left out.
type trial struct {
	sc       Scenario
	base     *base
	strategy string
	last     **world
	cut      []string // operations left out, "actor.op"
}

// Program is sched.Case's.
func (c trial) Program() sched.Program { return c.sc.program(c.base, c.strategy, c.last) }

// Reduce lists the trials with one operation less.
func (c trial) Reduce() (out []trial) {
	for a := range c.sc.Actors {
		for k := range c.sc.Actors[a].Ops {
			if c.sc.Actors[a].Ops[k].skip {
				continue
			}
			out = append(out, c.without(a, k))
		}
	}
	return out
}

// without leaves operation k of actor a out; the actor stays, so that schedules keep their numbers.
func (c trial) without(a, k int) trial {
	n := c
	n.sc.Actors = slices.Clone(c.sc.Actors)
	n.sc.Actors[a].Ops = slices.Clone(c.sc.Actors[a].Ops)
	n.sc.Actors[a].Ops[k].skip = true
	n.cut = append(slices.Clone(c.cut), fmt.Sprintf("%d.%d", a, k))
	return n
}

// name is what --replay takes before the schedule.
func (c trial) name() string {
	n := c.strategy + "/" + c.sc.Name
	if len(c.cut) > 0 {
		n += "~" + strings.Join(c.cut, "~")
	}
	return n
}

// convict describes a failure; minimal asks for the fewest operations and preemptions.
func (c trial) convict(f sched.Found, so sched.Options, minimal bool) (Conviction, error) {
	count := f.Count
	if minimal {
		m, best, err := sched.Shrink(c, func(x sched.Failure) bool { return x.Class == f.Class && x.Blocked == f.Blocked }, nil, so)
		switch {
		case err == nil:
			c, f = m, best
		case !errors.Is(err, sched.ErrNotFound):
			return Conviction{}, err
		}
	}
	cv := Conviction{Class: f.Class, Detail: f.Detail, Count: count, Schedule: f.Schedule.String(), Preemptions: f.Preemptions,
		Steps: len(f.Schedule.Steps), Replay: c.name() + "/" + f.Schedule.String(), Shrunk: minimal}
	for _, a := range c.sc.Actors {
		var ops []string
		for k := range a.Ops {
			if !a.Ops[k].skip {
				ops = append(ops, a.Ops[k].String())
			}
		}
		if len(ops) > 0 {
			cv.Ops = append(cv.Ops, strings.Join(ops, "; "))
		}
	}
	if minimal {
		run, err := sched.Replay(c.Program(), f.Schedule, so)
		if err != nil {
			return cv, err
		}
		cv.Timeline = Timeline(run)
	}
	return cv, nil
}

// Replay repeats what a Conviction's Replay says: "STRATEGY/SCENARIO[~a.b...]/SCHEDULE".
func Replay(text string) (*sched.Run, error) {
	parts := strings.SplitN(text, "/", 3)
	if len(parts) != 3 {
		return nil, fmt.Errorf("replay %q: want STRATEGY/SCENARIO/SCHEDULE", text)
	}
	if _, err := inline.ByName(parts[0]); err != nil {
		return nil, err
	}
	cuts := strings.Split(parts[1], "~")
	o := Options{Scenarios: cuts[:1]}
	scs, err := o.scenarios()
	if err != nil {
		return nil, err
	}
	b, err := baseOf(&scs[0])
	if err != nil {
		return nil, err
	}
	c := trial{sc: scs[0], base: b, strategy: parts[0], last: new(*world)}
	for _, cut := range cuts[1:] {
		var a, k int
		if n, err := fmt.Sscanf(cut, "%d.%d", &a, &k); n != 2 || err != nil || a < 0 || a >= len(c.sc.Actors) || k < 0 || k >= len(c.sc.Actors[a].Ops) {
			return nil, fmt.Errorf("replay %q: %q names no operation to leave out", text, cut)
		}
		c = c.without(a, k)
	}
	s, err := sched.ParseSchedule(parts[2])
	if err != nil {
		return nil, err
	}
	return sched.Replay(c.Program(), s, sched.Options{Faults: 1})
}
