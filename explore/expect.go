//go:build explore

package explore

import (
	"fmt"
	"slices"
	"strings"
)

// expected is the class of failure that the search must find in each strategy, and "" where it must find none. What else a convicted
// strategy does is part of its conviction.
var expected = map[string]string{
	"mkwrite":            "nil-handle",
	"mkwrite_ilock":      "lock-cycle",
	"mmap":               "lock-cycle",
	"premmap":            "",
	"retry":              "sigbus",
	"writepages_copy":    "stale-data",
	"writepages_destroy": "lost-store",
	"flip":               "mode-mismatch",
	"flip_folio":         "",
}

// Surprises compares outcomes with what is expected of each strategy: none is what should be. With every false only scenarios that were run
// are held against a strategy, not the absence of its conviction.
func Surprises(out []Outcome, every bool) (lines []string) {
	found := map[string]map[string]bool{}
	for _, o := range out {
		if found[o.Strategy] == nil {
			found[o.Strategy] = map[string]bool{}
		}
		for _, f := range o.Failures {
			found[o.Strategy][f.Class] = true
			if expected[o.Strategy] == "" {
				lines = append(lines, fmt.Sprintf("%s must be clean, but scenario %s shows %s: --replay '%s'", o.Strategy, o.Scenario, f.Class, f.Replay))
			}
		}
	}
	for s, classes := range found {
		if want := expected[s]; every && want != "" && !classes[want] {
			lines = append(lines, fmt.Sprintf("%s must be convicted of %s, and was not: the search has lost its teeth", s, want))
		}
	}
	slices.Sort(lines)
	return lines
}

// Table is the verdict on each strategy over all its outcomes.
func Table(out []Outcome) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-19s %-10s %-34s %s\n", "strategy", "scenarios", "schedules", "verdict (class: decisions, preemptions, in how many scenarios)")
	var names []string
	for _, o := range out {
		if !slices.Contains(names, o.Strategy) {
			names = append(names, o.Strategy)
		}
	}
	for _, name := range names {
		b.WriteString(tableRow(name, out))
	}
	return b.String()
}

func tableRow(name string, out []Outcome) string {
	type best struct {
		Conviction
		scenarios int
	}
	var scenarios, complete int
	var traces, executions int64
	classes := map[string]best{}
	var order []string
	for _, o := range out {
		if o.Strategy != name {
			continue
		}
		scenarios++
		if o.Complete {
			complete++
		}
		traces += o.Traces
		executions += o.Executions
		for _, f := range o.Failures {
			c, had := classes[f.Class]
			if !had {
				order = append(order, f.Class)
			}
			if !had || f.Shrunk && !c.Shrunk {
				c.Conviction = f
			}
			c.scenarios++
			classes[f.Class] = c
		}
	}
	slices.Sort(order)
	schedules := fmt.Sprintf("explored %d of %d", traces, traces)
	if complete < scenarios {
		schedules = fmt.Sprintf("%d tried, %d scenarios whole", executions, complete)
	}
	verdict := "no violation"
	var parts []string
	for _, class := range order {
		c := classes[class]
		parts = append(parts, fmt.Sprintf("%s: %d, %d, %d", class, c.Steps, c.Preemptions, c.scenarios))
	}
	if len(parts) > 0 {
		verdict = strings.Join(parts, "; ")
	}
	return fmt.Sprintf("%-19s %-10d %-34s %s\n", name, scenarios, schedules, verdict)
}
