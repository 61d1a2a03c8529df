package main

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"inlinefs/stress"

	"github.com/spf13/cobra"
)

// runStressCmd runs a command as the root would, and gives its output and exit code.
func runStressCmd(t *testing.T, cmd *cobra.Command, args ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors = true
	cmd.SetArgs(args)
	err := cmd.Execute()
	if err == nil {
		return out.String(), 0
	}
	var exit *stress.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("%v: error %v is no ExitError", args, err)
	}
	return out.String() + exit.Error(), exit.Code
}

func TestStressUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--no-such-flag"}, {"stray"}, {"--scenario", "nowhere"}, {"--writers", "-1"}, {"--image", "a", "--mountpoint", "b"}, {"--seed", "x"},
		{"--mountpoint", filepath.Join(t.TempDir(), "missing")},
	} {
		if out, code := runStressCmd(t, newStressCmd(), args...); code != stress.ExitUsage {
			t.Errorf("%v: exit code %d, want %d\n%s", args, code, stress.ExitUsage, out)
		}
	}
}

func TestCompareCommand(t *testing.T) {
	dir := t.TempDir()
	bad, good := filepath.Join(dir, "bad.json"), filepath.Join(dir, "good.json")
	for path, r := range map[string]*stress.Result{
		bad: {Schema: stress.Schema, Strategy: "mkwrite", Writes: 10, Faults: 3, Violations: map[string]int64{"nil-handle": 1},
			Fsck: stress.CheckResult{Clean: true}, Check: stress.CheckResult{Clean: true}},
		good: {Schema: stress.Schema, Strategy: "mmap", Writes: 10, MmapRefused: 3,
			Fsck: stress.CheckResult{Clean: true}, Check: stress.CheckResult{Clean: true}},
	} {
		if err := r.Save(path); err != nil {
			t.Fatal(err)
		}
	}
	other := filepath.Join(dir, "other.json")
	if err := (&stress.Result{Schema: 7}).Save(other); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args []string
		code int
		want string
	}{
		{[]string{bad, good}, 0, "CONVICTED"},
		{[]string{bad, good, "--expect-convicted", "mkwrite=nil-handle", "--expect-clean", "mmap"}, 0, "met "},
		{[]string{bad, good, "--expect-clean", "mkwrite"}, stress.ExitViolation, "NOT MET"},
		{[]string{bad, good, "--expect-convicted", "mmap=nil-handle"}, stress.ExitViolation, "NOT MET"},
		{[]string{bad, "--expect-convicted", "mkwrite"}, stress.ExitUsage, "STRATEGY=CLASS"},
		{[]string{other}, stress.ExitUsage, "schema 7, want schema 1"},
		{[]string{}, stress.ExitUsage, "at least 1"},
		{[]string{"--no-such-flag"}, stress.ExitUsage, "no-such-flag"},
	}
	for _, tt := range tests {
		out, code := runStressCmd(t, newCompareCmd(), tt.args...)
		if code != tt.code || !strings.Contains(out, tt.want) {
			t.Errorf("%v: exit code %d, want %d, output wants %q\n%s", tt.args, code, tt.code, tt.want, out)
		}
	}
}
