package stress

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Model is what `inlinefs explore --json` found out about one strategy in one scenario of the model.
type Model struct {
	Strategy   string         `json:"strategy"`
	Scenario   string         `json:"scenario"`
	Executions int64          `json:"executions"`
	Traces     int64          `json:"traces"`   // schedules among them that differ by more than the order of steps that commute
	Complete   bool           `json:"complete"` // every schedule was run
	Failures   []ModelFailure `json:"failures"`
}

// ModelFailure is a schedule that breaks a rule.
type ModelFailure struct {
	Class       string `json:"class"`
	Schedule    string `json:"schedule"`
	Preemptions int    `json:"preemptions"`
	Steps       int    `json:"steps"`
}

// LoadModels reads the file of `inlinefs explore --json`.
func LoadModels(path string) ([]Model, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("explored schedules: %w", err)
	}
	var out []Model
	if err := json.Unmarshal(text, &out); err != nil {
		return nil, fmt.Errorf("explored schedules %s: want an array of strategy, scenario, executions, complete and failures: %w", path, err)
	}
	for i, m := range out {
		if m.Strategy == "" || m.Executions < 0 || m.Traces < 0 {
			return nil, fmt.Errorf("explored schedules %s: entry %d: strategy %q, executions %d, traces %d", path, i, m.Strategy, m.Executions, m.Traces)
		}
	}
	return out, nil
}

// className brings a class to the form that mounts use: "nil handle" and "nil-handle" are one.
func className(s string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimSpace(s)), " ", "-")
}

func (m *Model) classes() []string {
	var out []string
	for _, f := range m.Failures {
		if c := className(f.Class); !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	slices.Sort(out)
	return out
}

// modelText says what the models of a strategy show of a class: the shortest schedule, or how many were run without it.
func modelText(models []Model, class string) string {
	var best *ModelFailure
	var runs, traces int64
	complete := len(models) > 0
	for _, m := range models {
		runs, traces = runs+m.Executions, traces+m.Traces
		complete = complete && m.Complete
		for i := range m.Failures {
			f := &m.Failures[i]
			if className(f.Class) == class && (best == nil || f.Steps < best.Steps || f.Steps == best.Steps && f.Preemptions < best.Preemptions) {
				best = f
			}
		}
	}
	switch {
	case len(models) == 0:
		return "-"
	case best != nil:
		return fmt.Sprintf("%d steps, %d p", best.Steps, best.Preemptions)
	case complete:
		return fmt.Sprintf("%s of %s", shortNum(traces), shortNum(traces))
	}
	return fmt.Sprintf("0 of %s..", shortNum(runs))
}

// shortNum writes a count in at most five letters.
func shortNum(n int64) string {
	switch {
	case n < 10_000:
		return fmt.Sprint(n)
	case n < 1_000_000:
		return fmt.Sprintf("%dk", n/1000)
	case n < 10_000_000:
		return fmt.Sprintf("%.1fM", float64(n/100_000)/10)
	}
	return fmt.Sprintf("%dM", n/1_000_000)
}
