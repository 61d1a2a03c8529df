//go:build explore

package explore

import (
	"strings"
	"testing"

	"inlinefs/inline"
	"inlinefs/internal/sched"
)

// TestStrategiesAreAsExpected searches every pair under every strategy: the unsound ones must be convicted, the sound ones clean, and
// that is a claim only if every search was complete.
func TestStrategiesAreAsExpected(t *testing.T) {
	o := Options{Actors: 2}
	if testing.Short() {
		o.Strategies = []string{"flip_folio", "mkwrite"}
	}
	out, err := Run(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range out {
		if !x.Complete {
			t.Errorf("%s, %s: not complete after %d executions", x.Strategy, x.Scenario, x.Executions)
		}
	}
	if lines := Surprises(out, true); len(lines) > 0 {
		t.Errorf("surprises:\n%s\n%s", strings.Join(lines, "\n"), Table(out))
	}
	want := len(inline.Names())
	if testing.Short() {
		want = 2
	}
	if rows := strings.Count(Table(out), "\n") - 1; rows != want {
		t.Errorf("the table has %d rows, want %d:\n%s", rows, want, Table(out))
	}
}

// TestSurprisesSpeak: a clean strategy that fails and an unsound one that does not are both named.
func TestSurprisesSpeak(t *testing.T) {
	out := []Outcome{
		{Strategy: "flip_folio", Scenario: "a", Failures: []Conviction{{Class: "lost-write", Replay: "r"}}},
		{Strategy: "mkwrite", Scenario: "a", Failures: []Conviction{{Class: "mode-mismatch"}}},
	}
	lines := strings.Join(Surprises(out, true), "\n")
	if !strings.Contains(lines, "flip_folio must be clean") || !strings.Contains(lines, "mkwrite must be convicted of nil-handle") {
		t.Errorf("surprises are %q", lines)
	}
	if lines := Surprises(out, false); len(lines) != 1 {
		t.Errorf("of some scenarios: %q", lines)
	}
}

// TestNilHandleIsMinimal: the conviction of mkwrite is short, and its replay gives the same execution each time.
func TestNilHandleIsMinimal(t *testing.T) {
	out, err := Run(Options{Strategies: []string{"mkwrite"}, Scenarios: []string{"write,fault"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range out[0].Failures {
		if f.Class != "nil-handle" {
			continue
		}
		if !f.Shrunk || f.Preemptions > 3 || f.Timeline == "" {
			t.Errorf("%d preemptions, shrunk %v, timeline %q", f.Preemptions, f.Shrunk, f.Timeline)
		}
		for range 2 {
			run, err := Replay(f.Replay)
			if err != nil {
				t.Fatalf("--replay '%s': %v", f.Replay, err)
			}
			if !run.Has("nil-handle") || run.Schedule.String() != f.Schedule {
				t.Errorf("replay has %v by %s, want nil-handle by %s", run.Failures, run.Schedule, f.Schedule)
			}
			if got := Timeline(run); got != f.Timeline {
				t.Errorf("the timeline differs:\n%s\nwas:\n%s", got, f.Timeline)
			}
		}
		return
	}
	t.Fatalf("mkwrite has no nil-handle in write,fault: %+v", out[0].Failures)
}

// TestReplayRefuses: what is no replay of this program is an error that says why.
func TestReplayRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "want STRATEGY/SCENARIO/SCHEDULE",
		"mkwrite/write,fault":         "want STRATEGY/SCENARIO/SCHEDULE",
		"nope/write,fault/0":          "not known",
		"mkwrite/nope/0":              "not known",
		"mkwrite/write,fault~9.9/0":   "names no operation",
		"mkwrite/write,fault~x/0":     "names no operation",
		"mkwrite/write,fault~0.-1/0":  "names no operation",
		"mkwrite/write,fault/zebra":   "",
		"mkwrite/write,fault/7":       "does not fit",
		"mkwrite/write,fault/c1":      "does not fit",
		"mkwrite/write,fault/0x999":   "does not fit",
		"mkwrite/write,fault/0x5,c99": "does not fit",
	} {
		run, err := Replay(text)
		if err == nil {
			t.Errorf("replay %q: repeated, %d steps", text, len(run.Steps))
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("replay %q: %v, want %q", text, err, want)
		}
	}
	if _, err := Run(Options{Strategies: []string{"nope"}}); err == nil {
		t.Error("strategy nope was run")
	}
	if _, err := Run(Options{Actors: 7}); err == nil {
		t.Error("scenarios of seven actors were run")
	}
}

// TestOracleAcceptsSequence: when nobody is interrupted and nothing fails, no scenario has anything to show in a sound strategy; the
// oracle would otherwise convict the innocent.
func TestOracleAcceptsSequence(t *testing.T) {
	for _, strategy := range []string{"flip_folio", "premmap", "retry"} {
		for _, sc := range All() {
			if strategy == "retry" && sc.Name == "write,gup" {
				continue // the known failure: a fault that may not be retried
			}
			tr := trialOf(t, strategy, sc.Name)
			r := sched.Bounded(tr.Program(), 0, sched.Options{Faults: -1})
			if r.Err != nil || !r.Complete || r.Executions < int64(len(sc.Actors)) {
				t.Errorf("%s, %s: %v, %s", strategy, sc.Name, r.Err, r.Summary())
			}
			for class, f := range r.Failures {
				t.Errorf("%s, %s: %s without a preemption: %s: --replay '%s/%s'", strategy, sc.Name, class, f.Detail, tr.name(), f.Schedule)
			}
		}
	}
}
