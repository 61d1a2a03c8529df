package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"inlinefs/internal/testimage"
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

func TestStressList(t *testing.T) {
	out, code := runStressCmd(t, newStressCmd(), "--list")
	if code != 0 || !strings.Contains(out, "227cb4ca5a65") || !strings.Contains(out, "write-from-mapping (image: healthy)") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	out, code = runStressCmd(t, newStressCmd(), "--help")
	if code != 0 || !strings.Contains(out, "truncate-sendfile") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

func TestStressUsage(t *testing.T) {
	for _, args := range [][]string{
		{"--no-such-flag"}, {"stray"}, {"--scenario", "nowhere"}, {"--scenario", "seek-hole,map-only"}, {"--writers", "-1"}, {"--image", "a", "--mountpoint", "b"}, {"--seed", "x"},
		{"--mountpoint", filepath.Join(t.TempDir(), "missing")}, {"--json", filepath.Join(t.TempDir(), "missing", "x.json")},
	} {
		if out, code := runStressCmd(t, newStressCmd(), args...); code != stress.ExitUsage {
			t.Errorf("%v: exit code %d, want %d\n%s", args, code, stress.ExitUsage, out)
		}
	}
}

// TestSiblingsOnMount runs each race beside the main one for a moment on a real mount of this very program: the default strategy breaks
// no rule in any of them.
func TestSiblingsOnMount(t *testing.T) {
	testimage.FuseUsable(t)
	t.Setenv(mainEnv, "1")
	length := time.Second
	if testing.Short() {
		length /= 4
	}
	for _, s := range stress.Siblings() {
		t.Run(s.Name, func(t *testing.T) {
			var res *stress.Result
			raced := false
			for d := length; !raced && d < time.Minute; d *= 4 { // a loaded machine may need longer to get going
				var err error
				if res, err = stress.Run(t.Context(), stress.Config{Scenario: s.Name, Duration: d, AtMost: d, Seed: 1, Announce: true}); err != nil {
					t.Fatal(err)
				}
				raced = res.Writes > 0 && res.Iterations > 0 && res.Faults+res.MmapRefused > 0
			}
			if !raced {
				t.Errorf("nothing was raced:\n%s", res.Summary())
			}
			if !res.Clean() {
				t.Errorf("not clean:\n%s", res.Summary())
			}
		})
	}
}

func TestCompareCommand(t *testing.T) {
	dir := t.TempDir()
	bad, good := filepath.Join(dir, "bad.json"), filepath.Join(dir, "good.json")
	for path, r := range map[string]*stress.Result{
		bad: {Schema: stress.Schema, Strategy: "mkwrite", Scenario: "seed", Writes: 10, Faults: 3, Violations: map[string]int64{"nil-handle": 1},
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
	models := filepath.Join(dir, "models.json")
	text := `[{"strategy":"mkwrite","scenario":"write fault","executions":100,"complete":true,"failures":[{"class":"nil-handle","preemptions":2,"steps":14}]}]`
	if err := os.WriteFile(models, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args []string
		code int
		want string
	}{
		{[]string{bad, "--expect"}, 0, "as expected      mkwrite: nil-handle on seed"},
		{[]string{bad, good, "--expect"}, stress.ExitViolation, "NOT AS EXPECTED  mmap: lock-cycle must show on write-from-mapping"},
		{[]string{bad, "--expect=" + dir}, stress.ExitViolation, "nothing is written down"},
		{[]string{bad, "--explore", models}, 0, "14 steps, 2 p"},
		{[]string{bad, "--explore", good}, stress.ExitUsage, "want an array"},
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
