package stress

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	verdictWidth = 140 // of a line, in letters
	columnGapLen = 2
)

// strategyOrder is the order of rows: as the list came to them.
var strategyOrder = []string{"mkwrite", "mkwrite_ilock", "mmap", "premmap", "retry", "writepages_copy", "writepages_destroy", "flip", "flip_folio"}

// classOrder is the order of columns; a class that is not here comes after them.
var classOrder = []string{"nil-handle", "mode-mismatch", "inline-writeback", "lock-cycle", ClassLostStore, ClassLostWrite, ClassTornRead, ClassStaleBytes,
	classMismatch, ClassImage, ClassHang, ClassUnexpected,
	// What only the model can see.
	"stale-data", "crash-inconsistent", "sigbus", "leak", "torn-write", "livelock"}

// group is all that is known of one strategy.
type group struct {
	name    string
	results []*Result
	models  []Model
	counts  map[string]int64   // by class, over all results
	first   map[string]float64 // by class, the earliest
	ops     int64
}

// groups sorts results and models by strategy.
func groups(results []*Result, models []Model) []*group {
	by := map[string]*group{}
	of := func(name string) *group {
		if by[name] == nil {
			by[name] = &group{name: name, counts: map[string]int64{}, first: map[string]float64{}}
		}
		return by[name]
	}
	for _, r := range results {
		g := of(nameOf(r))
		g.results = append(g.results, r)
		g.ops += r.Operations()
		for class, n := range r.counts() {
			g.counts[class] += n
			if at, ok := r.FirstSeenS[class]; ok {
				if was, seen := g.first[class]; !seen || at < was {
					g.first[class] = at
				}
			}
		}
	}
	for _, m := range models {
		g := of(m.Strategy)
		g.models = append(g.models, m)
	}
	rank := func(name string) int {
		if i := slices.Index(strategyOrder, name); i >= 0 {
			return i
		}
		return len(strategyOrder)
	}
	out := slices.Collect(maps.Values(by))
	slices.SortFunc(out, func(a, b *group) int {
		if d := rank(a.name) - rank(b.name); d != 0 {
			return d
		}
		return strings.Compare(a.name, b.name)
	})
	return out
}

// verdict sums a strategy up in a word.
func (g *group) verdict() string {
	raced := false
	for _, r := range g.results {
		raced = raced || r.Writes > 0 && (r.Faults > 0 || r.MmapRefused > 0)
	}
	violations := int64(0)
	for class, n := range g.counts {
		if class != ClassImage {
			violations += n
		}
	}
	inModel := slices.ContainsFunc(g.models, func(m Model) bool { return len(m.Failures) > 0 })
	switch {
	case g.counts[ClassHang] > 0:
		return "HANG"
	case violations > 0 || inModel:
		return "CONVICTED"
	case g.counts[ClassImage] > 0:
		return "DAMAGED"
	case !raced:
		return "not raced"
	}
	return "clean"
}

// mountText says what the mounts showed of a class.
func (g *group) mountText(class string) string {
	n := g.counts[class]
	at, timed := g.first[class]
	switch {
	case len(g.results) == 0:
		return "-"
	case n == 0:
		return "0 of " + shortNum(g.ops)
	case timed && class != ClassImage:
		return fmt.Sprintf("%s, %.1f s", shortNum(n), at)
	}
	return shortNum(n)
}

// shownClasses are the classes that get a column: all that showed anywhere, or must show by what is foreseen, in their order.
func shownClasses(gs []*group, foresight map[string]*Foresight) []string {
	seen := map[string]bool{"nil-handle": true, "lock-cycle": true, ClassLostStore: true, ClassLostWrite: true}
	for _, g := range gs {
		for class := range g.counts {
			seen[class] = true
		}
		for _, m := range g.models {
			for _, class := range m.classes() {
				seen[class] = true
			}
		}
		if f := foresight[g.name]; f != nil {
			for _, m := range f.Must {
				seen[m.Class] = true
			}
		}
	}
	rank := func(c string) int {
		if i := slices.Index(classOrder, c); i >= 0 {
			return i
		}
		return len(classOrder)
	}
	out := slices.Collect(maps.Keys(seen))
	slices.SortFunc(out, func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return out
}

// verdictTables are the tables of classes: for each strategy a row of the mounts and, with models, one of the model. Classes that do not
// fit the width go to a further table.
func verdictTables(gs []*group, foresight map[string]*Foresight) [][][]string {
	var out [][][]string
	for rest := shownClasses(gs, foresight); len(rest) > 0; {
		n := len(rest)
		rows := verdictRows(gs, rest)
		for n > 1 && tableWidth(rows) > verdictWidth {
			n--
			rows = verdictRows(gs, rest[:n])
		}
		out = append(out, rows)
		rest = rest[n:]
	}
	return out
}

func verdictRows(gs []*group, classes []string) [][]string {
	withModel := slices.ContainsFunc(gs, func(g *group) bool { return len(g.models) > 0 })
	head, mount0, model0 := []string{"strategy", "verdict"}, []string(nil), []string(nil)
	if withModel {
		head, mount0, model0 = append(head, ""), []string{"mount"}, []string{"model"}
	}
	rows := [][]string{append(head, classes...)}
	for _, g := range gs {
		mount, model := append([]string{g.name, g.verdict()}, mount0...), append([]string{"", ""}, model0...)
		for _, c := range classes {
			mount = append(mount, g.mountText(c))
			model = append(model, modelText(g.models, c))
		}
		rows = append(rows, mount)
		if withModel {
			rows = append(rows, model)
		}
	}
	return rows
}

func tableWidth(rows [][]string) int {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	sum := -columnGapLen
	for _, w := range widths {
		sum += w + columnGapLen
	}
	return sum
}

// costOf is the result that a strategy's costs are read from: the main race on a healthy image, where conversions succeed; else the first
// that has any.
func (g *group) costOf() *Result {
	var other *Result
	for _, r := range g.results {
		sh, err := canonical(r.Scenario)
		if err == nil && sh.Base == ScenarioHealthy && sh.Sibling == "" {
			return r
		}
		if other == nil && r.LatencyUS.Write != (Quantiles{}) {
			other = r
		}
	}
	return other
}

// costRows are the rows of the table of costs.
func costRows(gs []*group) [][]string {
	rows := [][]string{{"strategy", "fault us p50/p99", "write us p50/p99", "writes/s", "conversions/M", "SIGBUS", "mmap refused",
		"unstored: mapped", "mapped, read"}}
	for _, g := range gs {
		if len(g.results) == 0 {
			continue
		}
		row := []string{g.name}
		if c := g.costOf(); c != nil {
			us := func(q Quantiles) string {
				if q == (Quantiles{}) {
					return "none"
				}
				return fmt.Sprintf("%.0f / %.0f", q.P50, q.P99)
			}
			row = append(row, us(c.LatencyUS.Fault), us(c.LatencyUS.Write), fmt.Sprintf("%.0f", c.Throughput), fmt.Sprintf("%.0f", c.ConversionsPerMillion()))
		} else {
			row = append(row, "-", "-", "-", "-")
		}
		var sigbus, refused, touched int64
		unstored := [2]string{"-", "-"}
		for _, r := range g.results {
			sigbus += r.Sigbus
			refused += r.MmapRefused
			touched += r.Faults
			sh, err := canonical(r.Scenario)
			// Where conversions fail there is nothing to count.
			if u := r.Unstored; u != nil && (unstored[0] == "-" || err == nil && sh.Base == ScenarioHealthy) {
				unstored = [2]string{fmt.Sprintf("%d of %d", u.MappedConverted, u.Mapped), fmt.Sprintf("%d of %d", u.LoadedConverted, u.Loaded)}
			}
		}
		rows = append(rows, append(row, fmt.Sprintf("%s of %s", shortNum(sigbus), shortNum(touched)), shortNum(refused), unstored[0], unstored[1]))
	}
	return rows
}

// legend explains the tables in as few words as will do.
func legend(withModel bool) string {
	s := `N, T s: seen N times, first after T seconds of the race. 0 of N: not in N operations, which is a rate below 3/N (95 %)
`
	if !withModel {
		s = "cells   " + s
	} else {
		s = "mount   " + s + `model   N steps, P p: the shortest schedule that shows it, with P preemptions. K of K: in none of K schedules, and these are all
        there are. 0 of K..: in none of the K that were run; there are more
`
	}
	return s + `costs   of the main race where conversions succeed (else of the first run), as the workers saw them, conversions in a million operations;
        SIGBUS of all faults and mmap(2) refused, in all runs;
        unstored: files converted though nobody stored to them, mapped only, or mapped and read (FUSE cannot tell a load from a store)
`
}

// ComparisonInput is what Compare sets side by side.
type ComparisonInput struct {
	Results []*Result
	Models  []Model
	Expect  []Expectation
	// Foreseen compares with what is written down of each strategy, in ForesightDir or in the program.
	Foreseen     bool
	ForesightDir string
	// Details shows every result in a column of its own; without it that is so for up to three.
	Details bool
}

// foresights reads what is expected of the strategies of groups; one without stays out.
func (in *ComparisonInput) foresights(gs []*group) (map[string]*Foresight, error) {
	out := map[string]*Foresight{}
	if !in.Foreseen {
		return out, nil
	}
	for _, g := range gs {
		f, err := ForesightOf(g.name, in.ForesightDir)
		if err != nil && !errors.Is(err, ErrUnforeseen) {
			return nil, err
		}
		if err == nil {
			out[g.name] = f
		}
	}
	return out, nil
}

// writeForeseen writes how the results compare with what was expected; false: some do not.
func writeForeseen(b *strings.Builder, gs []*group, foresight map[string]*Foresight) (met bool) {
	met = true
	for _, g := range gs {
		f := foresight[g.name]
		if f == nil {
			met = false
			fmt.Fprintf(b, "NOT AS EXPECTED  %s: %v\n", g.name, ErrUnforeseen)
			continue
		}
		v := f.Judge(g.results, g.models)
		lines := v.Met
		word := "as expected      "
		if len(v.Unmet) > 0 {
			met, lines, word = false, v.Unmet, "NOT AS EXPECTED  "
		}
		for i, line := range wrap(g.name+": "+strings.Join(lines, "; "), verdictWidth-len(word), "  ") {
			if i > 0 {
				word = strings.Repeat(" ", len(word))
			}
			b.WriteString(word + line + "\n")
		}
	}
	return met
}
