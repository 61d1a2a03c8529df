//go:build explore

package explore

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"inlinefs/internal/sched"
)

// tooBig is how many executions a search may take before the random ones are not held against it.
const tooBig = 7000

// crosschecked says which scenarios a test run has time for: all of two actors, and of three those with a commit and a crash, and one more for
// a strategy where it is not big; without -short all that are not too big.
func crosschecked(strategy string, sc *Scenario) bool {
	return !testing.Short() || !sc.Three || strings.HasSuffix(sc.Name, ",commit,crash") ||
		strategy == "flip_folio" && sc.Name == "write,fault,crash" || strategy == "writepages_copy" && sc.Name == "write,fault,writeback"
}

// TestStepsCommute holds random executions of the scenarios against the traces that were explored: each must be one of them and end alike.
// A difference is state that actors share and no lock, flag or point announces: absence of failures would then prove nothing.
// INLINEFS_STRATEGIES names the strategies (default: three that differ most).
func TestStepsCommute(t *testing.T) {
	runs := 400
	if testing.Short() {
		runs = 50
	}
	names := "mkwrite,writepages_copy,flip_folio"
	if v := os.Getenv("INLINEFS_STRATEGIES"); v != "" {
		names = v
	}
	for strategy := range strings.SplitSeq(names, ",") {
		traces, met, big := int64(0), 0, 0
		for _, sc := range All() {
			if !crosschecked(strategy, &sc) {
				continue
			}
			b, err := baseOf(&sc)
			if err != nil {
				t.Fatalf("%s: %v", sc.Name, err)
			}
			var last *world
			c, err := sched.Crosscheck(stated(sc.program(b, strategy, &last), &last), runs, 1, sched.Options{Faults: 1, MaxExecutions: tooBig})
			if sc.Three && c.Result.Err == nil && c.Result.Executions >= tooBig && !c.Result.Complete {
				big++
				continue
			}
			if err != nil {
				t.Errorf("%s: %s: %v", strategy, sc.Name, err)
			}
			traces += c.Result.Traces
			met += c.Traces
		}
		t.Logf("%s: %d traces explored, %d of them met by %d random executions a scenario; %d scenarios were too big", strategy, traces, met, runs, big)
	}
}

// stated makes what each operation returned, and what a mount found after the crash, part of how an execution ends.
func stated(p sched.Program, last **world) sched.Program {
	fresh := p.New
	p.New = func() sched.World {
		w := fresh()
		w.State = func() string {
			var s strings.Builder
			for _, o := range (*last).ops {
				fmt.Fprintf(&s, "%s: %v %s; ", o, o.st, o.got)
			}
			fmt.Fprintf(&s, "survived: %s", show((*last).survived))
			return s.String()
		}
		return w
	}
	return p
}
