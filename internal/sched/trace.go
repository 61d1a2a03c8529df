//go:build explore

package sched

import (
	"fmt"
	"strings"

	"inlinefs/internal/lock"
)

// Step is one line of a trace.
type Step struct {
	Index    int       `json:"index"`
	Decision int       `json:"decision"` // of the schedule, under which it happened; -1 before the first
	Actor    int       `json:"actor"`
	Name     string    `json:"name"` // the actor's
	Kind     lock.Kind `json:"-"`
	Op       string    `json:"op"`
	What     string    `json:"what,omitempty"` // class of the lock, name of the flag, point or choice
	Instance uint64    `json:"instance"`
	Detail   string    `json:"detail,omitempty"` // value loaded, stored or chosen; text of a note; whom a wait is for
	Held     []string  `json:"held,omitempty"`   // after the step, in the order of taking
}

// String is the step in one line.
func (s Step) String() string {
	t := fmt.Sprintf("%-10s %-10s", s.Name, s.Op)
	if s.What != "" {
		t += fmt.Sprintf(" %s %d", s.What, s.Instance)
	}
	if s.Detail != "" {
		t = strings.TrimRight(t, " ") + ": " + s.Detail
	}
	if len(s.Held) > 0 {
		t += "  [" + strings.Join(s.Held, ", ") + "]"
	}
	return t
}

// record writes a step down.
func (x *exec) record(a *actor, kind lock.Kind, what string, inst uint64, detail string) {
	if !x.tracing || a == nil {
		return
	}
	s := Step{Index: len(x.steps), Decision: len(x.schedule.Steps) - 1, Actor: int(a.id), Name: a.Name, Kind: kind, Op: kind.String(),
		What: what, Instance: inst, Detail: detail}
	for i := range a.held {
		if h := &a.held[i]; h.class != nil && !h.hidden {
			name := fmt.Sprintf("%s %d", h.class.Name, h.inst)
			if h.shared && h.slot >= 0 {
				name += " (read)"
			}
			s.Held = append(s.Held, name)
		}
	}
	x.steps = append(x.steps, s)
}

// Note is lock.Controller's.
func (x *exec) Note(text string) {
	if !x.skip() {
		x.record(x.cur, lock.NoteOp, "", 0, text)
	}
}
