package stress

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// Foresight is what a strategy is expected to do: the content of testdata/expect_NAME. A strategy that is known to be bad and passes
// fails a comparison as much as one that is known to be good and is convicted.
type Foresight struct {
	Schema   int    `json:"schema"`
	Strategy string `json:"strategy"`
	Why      string `json:"why"`
	// Must are classes that have to show, each in a scenario and within a time.
	Must []MustShow `json:"must"`
	// May are classes that may show; MustNot those that the strategy is there to prevent, or that nobody has a reason for. A class
	// in neither list must not show either.
	May     []string `json:"may"`
	MustNot []string `json:"must_not"`
}

// MustShow is a conviction that is expected.
type MustShow struct {
	Class    string  `json:"class"`
	Scenario string  `json:"scenario"`
	WithinS  float64 `json:"within_s"`
}

// ClassImage stands for what e2fsck and check found in the unmounted image.
const ClassImage = "image"

const (
	foresightSchema = 1
	foresightPrefix = "expect_"
)

//go:embed testdata/expect_*
var foresights embed.FS

// ErrUnforeseen says that there is no expectation for a strategy.
var ErrUnforeseen = errors.New("nothing is written down of what is expected")

// ForesightOf reads the expectation of a strategy, from dir or, where that is empty, as it was when the program was built. Without one
// the error is ErrUnforeseen.
func ForesightOf(strategy, dir string) (*Foresight, error) {
	var from fs.FS = foresights
	base := "testdata"
	if dir != "" {
		from, base = os.DirFS(dir), "."
	}
	text, err := fs.ReadFile(from, path.Join(base, foresightPrefix+strategy))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return nil, fmt.Errorf("strategy %q: %w", strategy, ErrUnforeseen)
	}
	if err != nil {
		return nil, fmt.Errorf("expectation: %w", err)
	}
	f, err := parseForesight(text)
	if err != nil {
		return nil, fmt.Errorf("expectation of %s: %w", strategy, err)
	}
	if f.Strategy != strategy {
		return nil, fmt.Errorf("expectation of %s: it is one of %q", strategy, f.Strategy)
	}
	return f, nil
}

func parseForesight(text []byte) (*Foresight, error) {
	dec := json.NewDecoder(strings.NewReader(string(text)))
	dec.DisallowUnknownFields()
	f := &Foresight{}
	if err := dec.Decode(f); err != nil {
		return nil, err
	}
	if f.Schema != foresightSchema {
		return nil, fmt.Errorf("schema %d, want %d", f.Schema, foresightSchema)
	}
	for _, m := range f.Must {
		if _, err := canonical(m.Scenario); err != nil {
			return nil, err
		}
		if m.Class == "" || m.WithinS <= 0 {
			return nil, fmt.Errorf("must: class %q within %g s", m.Class, m.WithinS)
		}
		if slices.Contains(f.MustNot, m.Class) {
			return nil, fmt.Errorf("class %s must and must not show", m.Class)
		}
	}
	for _, c := range f.May {
		if slices.Contains(f.MustNot, c) {
			return nil, fmt.Errorf("class %s may and must not show", c)
		}
	}
	return f, nil
}

// canonical is a scenario as a result names it.
func canonical(scenario string) (Shape, error) {
	sh, err := ParseScenario(scenario)
	if err != nil {
		return sh, err
	}
	if s := siblingByName(sh.Sibling); s != nil {
		sh.OneProcess = sh.OneProcess || s.OneProcess
		if sh.Base == "" {
			sh.Base = s.Base
		}
	}
	if sh.Base == "" {
		sh.Base = ScenarioSeed
	}
	return sh, nil
}

func sameScenario(a, b string) bool {
	x, errX := canonical(a)
	y, errY := canonical(b)
	return errX == nil && errY == nil && x == y
}

// until are the classes that must show in a scenario, and the longest of their times, in seconds.
func (f *Foresight) until(scenario string) (classes []string, within float64) {
	for _, m := range f.Must {
		if sameScenario(m.Scenario, scenario) {
			classes = append(classes, m.Class)
			within = max(within, m.WithinS)
		}
	}
	return classes, within
}

// allows tells if a class may show.
func (f *Foresight) allows(class string) bool {
	return slices.Contains(f.May, class) || slices.ContainsFunc(f.Must, func(m MustShow) bool { return m.Class == class })
}

// counts are all findings of a result by class, ClassImage and data mismatches among them.
func (r *Result) counts() map[string]int64 {
	out := maps.Clone(r.Violations)
	if out == nil {
		out = map[string]int64{}
	}
	if r.DataMismatches > 0 {
		out[classMismatch] = r.DataMismatches
	}
	var image int64
	for _, c := range []CheckResult{r.Fsck, r.Check} {
		if !c.Clean && c.Skipped == "" {
			image += max(int64(len(c.Findings)), 1)
		}
	}
	if image > 0 {
		out[ClassImage] = image
	}
	maps.DeleteFunc(out, func(_ string, n int64) bool { return n == 0 })
	return out
}

// Verdict is how the results of a strategy, and what the model says of it, compare with what was expected.
type Verdict struct {
	Met   []string // what came as expected
	Unmet []string // what did not
}

// Judge compares the results of the strategy with the expectation.
func (f *Foresight) Judge(results []*Result, models []Model) Verdict {
	var v Verdict
	raced := false
	for _, r := range results {
		raced = raced || r.Writes > 0 && (r.Faults > 0 || r.MmapRefused > 0)
	}
	if !raced {
		v.Unmet = append(v.Unmet, "nothing was raced")
	}
	for _, m := range f.Must {
		f.judgeMust(&v, m, results)
	}
	where := map[string][]string{}
	for _, r := range results {
		for class, n := range r.counts() {
			if !f.allows(class) {
				where[class] = append(where[class], fmt.Sprintf("on %s (%d)", r.Scenario, n))
			}
		}
	}
	for _, m := range models {
		for _, class := range m.classes() {
			if !f.allows(class) {
				where[class] = append(where[class], "in the model of "+m.Scenario)
			}
		}
	}
	for _, class := range slices.Sorted(maps.Keys(where)) {
		v.Unmet = append(v.Unmet, class+" must not show and does "+strings.Join(where[class], ", "))
	}
	if len(v.Unmet) == 0 && len(f.Must) == 0 {
		v.Met = append(v.Met, "nothing that must not show, in "+plural(len(results), "run"))
	}
	return v
}

func (f *Foresight) judgeMust(v *Verdict, m MustShow, results []*Result) {
	ran, late := false, ""
	for _, r := range results {
		if !sameScenario(r.Scenario, m.Scenario) {
			continue
		}
		ran = true
		at, timed := r.FirstSeenS[m.Class]
		switch {
		case r.Violations[m.Class] == 0:
		case timed && at > m.WithinS:
			late = fmt.Sprintf(", only after %.1f s", at)
		case timed:
			v.Met = append(v.Met, fmt.Sprintf("%s on %s after %.1f s (at most %g)", m.Class, m.Scenario, at, m.WithinS))
			return
		default:
			v.Met = append(v.Met, fmt.Sprintf("%s on %s", m.Class, m.Scenario))
			return
		}
	}
	why := fmt.Sprintf("no %s on %s within %g s%s", m.Class, m.Scenario, m.WithinS, late)
	if !ran {
		why = fmt.Sprintf("%s must show on %s, which was not run", m.Class, m.Scenario)
	}
	v.Unmet = append(v.Unmet, why)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
