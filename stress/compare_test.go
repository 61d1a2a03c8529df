package stress

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"inlinefs/internal/event"
)

func convictedResult() *Result {
	return &Result{
		Schema: Schema, Version: "v1", Strategy: "mkwrite", Scenario: "seed", Seed: 5, Iterations: 460, Writes: 92000, Faults: 8000,
		ConversionsFailed: 7999, Conversions: 1, Violations: map[string]int64{"nil-handle": 27}, Sigbus: 12, Errors: map[string]int64{"write:EIO": 27},
		LatencyUS: Latencies{Write: Quantiles{20.5, 80, 900}, Fault: Quantiles{30, 90, 1000}}, Throughput: 4600, DurationS: 20,
		Fsck: CheckResult{Clean: true, Findings: []string{}}, Check: CheckResult{Clean: true, Findings: []string{}},
		FirstViolation: &FirstViolation{Class: "nil-handle", Timeline: "CPU0 | CPU1", Replay: "inlinefs stress --seed 5",
			Detail: &event.Violation{Class: "nil-handle", Ino: 12, Events: []event.Event{{Nsec: 1, Task: 2, Func: "F"}}}},
		FirstSeenS: map[string]float64{"nil-handle": 0.412}, Unstored: &Unstored{Mapped: 8, Loaded: 9, LoadedConverted: 5},
		ImageRead: ImageRead{Files: 8, Clean: true, Findings: []string{}},
		Bounds:    Bounds{DurationS: 20, Writers: 1, Mappers: 1, Files: 1, Writes: 200, Announce: true},
	}
}

func cleanResult() *Result {
	return &Result{
		Schema: Schema, Strategy: "mmap", Scenario: "seed", Seed: 5, Iterations: 500, Writes: 100000, MmapRefused: 9000, Errors: map[string]int64{},
		Violations: map[string]int64{}, LatencyUS: Latencies{Write: Quantiles{21, 81, 901}},
		Fsck: CheckResult{Clean: true, Findings: []string{}}, Check: CheckResult{Clean: true, Findings: []string{}},
	}
}

func TestResultRoundTrip(t *testing.T) {
	for _, r := range []*Result{convictedResult(), cleanResult()} {
		path := filepath.Join(t.TempDir(), "r.json")
		if err := r.Save(path); err != nil {
			t.Fatal(err)
		}
		got, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, r) {
			t.Errorf("got %+v, want %+v", got, r)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{"schema":2}`:                "schema 2, want schema 1",
		`{"writes":2}`:                "no key schema",
		`hello`:                       "no JSON",
		`{"schema":1,"writes":"many"`: "no JSON",
		`{"schema":1,"writes":"x"}`:   "schema 1: ",
	} {
		path := filepath.Join(t.TempDir(), "r.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want one with %q and the path", text, err, want)
		}
	}
}

func TestClopperPearson(t *testing.T) {
	tests := []struct {
		k, n      int64
		low, high float64
	}{
		// Values of the exact interval, known in closed form at the ends: 1-(0.025)^(1/n).
		{0, 0, 0, 1},
		{0, 10, 0, 0.308497},
		{10, 10, 0.691503, 1},
		{5, 10, 0.187086, 0.812914},
		{27, 92000, 1.934e-4, 4.270e-4},
	}
	for _, tt := range tests {
		low, high := ClopperPearson(tt.k, tt.n)
		if math.Abs(low-tt.low) > 1e-3*tt.low+1e-9 || math.Abs(high-tt.high) > 1e-3*tt.high+1e-9 {
			t.Errorf("ClopperPearson(%d, %d) = %g, %g, want %g, %g", tt.k, tt.n, low, high, tt.low, tt.high)
		}
	}
}

func TestExpectation(t *testing.T) {
	change := func(f func(*Result)) *Result {
		r := cleanResult()
		f(r)
		return r
	}
	both := []*Result{convictedResult(), cleanResult()}
	tests := []struct {
		name    string
		e       Expectation
		results []*Result
		met     bool
	}{
		{"convicted", Expectation{"mkwrite", "nil-handle"}, both, true},
		{"convicted of another", Expectation{"mkwrite", "lost-write"}, both, false},
		{"not convicted", Expectation{"mmap", "nil-handle"}, both, false},
		{"convicted, absent", Expectation{"flip", "nil-handle"}, both, false},
		{"clean", Expectation{"mmap", ""}, both, true},
		{"not clean", Expectation{"mkwrite", ""}, both, false},
		{"clean, absent", Expectation{"flip", ""}, both, false},
		{"nothing written", Expectation{"mmap", ""}, []*Result{change(func(r *Result) { r.Writes = 0 })}, false},
		{"nothing mapped", Expectation{"mmap", ""}, []*Result{change(func(r *Result) { r.MmapRefused = 0 })}, false},
		{"wrong data", Expectation{"mmap", ""}, []*Result{change(func(r *Result) { r.DataMismatches = 1 })}, false},
		{"image damaged", Expectation{"mmap", ""}, []*Result{change(func(r *Result) { r.Fsck = CheckResult{Findings: []string{"x"}} })}, false},
		{"check skipped", Expectation{"mmap", ""}, []*Result{change(func(r *Result) { r.Check = CheckResult{Skipped: "why"} })}, true},
		{"one of two not clean", Expectation{"mmap", ""}, []*Result{cleanResult(), change(func(r *Result) { r.Violations["hang"] = 1 })}, false},
	}
	for _, tt := range tests {
		if why := tt.e.Meets(tt.results); (why == "") != tt.met {
			t.Errorf("%s: %q, want met %t", tt.name, why, tt.met)
		}
	}
	for _, s := range []string{"", "mkwrite", "=x", "mkwrite="} {
		if _, err := ParseConvicted(s); err == nil {
			t.Errorf("ParseConvicted(%q): no error", s)
		}
	}
}

func TestCompareTable(t *testing.T) {
	var b strings.Builder
	met, err := Compare(&b, ComparisonInput{Results: []*Result{convictedResult(), cleanResult()},
		Expect: []Expectation{{"mkwrite", "nil-handle"}, {Strategy: "mmap"}}})
	if err != nil || !met {
		t.Errorf("met %t, error %v", met, err)
	}
	want := `strategy  verdict    nil-handle  lock-cycle  lost-store  lost-write
--------  ---------  ----------  ----------  ----------  ----------
mkwrite   CONVICTED  27, 0.4 s   0 of 100k   0 of 100k   0 of 100k
mmap      clean      0 of 100k   0 of 100k   0 of 100k   0 of 100k

strategy  fault us p50/p99  write us p50/p99  writes/s  conversions/M  SIGBUS      mmap refused  unstored: mapped  mapped, read
--------  ----------------  ----------------  --------  -------------  ----------  ------------  ----------------  ------------
mkwrite   30 / 90           20 / 80           4600      10             12 of 8000  0             0 of 8            5 of 9
mmap      none              21 / 81           0         0              0 of 0      9000          -                 -

` + legend(false) + `
strategy                 mkwrite                     mmap
-----------------------  --------------------------  ------------------
verdict                  CONVICTED                   no violation
scenario                 seed                        seed
seed                     5                           5
rounds                   460                         500
writes                   92000                       100000
faults                   8000                        0
violations               27                          0
  per write (95 %)       2.9e-04 (1.9e-04..4.3e-04)  < 3/100000 (3e-05)
nil-handle               27                          0
  per write (95 %)       2.9e-04 (1.9e-04..4.3e-04)  < 3/100000 (3e-05)
data mismatches          0                           0
conversions ok / failed  1 / 7999                    0 / 0
SIGBUS                   12                          0
mmap refused             0                           9000
write p50 / p99          20.5 / 80.0 us              21.0 / 81.0 us
fault p50 / p99          30.0 / 90.0 us              none
throughput               4600 writes/s               0 writes/s
conversions / M ops      10                          0
read from the image      8 files, 0 findings         nothing
e2fsck                   clean                       clean
inlinefs check           clean                       clean

The first violation of mkwrite: nil-handle

CPU0 | CPU1

replay: inlinefs stress --seed 5

met      mkwrite convicted of nil-handle
met      mmap clean
`
	want = strings.ReplaceAll(want, "(3e-05)", "(3.0e-05)")
	want = strings.Replace(want, "------------------\n", strings.Repeat("-", len("< 3/100000 (3.0e-05)"))+"\n", 1)
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	in := ComparisonInput{Results: []*Result{cleanResult()}, Expect: []Expectation{{"mmap", "nil-handle"}}}
	if met, _ := Compare(&b, in); met || !strings.Contains(b.String(), "NOT MET") {
		t.Errorf("met %t:\n%s", met, b.String())
	}
}

func TestExitCode(t *testing.T) {
	r := cleanResult()
	if r.ExitCode() != 0 {
		t.Errorf("clean: %d", r.ExitCode())
	}
	if c := convictedResult().ExitCode(); c != ExitViolation {
		t.Errorf("convicted: %d", c)
	}
	r.Fsck.Clean = false
	if r.ExitCode() != ExitViolation {
		t.Errorf("image damaged: %d", r.ExitCode())
	}
	r.Violations[ClassHang] = 1
	if r.ExitCode() != ExitHang {
		t.Errorf("hang: %d", r.ExitCode())
	}
}
