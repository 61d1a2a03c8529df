//go:build explore

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"inlinefs/explore"
	"inlinefs/stress"
)

func TestExploreList(t *testing.T) {
	out, code := runCommand(t, newExploreCmd(), "--list")
	if code != 0 || !strings.Contains(out, "bdab24d5bf96d57c50b0") || strings.Count(out, "\n") != len(explore.All()) {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

// TestExploreReplay searches, repeats what was found, and traces it.
func TestExploreReplay(t *testing.T) {
	dir := t.TempDir()
	path, trace := filepath.Join(dir, "out.json"), filepath.Join(dir, "trace.json")
	out, code := runCommand(t, newExploreCmd(), "--strategies=mkwrite", "--scenario=write,fault", "--json="+path)
	if code != 0 || !strings.Contains(out, "nil-handle") || !strings.Contains(out, "CPU0 (write)") {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var outcomes []explore.Outcome
	if err := json.Unmarshal(b, &outcomes); err != nil || len(outcomes) != 1 || len(outcomes[0].Failures) == 0 {
		t.Fatalf("%v: %s", err, b)
	}
	f := outcomes[0].Failures[0]
	out, code = runCommand(t, newExploreCmd(), "--replay", f.Replay, "--trace", trace)
	if code != stress.ExitViolation || !strings.Contains(out, f.Class+": ") {
		t.Errorf("replay: exit code %d, want %d:\n%s", code, stress.ExitViolation, out)
	}
	if b, err := os.ReadFile(trace); err != nil || !json.Valid(b) {
		t.Errorf("trace: %v, %d bytes, JSON %v", err, len(b), json.Valid(b))
	}
	// The same operations in order show nothing.
	if out, code := runCommand(t, newExploreCmd(), "--replay", "mkwrite/write,fault/"); code != 0 {
		t.Errorf("in order: exit code %d:\n%s", code, out)
	}
}

func TestExploreUsage(t *testing.T) {
	for _, args := range [][]string{{"stray"}, {"--no-such-flag"}, {"--steps"}, {"--trace", "x"}, {"--replay", "x"}, {"--scenario", "nowhere"}, {"--actors", "9"}, {"--strategies", "nope"}} {
		if out, code := runCommand(t, newExploreCmd(), args...); code != stress.ExitUsage {
			t.Errorf("%v: exit code %d, want %d\n%s", args, code, stress.ExitUsage, out)
		}
	}
}
