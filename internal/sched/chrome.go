//go:build explore

package sched

import (
	"encoding/json"
	"fmt"
	"io"

	"inlinefs/internal/lock"
)

// stepTime is how long a step lasts in a Chrome trace, in microseconds.
const stepTime = 10

// chromeEvent is one of traceEvents (Trace Event Format).
type chromeEvent struct {
	Name  string         `json:"name"`
	Cat   string         `json:"cat,omitempty"`
	Phase string         `json:"ph"`
	Time  int            `json:"ts"`
	Dur   int            `json:"dur,omitempty"`
	Pid   int            `json:"pid"`
	Tid   int            `json:"tid"`
	ID    int            `json:"id,omitempty"`
	Bind  string         `json:"bp,omitempty"`
	Scope string         `json:"s,omitempty"`
	Args  map[string]any `json:"args,omitempty"`
}

// chrome turns steps into events.
type chrome struct {
	events []chromeEvent
	ids    int
	open   map[string][]int    // by actor and lock: ids of the slices that are open
	gone   map[string]released // by lock: the last release
}

type released struct {
	actor, time int
}

// Chrome writes the execution as a Chrome trace, which Perfetto and chrome://tracing open. Each actor is a thread whose slices are its
// steps, one after the other over all actors; what it holds or waits for are asynchronous slices of its process; an arrow leads from the
// release of a lock to the next acquire by another actor. Times are steps, not durations.
func (r *Run) Chrome(w io.Writer) error {
	c := &chrome{open: map[string][]int{}, gone: map[string]released{}}
	for i, name := range r.Actors {
		c.add(chromeEvent{Name: "process_name", Phase: "M", Pid: i + 1, Tid: i + 1, Args: map[string]any{"name": name}})
		c.add(chromeEvent{Name: "thread_name", Phase: "M", Pid: i + 1, Tid: i + 1, Args: map[string]any{"name": name}})
	}
	end := 0
	for i := range r.Steps {
		c.step(&r.Steps[i], i*stepTime)
		end = (i + 1) * stepTime
	}
	c.closeAll(r, end)
	for _, f := range r.Failures {
		c.add(chromeEvent{Name: f.Class, Cat: "failure", Phase: "i", Time: end, Pid: 1, Tid: 1, Scope: "g", Args: map[string]any{"detail": f.Detail}})
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(map[string]any{"traceEvents": c.events, "displayTimeUnit": "ms",
		"otherData": map[string]any{"schedule": r.Schedule, "preemptions": r.Preemptions}})
}

func (c *chrome) add(e chromeEvent) { c.events = append(c.events, e) }

func (c *chrome) step(s *Step, t int) {
	name := s.Op
	if s.What != "" {
		name = fmt.Sprintf("%s %s %d", s.Op, s.What, s.Instance)
	} else if s.Detail != "" {
		name = s.Detail
	}
	args := map[string]any{"held": s.Held}
	if s.Detail != "" {
		args["detail"] = s.Detail
	}
	pid := s.Actor + 1
	thing := fmt.Sprintf("%s %d", s.What, s.Instance)
	switch s.Kind {
	case lock.WaitOp:
		c.begin(pid, "wait for "+thing, "wait", t)
		return // the actor does nothing
	case lock.NoteOp, lock.ChooseOp:
		c.add(chromeEvent{Name: name, Cat: s.Op, Phase: "i", Time: t, Pid: pid, Tid: pid, Scope: "t", Args: args})
		return
	}
	c.add(chromeEvent{Name: name, Cat: s.Op, Phase: "X", Time: t, Dur: stepTime, Pid: pid, Tid: pid, Args: args})
	switch s.Kind {
	case lock.Acquire, lock.RAcquire, lock.TryAcquire, lock.TryRAcquire, lock.EnterOp:
		c.finish(pid, "wait for "+thing, "wait", t)
		if s.Detail != "fails" {
			c.arrow(s, thing, t)
			c.begin(pid, thing, "lock", t)
		}
	case lock.Release, lock.RRelease, lock.LeaveOp:
		c.finish(pid, thing, "lock", t+stepTime)
		c.gone[thing] = released{s.Actor, t}
	}
}

// arrow leads from the last release of the lock by another actor to this step.
func (c *chrome) arrow(s *Step, thing string, t int) {
	g, ok := c.gone[thing]
	if !ok || g.actor == s.Actor || s.Kind == lock.EnterOp {
		return
	}
	c.ids++
	c.add(chromeEvent{Name: thing, Cat: "order", Phase: "s", Time: g.time + stepTime/2, Pid: g.actor + 1, Tid: g.actor + 1, ID: c.ids})
	c.add(chromeEvent{Name: thing, Cat: "order", Phase: "f", Bind: "e", Time: t + 1, Pid: s.Actor + 1, Tid: s.Actor + 1, ID: c.ids})
}

func (c *chrome) begin(pid int, name, cat string, t int) {
	c.ids++
	k := fmt.Sprint(pid, cat, name)
	c.open[k] = append(c.open[k], c.ids)
	c.add(chromeEvent{Name: name, Cat: cat, Phase: "b", Time: t, Pid: pid, Tid: pid, ID: c.ids})
}

func (c *chrome) finish(pid int, name, cat string, t int) {
	k := fmt.Sprint(pid, cat, name)
	ids := c.open[k]
	if len(ids) == 0 {
		return
	}
	c.open[k] = ids[:len(ids)-1]
	c.add(chromeEvent{Name: name, Cat: cat, Phase: "e", Time: t, Pid: pid, Tid: pid, ID: ids[len(ids)-1]})
}

// closeAll ends at the end what is still open: a deadlock's locks and waits.
func (c *chrome) closeAll(r *Run, end int) {
	for _, s := range r.Steps {
		thing := fmt.Sprintf("%s %d", s.What, s.Instance)
		c.finish(s.Actor+1, "wait for "+thing, "wait", end)
		c.finish(s.Actor+1, thing, "lock", end)
	}
}
