package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	in := strings.Join([]string{
		`{"Action":"run","Package":"a","Test":"TestGood"}`,
		`{"Action":"output","Package":"a","Test":"TestGood","Output":"noise of the good test\n"}`,
		`{"Action":"pass","Package":"a","Test":"TestGood"}`,
		`{"Action":"output","Package":"a","Test":"TestSkip","Output":"    x_test.go:12: needs root\n"}`,
		`{"Action":"skip","Package":"a","Test":"TestSkip"}`,
		`{"Action":"pass","Package":"a","Elapsed":1.5}`,
		`a line of no event`,
		`{"Action":"output","Package":"b","Test":"TestBad","Output":"=== RUN   TestBad\n"}`,
		`{"Action":"output","Package":"b","Test":"TestBad","Output":"    y_test.go:3: got 1, want 2\n"}`,
		`{"Action":"fail","Package":"b","Test":"TestBad"}`,
		`{"Action":"fail","Package":"b","Elapsed":0.5}`,
	}, "\n")
	var out bytes.Buffer
	r := report{out: &out, lines: map[string][]string{}, counts: map[string]int{}, skips: map[string]int{}, cached: map[string]bool{}}
	if err := r.run(strings.NewReader(in)); err != nil {
		t.Fatal(err)
	}
	if !r.failed {
		t.Error("a failed test did not fail the report")
	}
	for _, want := range []string{"a line of no event\n", "    y_test.go:3: got 1, want 2\n", "skipped 1: needs root\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, out.String())
		}
	}
	for _, bad := range []string{"noise", "=== RUN"} {
		if strings.Contains(out.String(), bad) {
			t.Errorf("output has %q:\n%s", bad, out.String())
		}
	}
}
