package stress

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestForesights: what is written down can be read, names scenarios that exist and classes that something counts.
func TestForesights(t *testing.T) {
	files, err := filepath.Glob("testdata/expect_*")
	if err != nil || len(files) != len(strategyOrder) {
		t.Fatalf("%d files, %v, want one for each of %v", len(files), err, strategyOrder)
	}
	known := strings.Join(classOrder, " ") + " "
	for _, name := range strategyOrder {
		f, err := ForesightOf(name, "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if f.Why == "" || len(f.Must) == 0 && len(f.MustNot) == 0 {
			t.Errorf("%s: %+v", name, f)
		}
		for _, m := range f.Must {
			f.May = append(f.May, m.Class)
			if m.WithinS > 30 {
				t.Errorf("%s: %s within %g s, want at most 30", name, m.Class, m.WithinS)
			}
		}
		for _, c := range append(f.May, f.MustNot...) {
			if !strings.Contains(known, c+" ") {
				t.Errorf("%s: class %q is not known", name, c)
			}
		}
	}
	if _, err := ForesightOf("none", ""); !errors.Is(err, ErrUnforeseen) {
		t.Errorf("none: %v", err)
	}
	if _, err := ForesightOf("../x", ""); !errors.Is(err, ErrUnforeseen) {
		t.Errorf("../x: %v", err)
	}
}

func TestForesightRefuses(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		`{"schema":2,"strategy":"x"}`:                              "schema 2",
		`{"schema":1,"strategy":"y"}`:                              `one of "y"`,
		`{"schema":1,"strategy":"x","may":["a"],"must_not":["a"]}`: "may and must not",
		`{"schema":1,"strategy":"x","must":[{"class":"a","scenario":"seed","within_s":3}],"must_not":["a"]}`: "must and must not",
		`{"schema":1,"strategy":"x","must":[{"class":"a","scenario":"nowhere","within_s":3}]}`:               "nowhere",
		`{"schema":1,"strategy":"x","must":[{"class":"a","scenario":"seed"}]}`:                               "within 0 s",
		`{"schema":1,"strategy":"x","should":[]}`:                                                            "should",
		`[]`: "cannot unmarshal",
	} {
		if err := os.WriteFile(filepath.Join(dir, "expect_x"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ForesightOf("x", dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
}

func TestSameScenario(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"seed", "", true}, {"seed", "healthy", false}, {"write-from-mapping", "healthy,write-from-mapping,one-process", true},
		{"seed,write-from-mapping", "healthy,write-from-mapping,one-process", false}, {"healthy,one-process", "healthy", false}, {"x", "x", false},
	} {
		if got := sameScenario(tt.a, tt.b); got != tt.want {
			t.Errorf("%q and %q: %t, want %t", tt.a, tt.b, got, tt.want)
		}
	}
}

// foreseenCase is a strategy that must show a, may show b and must not show anything else.
func foreseenCase() *Foresight {
	return &Foresight{Strategy: "x", Must: []MustShow{{Class: "a", Scenario: "seed", WithinS: 30}}, May: []string{"b"}, MustNot: []string{"c"}}
}

func TestForesightJudge(t *testing.T) {
	run := func(change func(*Result)) *Result {
		r := cleanResult()
		r.Violations, r.FirstSeenS = map[string]int64{"a": 3}, map[string]float64{"a": 2}
		if change != nil {
			change(r)
		}
		return r
	}
	for _, tt := range []struct {
		name    string
		f       *Foresight
		results []*Result
		models  []Model
		want    string // part of what is not met; empty: all is met
	}{
		{"as foreseen", foreseenCase(), []*Result{run(nil)}, nil, ""},
		{"also what may show", foreseenCase(), []*Result{run(func(r *Result) { r.Violations["b"] = 1 })}, nil, ""},
		{"not shown", foreseenCase(), []*Result{run(func(r *Result) { r.Violations = nil })}, nil, "no a on seed within 30 s"},
		{"too late", foreseenCase(), []*Result{run(func(r *Result) { r.FirstSeenS["a"] = 40 })}, nil, "only after 40.0 s"},
		{"time not known", foreseenCase(), []*Result{run(func(r *Result) { r.FirstSeenS = nil })}, nil, ""},
		{"elsewhere only", foreseenCase(), []*Result{run(func(r *Result) { r.Scenario = "healthy" })}, nil, "was not run"},
		{"must not", foreseenCase(), []*Result{run(func(r *Result) { r.Violations["c"] = 1 })}, nil, "c must not show and does on seed (1)"},
		{"not thought of", foreseenCase(), []*Result{run(func(r *Result) { r.Violations["d"] = 1 })}, nil, "d must not show and does on seed (1)"},
		{"data", foreseenCase(), []*Result{run(func(r *Result) { r.DataMismatches = 2 })}, nil, "data-mismatch must not show and does on seed (2)"},
		{"image", foreseenCase(), []*Result{run(func(r *Result) { r.Fsck.Clean = false })}, nil, "image must not show and does on seed (1)"},
		{"model", foreseenCase(), []*Result{run(nil)}, []Model{{Strategy: "x", Scenario: "s", Failures: []ModelFailure{{Class: "C"}}}}, "c must not show and does in the model of s"},
		{"model may", foreseenCase(), []*Result{run(nil)}, []Model{{Strategy: "x", Failures: []ModelFailure{{Class: "b"}}}}, ""},
		{"nothing raced", &Foresight{Strategy: "x"}, []*Result{run(func(r *Result) { r.Violations, r.MmapRefused = nil, 0 })}, nil, "nothing was raced"},
		{"clean", &Foresight{Strategy: "x"}, []*Result{run(func(r *Result) { r.Violations = nil })}, nil, ""},
		{"not excused", &Foresight{Strategy: "x"}, []*Result{run(func(r *Result) {
			r.Scenario, r.Violations = "healthy,truncate-store", map[string]int64{ClassStaleBytes: 1}
		})}, nil, "stale-bytes must not show and does on healthy,truncate-store"},
	} {
		v := tt.f.Judge(tt.results, tt.models)
		got := strings.Join(v.Unmet, "; ")
		if tt.want == "" && (got != "" || len(v.Met) == 0) || !strings.Contains(got, tt.want) {
			t.Errorf("%s: not met %q, met %q, want %q", tt.name, got, v.Met, tt.want)
		}
	}
}

func TestUntil(t *testing.T) {
	f := foreseenCase()
	if classes, within := f.until("seed"); len(classes) != 1 || within != 30 {
		t.Errorf("seed: %v within %g", classes, within)
	}
	if classes, _ := f.until("healthy"); len(classes) != 0 {
		t.Errorf("healthy: %v", classes)
	}
	c := Config{Scenario: "seed"}
	if err := c.foresee("mkwrite"); err != nil || len(c.Until) != 1 || c.Until[0] != "nil-handle" || c.AtMost.Seconds() != 30 {
		t.Errorf("until %v, at most %s, %v", c.Until, c.AtMost, err)
	}
	if err := c.foresee("of nobody"); err != nil {
		t.Error(err)
	}
}

// TestVerdictOfMany: nine strategies, each with every class, on mounts and in the model, in tables of at most 140 letters.
func TestVerdictOfMany(t *testing.T) {
	in := ComparisonInput{Foreseen: true}
	for i, name := range strategyOrder {
		r := convictedResult()
		r.Strategy, r.FirstViolation = name, nil
		for k, class := range classOrder {
			r.Violations[class] = int64(1000 * k * i)
			r.FirstSeenS[class] = float64(k)
		}
		in.Results = append(in.Results, r, r, r, r)
		in.Models = append(in.Models, Model{Strategy: name, Scenario: "s", Executions: 900_000, Traces: 812_345, Complete: i%2 == 0, Failures: []ModelFailure{{Class: "nil handle", Steps: 123, Preemptions: 3},
			{Class: "nil-handle", Steps: 14, Preemptions: 2}}})
	}
	var b strings.Builder
	met, err := Compare(&b, in)
	if err != nil || met {
		t.Errorf("met %t, %v", met, err)
	}
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > verdictWidth {
			t.Errorf("%d letters: %s", n, line)
		}
	}
	for _, want := range []string{"14 steps, 2 p", "812k of 812k", "0 of 900k..", "flip_folio", "NOT AS EXPECTED", "unexpected-error"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if i, j := strings.Index(b.String(), "mkwrite_ilock"), strings.Index(b.String(), "premmap"); i < 0 || j < i {
		t.Error("strategies are not in their order")
	}
}

func TestVerdictWord(t *testing.T) {
	for want, change := range map[string]func(*Result){
		"clean":     func(*Result) {},
		"CONVICTED": func(r *Result) { r.DataMismatches = 1 },
		"DAMAGED":   func(r *Result) { r.Check.Clean = false },
		"HANG":      func(r *Result) { r.Violations[ClassHang] = 1 },
		"not raced": func(r *Result) { r.Writes = 0 },
	} {
		r := cleanResult()
		change(r)
		if got := groups([]*Result{r}, nil)[0].verdict(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if got := groups([]*Result{cleanResult()}, []Model{{Strategy: "mmap", Failures: []ModelFailure{{Class: "a"}}}})[0].verdict(); got != "CONVICTED" {
		t.Errorf("in the model only: %s", got)
	}
}

func TestShortNum(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 9999: "9999", 10_000: "10k", 999_999: "999k", 1_000_000: "1.0M", 1_290_000: "1.2M", 12_345_678: "12M"} {
		if got := shortNum(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestLoadModels(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m")
	for text, want := range map[string]string{
		`[{"strategy":"x","scenario":"s","executions":5,"complete":true,"failures":[{"class":"a","schedule":"0.1","preemptions":1,"steps":4}]}]`: "",
		`{"strategy":"x"}`:                   "want an array",
		`[{"scenario":"s"}]`:                 "entry 0",
		`[{"strategy":"x","executions":-1}]`: "executions -1",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		ms, err := LoadModels(path)
		if want == "" && (err != nil || len(ms) != 1 || ms[0].Failures[0].Steps != 4) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %+v, %v, want %q", text, ms, err, want)
		}
	}
	if _, err := LoadModels(path + "x"); err == nil {
		t.Error("no error for a file that is not there")
	}
}
