//go:build !explore

package main

import (
	"strings"
	"testing"

	"inlinefs/stress"
)

// TestExploreNeedsItsBuild: the plain program refuses, and says which build can.
func TestExploreNeedsItsBuild(t *testing.T) {
	for _, args := range [][]string{nil, {"--list"}, {"--replay", "mkwrite/write,fault/0"}} {
		out, code := runCommand(t, newExploreCmd(), args...)
		if code != stress.ExitMissing || !strings.Contains(out, "go build -tags explore") {
			t.Errorf("%v: exit code %d, want %d: %s", args, code, stress.ExitMissing, out)
		}
	}
}
