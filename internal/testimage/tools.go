package testimage

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// find looks a tool up in PATH and in the sbin directories, which an ordinary user's PATH often lacks.
func find(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: not found in PATH or sbin", name)
}

// tool is find, skipping the test when the tool is missing.
func tool(t testing.TB, name string) string {
	t.Helper()
	p, err := find(name)
	if err != nil {
		t.Skipf("needs %s (package e2fsprogs): %v", name, err)
	}
	return p
}

// command is exec.Command in the C locale, so that output can be read by tests.
func command(name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), "LC_ALL=C", "LANG=C")
	return c
}

// FuseUsable skips the test, with the reason, unless this process can mount a FUSE file system: /dev/fuse opens for reading and
// writing, and the process is root or has fusermount3.
func FuseUsable(t testing.TB) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs /dev/fuse: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Skipf("needs /dev/fuse: %v", err)
	}
	if os.Geteuid() == 0 {
		return
	}
	if _, err := find("fusermount3"); err != nil {
		t.Skipf("needs root or fusermount3 (package fuse3): %v", err)
	}
}
