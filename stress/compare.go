package stress

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"gonum.org/v1/gonum/stat/distuv"
)

// ClopperPearson gives the exact 95 % interval of a rate of which k of n trials were seen. Without trials it is 0 to 1.
func ClopperPearson(k, n int64) (low, high float64) {
	const tail = 0.025
	if n <= 0 {
		return 0, 1
	}
	// A class may be counted more than once per trial; the interval is of a proportion.
	k = min(max(k, 0), n)
	low, high = 0, 1
	if k > 0 {
		low = distuv.Beta{Alpha: float64(k), Beta: float64(n - k + 1)}.Quantile(tail)
	}
	if k < n {
		high = distuv.Beta{Alpha: float64(k + 1), Beta: float64(n - k)}.Quantile(1 - tail)
	}
	return low, high
}

// rateText is a rate with its interval; none in n trials is less than 3 in n (the rule of three).
func rateText(k, n int64) string {
	switch {
	case n <= 0:
		return "no writes"
	case k == 0:
		return fmt.Sprintf("< 3/%d (%.1e)", n, 3/float64(n))
	}
	low, high := ClopperPearson(k, n)
	return fmt.Sprintf("%.1e (%.1e..%.1e)", float64(k)/float64(n), low, high)
}

// Expectation is a verdict that a comparison must come to.
type Expectation struct {
	Strategy string
	Class    string // to be convicted of; empty: to be clean
}

// ParseConvicted reads STRATEGY=CLASS.
func ParseConvicted(s string) (Expectation, error) {
	strategy, class, ok := strings.Cut(s, "=")
	if !ok || strategy == "" || class == "" {
		return Expectation{}, fmt.Errorf("expectation %q: want STRATEGY=CLASS", s)
	}
	return Expectation{Strategy: strategy, Class: class}, nil
}

// Meets tells why a set of results does not meet the expectation; empty: it does. A run that wrote nothing, or in which nothing was
// mapped, shows nothing and is not clean.
func (e Expectation) Meets(results []*Result) string {
	var seen int
	for _, r := range results {
		if r.Strategy != e.Strategy {
			continue
		}
		seen++
		if e.Class != "" {
			if r.Violations[e.Class] > 0 {
				return ""
			}
			continue
		}
		switch {
		case r.Writes == 0:
			return fmt.Sprintf("%s: expected clean, but nothing was written", e.Strategy)
		case r.Faults == 0 && r.MmapRefused == 0:
			return fmt.Sprintf("%s: expected clean, but nothing was mapped", e.Strategy)
		case len(r.counts()) > 0:
			return fmt.Sprintf("%s: expected clean, found on %s %s; data mismatches %d; e2fsck %s; check %s", e.Strategy, r.Scenario,
				countsText(r.Violations), r.DataMismatches, checkText(r.Fsck), checkText(r.Check))
		}
	}
	if seen == 0 {
		return fmt.Sprintf("%s: no result of this strategy", e.Strategy)
	}
	if e.Class != "" {
		return fmt.Sprintf("%s: expected %s, found none in %d result(s)", e.Strategy, e.Class, seen)
	}
	return ""
}

// String says the expectation in words.
func (e Expectation) String() string {
	if e.Class == "" {
		return e.Strategy + " clean"
	}
	return e.Strategy + " convicted of " + e.Class
}

// Compare writes the verdict on each strategy, what it costs, the results side by side where there are few, the first violation found
// among them, and how the expectations were met. It returns false when one was not.
func Compare(out io.Writer, in ComparisonInput) (met bool, err error) {
	gs := groups(in.Results, in.Models)
	foresight, err := in.foresights(gs)
	if err != nil {
		return false, err
	}
	var b strings.Builder
	for _, rows := range verdictTables(gs, foresight) {
		writeTable(&b, rows)
		b.WriteString("\n")
	}
	writeTable(&b, costRows(gs))
	b.WriteString("\n" + legend(len(in.Models) > 0))
	if in.Details || len(in.Results) <= fewResults {
		b.WriteString("\n")
		writeTable(&b, compareRows(in.Results))
	}
	for _, r := range in.Results {
		found := slices.Concat(r.Fsck.Findings, r.Check.Findings)
		for i, f := range found {
			if i == maxImageTold {
				fmt.Fprintf(&b, "  and %d more\n", len(found)-i)
				break
			}
			for _, line := range wrap(fmt.Sprintf("%s on %s: image: %s", nameOf(r), r.Scenario, f), verdictWidth, "  ") {
				b.WriteString(line + "\n")
			}
		}
	}
	writeFirst(&b, in.Results)
	met = true
	for i, e := range in.Expect {
		if i == 0 {
			b.WriteString("\n")
		}
		if why := e.Meets(in.Results); why != "" {
			met = false
			fmt.Fprintf(&b, "NOT MET  %s\n", clean(why))
			continue
		}
		fmt.Fprintf(&b, "met      %s\n", clean(e.String()))
	}
	if in.Foreseen {
		b.WriteString("\n")
		met = writeForeseen(&b, gs, foresight) && met
	}
	_, err = io.WriteString(out, b.String())
	return met, err
}

// fewResults is how many results are shown in columns without being asked for.
const fewResults = 3

// maxImageTold is how many findings in the image of a result are told.
const maxImageTold = 2

// maxMessage is how many lines of a message are told of those that are not drawn.
const maxMessage = 3

// writeFirst draws the first violation, that of the nil handle if there is one, and names those of the other strategies.
func writeFirst(b *strings.Builder, results []*Result) {
	var drawn *Result
	for _, r := range results {
		v := r.FirstViolation
		if v != nil && (drawn == nil || v.Class == "nil-handle" && drawn.FirstViolation.Class != "nil-handle") {
			drawn = r
		}
	}
	if drawn == nil {
		return
	}
	v := drawn.FirstViolation
	fmt.Fprintf(b, "\nThe first violation of %s: %s\n\n%s\n\nreplay: %s\n", nameOf(drawn), clean(v.Class), strings.TrimRight(v.Timeline, "\n"), clean(v.Replay))
	told := map[string]bool{nameOf(drawn): true}
	for _, r := range results {
		v := r.FirstViolation
		if v == nil || told[nameOf(r)] {
			continue
		}
		if len(told) == 1 {
			b.WriteString("\nOf the others (replay draws it):\n")
		}
		told[nameOf(r)] = true
		what := v.Timeline
		if v.Detail != nil {
			what = v.Detail.Message
		}
		if lines := strings.Split(what, "\n"); len(lines) > maxMessage {
			what = strings.Join(lines[:maxMessage], " ")
		}
		for _, line := range wrap(fmt.Sprintf("%s, %s: %s", nameOf(r), v.Class, what), verdictWidth, "  ") {
			b.WriteString(line + "\n")
		}
		fmt.Fprintf(b, "  replay: %s\n", clean(v.Replay))
	}
}

func nameOf(r *Result) string {
	if r.Strategy == "" {
		return "(no strategy)"
	}
	return clean(r.Strategy)
}

// verdictText sums a result up in a word or two.
func verdictText(r *Result) string {
	switch {
	case r.Writes == 0 || r.Faults == 0 && r.MmapRefused == 0:
		return "nothing was raced"
	case r.Violations[ClassHang] > 0:
		return "HANG"
	case r.TotalViolations() > 0 || r.DataMismatches > 0:
		return "CONVICTED"
	case !r.Clean():
		return "IMAGE DAMAGED"
	}
	return "no violation"
}

// compareRows are the rows of the table, the name of each first.
func compareRows(results []*Result) [][]string {
	var rows [][]string
	add := func(name string, val func(*Result) string) {
		row := []string{name}
		for _, r := range results {
			row = append(row, val(r))
		}
		rows = append(rows, row)
	}
	num := func(name string, val func(*Result) int64) {
		add(name, func(r *Result) string { return fmt.Sprint(val(r)) })
	}
	us := func(name string, val func(*Result) Quantiles) {
		add(name, func(r *Result) string {
			q := val(r)
			if q == (Quantiles{}) {
				return "none"
			}
			return fmt.Sprintf("%.1f / %.1f us", q.P50, q.P99)
		})
	}
	add("strategy", nameOf)
	add("verdict", verdictText)
	add("scenario", func(r *Result) string { return r.Scenario })
	add("seed", func(r *Result) string { return fmt.Sprint(r.Seed) })
	num("rounds", func(r *Result) int64 { return r.Iterations })
	num("writes", func(r *Result) int64 { return r.Writes })
	num("faults", func(r *Result) int64 { return r.Faults })
	classes := map[string]bool{}
	for _, r := range results {
		for class := range r.Violations {
			classes[class] = true
		}
	}
	num("violations", (*Result).TotalViolations)
	add("  per write (95 %)", func(r *Result) string { return rateText(r.TotalViolations(), r.Writes) })
	for _, class := range slices.Sorted(maps.Keys(classes)) {
		num(class, func(r *Result) int64 { return r.Violations[class] })
		add("  per write (95 %)", func(r *Result) string { return rateText(r.Violations[class], r.Writes) })
	}
	num("data mismatches", func(r *Result) int64 { return r.DataMismatches })
	add("conversions ok / failed", func(r *Result) string { return fmt.Sprintf("%d / %d", r.Conversions, r.ConversionsFailed) })
	num("SIGBUS", func(r *Result) int64 { return r.Sigbus })
	num("mmap refused", func(r *Result) int64 { return r.MmapRefused })
	us("write p50 / p99", func(r *Result) Quantiles { return r.LatencyUS.Write })
	us("fault p50 / p99", func(r *Result) Quantiles { return r.LatencyUS.Fault })
	add("throughput", func(r *Result) string { return fmt.Sprintf("%.0f writes/s", r.Throughput) })
	add("conversions / M ops", func(r *Result) string { return fmt.Sprintf("%.0f", r.ConversionsPerMillion()) })
	add("read from the image", func(r *Result) string {
		if r.ImageRead.Files == 0 {
			return "nothing"
		}
		return fmt.Sprintf("%d files, %d findings", r.ImageRead.Files, len(r.ImageRead.Findings))
	})
	add("e2fsck", func(r *Result) string { return checkText(r.Fsck) })
	add("inlinefs check", func(r *Result) string { return checkText(r.Check) })
	return rows
}

// writeTable writes rows in aligned columns, with a rule below the first.
func writeTable(b *strings.Builder, rows [][]string) {
	var widths []int
	for _, row := range rows {
		for i := range row {
			row[i] = strings.TrimRight(clean(row[i]), " ")
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	for n, row := range rows {
		var line string
		for i, cell := range row {
			line += cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
		if n == 0 {
			var rule []string
			for _, w := range widths {
				rule = append(rule, strings.Repeat("-", w))
			}
			b.WriteString(strings.Join(rule, "  ") + "\n")
		}
	}
}
