//go:build explore

package explore

import (
	"testing"
	"time"

	"inlinefs/internal/sched"
)

// trialOf is a named scenario under a strategy.
func trialOf(t *testing.T, strategy, scenario string) trial {
	t.Helper()
	o := Options{Scenarios: []string{scenario}}
	scs, err := o.scenarios()
	if err != nil {
		t.Fatal(err)
	}
	b, err := baseOf(&scs[0])
	if err != nil {
		t.Fatal(err)
	}
	return trial{sc: scs[0], base: b, strategy: strategy, last: new(*world)}
}

// TestReductionLosesNothing holds the reduced search against one that makes every execution of few preemptions: on the real file system,
// it must not find a class that the reduced search does not.
func TestReductionLosesNothing(t *testing.T) {
	limit, cases := 8*time.Second, []struct{ strategy, scenario string }{
		{"flip_folio", "read,fault"},
		{"mkwrite", "read,fault"},
		{"flip", "fault,fault"},
		{"writepages_destroy", "write,writeback"},
		{"writepages_copy", "truncate,writeback"},
		{"mmap", "write,mmap same process"},
	}
	if testing.Short() {
		limit, cases = time.Second, cases[:3]
	}
	for _, c := range cases {
		t.Run(c.strategy+":"+c.scenario, func(t *testing.T) {
			tr := trialOf(t, c.strategy, c.scenario)
			reduced := sched.Exhaustive(tr.Program(), sched.Options{Faults: 1})
			if reduced.Err != nil || !reduced.Complete {
				t.Fatalf("reduced search: %v, %s", reduced.Err, reduced.Summary())
			}
			all := sched.Bounded(tr.Program(), 2, sched.Options{Faults: 1, Limit: limit})
			if all.Err != nil {
				t.Fatal(all.Err)
			}
			t.Logf("reduced: %s; bounded: %s, complete %v", reduced.Summary(), all.Summary(), all.Complete)
			for class, f := range all.Failures {
				if _, found := reduced.Failures[class]; !found {
					t.Errorf("%s is not found by the reduced search: --replay '%s/%s'", class, tr.name(), f.Schedule)
				}
			}
		})
	}
}
