// Command testfmt reads the events of `go test -json` on standard input and prints what a person wants to know: one line per package,
// all output of the tests that failed, and at the end each skipped test's reason with the number of tests it stopped. Lines
// that are no events are passed on. It exits with 1 when anything failed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

// testEvent is one line of `go test -json`: a test's, a package's (Test empty) or the build's (ImportPath set).
type testEvent struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

// report is what is known so far.
type report struct {
	out    io.Writer
	lines  map[string][]string // package and test -> its output
	counts map[string]int      // package -> tests passed
	skips  map[string]int      // reason -> tests
	cached map[string]bool     // package -> its result came from the cache
	failed bool
}

func main() {
	r := report{out: os.Stdout, lines: map[string][]string{}, counts: map[string]int{}, skips: map[string]int{}, cached: map[string]bool{}}
	if err := r.run(os.Stdin); err != nil {
		fmt.Fprintln(os.Stderr, "testfmt:", err)
		os.Exit(1)
	}
	if r.failed {
		os.Exit(1)
	}
}

// run reads all events, then prints the skip table.
func (r *report) run(in io.Reader) error {
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, 64<<20)
	for sc.Scan() {
		var e testEvent
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			fmt.Fprintln(r.out, sc.Text())
			continue
		}
		r.event(e)
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	reasons := make([]string, 0, len(r.skips))
	for reason := range r.skips {
		reasons = append(reasons, reason)
	}
	slices.Sort(reasons)
	for _, reason := range reasons {
		fmt.Fprintf(r.out, "skipped %d: %s\n", r.skips[reason], reason)
	}
	return nil
}

// event takes in one event.
func (r *report) event(e testEvent) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		r.lines[key] = append(r.lines[key], e.Output)
		if e.Test == "" && strings.HasSuffix(e.Output, "(cached)\n") {
			r.cached[e.Package] = true
		}
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "build-fail":
		r.failed = true
	case "pass", "skip", "fail":
		if e.Test == "" {
			r.packageDone(e)
		} else {
			r.testDone(e, key)
		}
	}
}

// testDone counts a test; the output of a failed one stays for packageDone.
func (r *report) testDone(e testEvent, key string) {
	switch e.Action {
	case "pass":
		r.counts[e.Package]++
		delete(r.lines, key)
	case "skip":
		r.skips[reason(r.lines[key])]++
		delete(r.lines, key)
	}
}

// packageDone prints a package's line and what its failed tests said.
func (r *report) packageDone(e testEvent) {
	switch {
	case e.Action == "pass" && r.cached[e.Package]:
		fmt.Fprintf(r.out, "ok    %-40s %5d tests  (cached)\n", e.Package, r.counts[e.Package])
	case e.Action == "pass":
		fmt.Fprintf(r.out, "ok    %-40s %5d tests  %.1f s\n", e.Package, r.counts[e.Package], e.Elapsed)
	case e.Action == "fail":
		r.failed = true
		r.printOutput(e.Package)
		fmt.Fprintf(r.out, "FAIL  %-40s %.1f s\n", e.Package, e.Elapsed)
	}
	for key := range r.lines {
		if strings.HasPrefix(key, e.Package+" ") {
			delete(r.lines, key)
		}
	}
}

// printOutput prints what is left of a package's output: that of failed and of unfinished tests, and the package's own.
func (r *report) printOutput(pkg string) {
	var keys []string
	for key := range r.lines {
		if strings.HasPrefix(key, pkg+" ") {
			keys = append(keys, key)
		}
	}
	// The package's own words (a panic, the exit code) come after its tests'.
	slices.Sort(keys)
	for i, key := range keys {
		if key == pkg+" " {
			keys = append(slices.Delete(keys, i, i+1), key)
			break
		}
	}
	for _, key := range keys {
		for _, line := range r.lines[key] {
			if !strings.HasPrefix(line, "=== ") {
				fmt.Fprint(r.out, line)
			}
		}
	}
}

// logPrefix is the file and line that testing puts before a test's words.
var logPrefix = regexp.MustCompile(`^\s*[\w.-]+\.go:\d+: `)

// reason is what a skipped test said.
func reason(lines []string) string {
	for _, line := range lines {
		if p := logPrefix.FindString(line); p != "" {
			return strings.TrimSpace(line[len(p):])
		}
	}
	return "no reason given"
}
