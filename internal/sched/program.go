//go:build explore

package sched

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// MaxActors is how many actors one program may have.
const MaxActors = 8

// The failure classes that the scheduler finds by itself.
const (
	LockCycle = "lock-cycle" // nobody can go on, or the classes of locks were taken in orders that contradict each other
	LockLeak  = "lock-leak"  // all actors ended and a lock is still held
	Livelock  = "livelock"   // more than Options.MaxSteps
	Panic     = "panic"
)

// Failure is one thing that went wrong in an execution.
type Failure struct {
	Class  string `json:"class"`
	Detail string `json:"detail"`
	// Blocked says of a LockCycle that actors really waited for each other; otherwise the order alone was inverted.
	Blocked bool `json:"blocked,omitempty"`
}

// Actor is one thread of a program.
type Actor struct {
	Name string
	Run  func()
}

// World is what one execution runs in.
type World struct {
	Actors []Actor
	// Finish judges the world after all actors ended, without a scheduler: nil when there is nothing to judge. It is not called after
	// a panic, a deadlock or an execution that was given up.
	Finish func() []Failure
	// State says what the world has become, for Crosscheck alone, where Finish is called; may be nil.
	State func() string
	// Close gives the world's resources back, however the execution ended; may be nil.
	Close func()
}

// Program makes a fresh world for each execution. New runs without a scheduler; what it makes must not depend on anything but
// Program, or executions cannot be repeated.
type Program struct {
	Name string
	New  func() World
}

// Options bounds a search. The zero value searches everything.
type Options struct {
	// MaxSteps is when an execution counts as a livelock; 0 is 20000.
	MaxSteps int
	// MaxExecutions ends the search; 0 is no limit.
	MaxExecutions int64
	// Limit ends the search after so much time; 0 is no limit.
	Limit time.Duration
	// Stop is asked now and then whether to end the search; may be nil.
	Stop func() bool
	// Faults is how many choices of an execution may differ from 0; 0 is no limit, a negative number none.
	Faults int
	// Until ends the search at the first failure for which it says so; nil never does.
	Until func(Failure) bool
	// TrustLeaf leaves locks of leaf classes without switch points even when one was held across a switch point. The search is then
	// sound only as far as that is.
	TrustLeaf bool
	// Progress is called about twice a second; may be nil.
	Progress func(Result)

	inspect func(*exec) // tests look at each execution that was not cut
}

// First ends a search at the first failure of any class (Options.Until).
func First(Failure) bool { return true }

// OfClass ends a search at the first failure of that class (Options.Until).
func OfClass(class string) func(Failure) bool {
	return func(f Failure) bool { return f.Class == class }
}

// Found is a failure and a schedule that shows it.
type Found struct {
	Failure
	Schedule    Schedule `json:"schedule"`
	Preemptions int      `json:"preemptions"` // of this schedule
	Count       int64    `json:"count"`       // executions that failed with this class
}

// Result is what a search has seen.
type Result struct {
	// Executions were begun; Traces of them ran to their end, each another one up to the order of independent steps; Cut were given
	// up because the rest had been seen.
	Executions int64 `json:"executions"`
	Traces     int64 `json:"traces"`
	Cut        int64 `json:"cut"`
	// Truncated executions hit MaxSteps.
	Truncated int64 `json:"truncated"`
	Steps     int64 `json:"steps"` // scheduling decisions
	Longest   int   `json:"longest"`
	// Complete says that nothing within the bounds is left to see: only then is the absence of a class a fact about the program.
	Complete bool `json:"complete"`
	// Failures is the failure found first by class; of LockCycle rather one that really blocked.
	Failures map[string]Found `json:"failures,omitempty"`
	// Promoted names what the search had to treat more finely than declared, and began again: "leaf CLASS", "try CLASS".
	Promoted []string `json:"promoted,omitempty"`
	// Warnings names unnamed locks that were held across a switch point: the search takes them for independent.
	Warnings []string      `json:"warnings,omitempty"`
	Elapsed  time.Duration `json:"elapsed"`
	// Err is why the search could not go on: the program is not deterministic, or has too many actors.
	Err error `json:"-"`
}

// Summary is the result in one line.
func (r Result) Summary() string {
	s := fmt.Sprintf("%d executions, %d traces, %d steps", r.Executions, r.Traces, r.Steps)
	if r.Complete {
		s = fmt.Sprintf("explored %d of %d traces (%d executions, %d steps)", r.Traces, r.Traces, r.Executions, r.Steps)
	}
	for _, class := range r.Classes() {
		s += fmt.Sprintf("; %s %d", class, r.Failures[class].Count)
	}
	return s
}

// Classes lists the classes of the failures, sorted.
func (r Result) Classes() []string {
	var names []string
	for c := range r.Failures {
		names = append(names, c)
	}
	slices.Sort(names)
	return names
}

// note counts the failures of one execution.
func (r *Result) note(x *exec) (until bool) {
	seen := map[string]bool{}
	for _, f := range x.failures {
		old, had := r.Failures[f.Class]
		switch {
		case !had:
			r.Failures[f.Class] = Found{Failure: f, Schedule: x.schedule.clone(), Preemptions: x.preemptions, Count: 1}
		case !old.Blocked && f.Blocked:
			r.Failures[f.Class] = Found{Failure: f, Schedule: x.schedule.clone(), Preemptions: x.preemptions, Count: old.Count}
		}
		if had && !seen[f.Class] {
			e := r.Failures[f.Class]
			e.Count++
			r.Failures[f.Class] = e
		}
		seen[f.Class] = true
		if x.opts.Until != nil && x.opts.Until(f) {
			until = true
		}
	}
	return until
}

// Run is one execution, repeated with everything written down.
type Run struct {
	Failures    []Failure `json:"failures,omitempty"`
	Schedule    Schedule  `json:"schedule"`
	Preemptions int       `json:"preemptions"`
	Actors      []string  `json:"actors"`
	Steps       []Step    `json:"steps"`
	Truncated   bool      `json:"truncated,omitempty"`
}

// Has tells whether the execution failed with this class.
func (r *Run) Has(class string) bool {
	return slices.ContainsFunc(r.Failures, func(f Failure) bool { return f.Class == class })
}

// String is the trace, one step a line.
func (r *Run) String() string {
	var b strings.Builder
	for _, s := range r.Steps {
		fmt.Fprintf(&b, "%4d %s\n", s.Index, s)
	}
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "%s: %s\n", f.Class, f.Detail)
	}
	return b.String()
}
