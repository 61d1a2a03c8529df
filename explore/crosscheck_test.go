//go:build explore

package explore

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"inlinefs/internal/sched"
)

// TestStepsCommute holds random executions of every pair against the traces that were explored: each must be one of them and end alike.
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
	img, err := unpack(plainImage)
	if err != nil {
		t.Fatal(err)
	}
	for strategy := range strings.SplitSeq(names, ",") {
		traces, met := int64(0), 0
		for _, sc := range Pairs() {
			b, err := newBase(img, sc.start())
			if err != nil {
				t.Fatalf("%s: %v", sc.Name, err)
			}
			var last *world
			p := sc.program(b, strategy, &last)
			fresh := p.New
			p.New = func() sched.World {
				w := fresh()
				w.State = func() string {
					var s strings.Builder
					for _, o := range last.ops {
						fmt.Fprintf(&s, "%s: %v %s; ", o, o.st, o.got)
					}
					return s.String()
				}
				return w
			}
			c, err := sched.Crosscheck(p, runs, 1, sched.Options{Faults: 1})
			if err != nil {
				t.Errorf("%s: %s: %v", strategy, sc.Name, err)
			}
			traces += c.Result.Traces
			met += c.Traces
		}
		t.Logf("%s: %d traces explored, %d of them met by %d random executions a scenario", strategy, traces, met, runs)
	}
}
