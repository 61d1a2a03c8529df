package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"inlinefs/blockdev"
	"inlinefs/internal/testimage"
)

// runCommand runs a command in this process and returns what it prints and its exit code.
func runCommand(t *testing.T, cmd *cobra.Command, args ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceErrors = true
	cmd.SetArgs(args)
	err := cmd.Execute()
	var c interface{ ExitCode() int }
	switch {
	case err == nil:
		return out.String(), 0
	case errors.As(err, &c):
		return out.String() + err.Error(), c.ExitCode()
	}
	t.Fatalf("%v: error without an exit code: %v", args, err)
	return "", 0
}

func inlineImage(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "small"), []byte(strings.Repeat("Quark", 20)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("small", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	return testimage.Make(t, testimage.Options{BlockSize: 4096, InodeSize: 256, Populate: root,
		Features: "inline_data,metadata_csum,64bit,^has_journal"})
}

func TestCheckCommand(t *testing.T) {
	img := inlineImage(t)
	if out, code := runCommand(t, newCheckCmd(), img); code != 0 || !strings.Contains(out, ": clean;") {
		t.Errorf("exit %d, output %q, want 0 and clean", code, out)
	}
	if out, code := runCommand(t, newCheckCmd(), "-q", img); code != 0 || out != "" {
		t.Errorf("-q: exit %d, output %q, want 0 and nothing", code, out)
	}
	if out, code := runCommand(t, newCheckCmd(), "--json", img); code != 0 || out != "{\"clean\":true,\"findings\":[]}\n" {
		t.Errorf("--json: exit %d, output %q", code, out)
	}
	testimage.Debugfs(t, img, true, "sif small size 129")
	out, code := runCommand(t, newCheckCmd(), "--json", img)
	var got struct {
		Clean    bool
		Findings []string
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 1 || got.Clean || len(got.Findings) != 1 ||
		!strings.HasPrefix(got.Findings[0], "inline-capacity: inode ") {
		t.Errorf("exit %d, error %v, output %q, want 1 and one finding of class inline-capacity", code, err, out)
	}
	for _, args := range [][]string{{}, {img, img}, {"--no-such-flag", img}} {
		if out, code := runCommand(t, newCheckCmd(), args...); code != 2 {
			t.Errorf("%v: exit %d, want 2: %s", args, code, out)
		}
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "none"), t.TempDir()} {
		if out, code := runCommand(t, newCheckCmd(), path); code != 3 {
			t.Errorf("%s: exit %d, want 3: %s", path, code, out)
		}
	}
}

// TestCheckWaits has another holder of the image let go while check waits for it. Whether check comes before or after that does not
// matter to the outcome.
func TestCheckWaits(t *testing.T) {
	img := inlineImage(t)
	dev, err := blockdev.OpenFile(img, blockdev.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	closed := make(chan error, 1)
	go func() {
		<-started
		closed <- dev.Close()
	}()
	if _, err := blockdev.OpenFile(img, blockdev.FileOptions{ReadOnly: true}); !errors.Is(err, blockdev.ErrBusy) {
		t.Fatalf("open of a held image: %v, want busy", err)
	}
	close(started)
	if out, code := runCommand(t, newCheckCmd(), img); code != 0 {
		t.Errorf("exit %d, want 0: %s", code, out)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestDumpCommand(t *testing.T) {
	img := inlineImage(t)
	for _, c := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{img}, 0, []string{"inline_data", "128 bytes: 60 in i_block, 68 in system.data", "group 0:", "journal:           none"}},
		{[]string{img, "/small"}, 0, []string{"regular file", "inline_data", "100 of 100 in use, 128 possible", "QuarkQuark", "system.data"}},
		{[]string{img, "small"}, 0, []string{"regular file"}},
		{[]string{img, "/link"}, 0, []string{"symlink", `"small"`}},
		{[]string{img, "<2>"}, 0, []string{"directory", `"lost+found"`, `"small"`, "extent tree of depth 0"}},
		{[]string{img, "/"}, 0, []string{`".."`}},
		{[]string{img, "/nothing"}, 2, nil},
		{[]string{img, "/small/x"}, 2, nil},
		{[]string{img, "<0>"}, 2, nil},
		{[]string{}, 2, nil},
		{[]string{img + ".none"}, 3, nil},
	} {
		out, code := runCommand(t, newDumpCmd(), c.args...)
		if code != c.code {
			t.Errorf("%v: exit %d, want %d: %s", c.args, code, c.code, out)
		}
		for _, w := range c.want {
			if !strings.Contains(out, w) {
				t.Errorf("%v: no %q in\n%s", c.args, w, out)
			}
		}
	}
}
