package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

func TestRunAndTable(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	files := []string{filepath.Join(dir, "a.json"), filepath.Join(dir, "b.json")}
	for _, f := range files {
		work := t.TempDir()
		args := []string{"run", "-files", "41", "-big", "1", "-cold", "true", "-label", strings.TrimSuffix(filepath.Base(f), ".json"), "-json", f, work}
		if err := command(args, &log); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Contains(log.String(), "error") {
		t.Errorf("a workload failed:\n%s", log.String())
	}
	var out bytes.Buffer
	if err := command(append([]string{"table"}, files...), &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if want := 1 + len((&config{files: 1, big: 1}).workloads()); len(lines) != want {
		t.Errorf("%d lines, want %d:\n%s", len(lines), want, out.String())
	}
	for _, word := range []string{"x a", "rename, /s", "sequential write, MiB/s"} {
		if !strings.Contains(out.String(), word) {
			t.Errorf("table lacks %q:\n%s", word, out.String())
		}
	}
}

func TestCommandRefuses(t *testing.T) {
	for _, args := range [][]string{nil, {"walk"}, {"run"}, {"run", "-files", "0", t.TempDir()}, {"table", "/nonexistent/file"}} {
		if err := command(args, &bytes.Buffer{}); err == nil {
			t.Errorf("bench %q: no error", args)
		}
	}
}
