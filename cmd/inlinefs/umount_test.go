package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"inlinefs/internal/control"
	"inlinefs/internal/testimage"
)

// mountHere mounts a fresh journalled image in the background.
func mountHere(t *testing.T) (img, dir string) {
	t.Helper()
	testimage.FuseUsable(t)
	img, dir = image(t, "has_journal"), t.TempDir()
	unmountLater(t, dir)
	if code, said := newCommand(t, "mount", img, dir).run(); code != 0 {
		t.Fatalf("mount: exit code %d: %s", code, said)
	}
	return img, dir
}

// TestUmount: when umount returns, the image is whole and nobody has it; also as umount(8) calls its helpers, and relative to a directory.
func TestUmount(t *testing.T) {
	for _, c := range []struct{ name, argv0 string }{{"umount", "inlinefs"}, {"helper", "/sbin/umount.fuse.inlinefs"}} {
		t.Run(c.name, func(t *testing.T) {
			img, dir := mountHere(t)
			if r, err := control.Report(dir); err != nil || r.Image != img {
				t.Errorf("the report names the image %q, want %q (%v)", r.Image, img, err)
			}
			for n := range 200 {
				if err := os.WriteFile(filepath.Join(dir, strings.Repeat("f", n+1)), []byte("content"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			cmd := newCommand(t, "umount", "-v", "./"+filepath.Base(dir))
			if c.name == "helper" {
				cmd = newCommand(t, dir, "-n", "-v", "-t", "fuse.inlinefs")
			}
			cmd.cmd.Args[0], cmd.cmd.Dir = c.argv0, filepath.Dir(dir)
			code, said := cmd.run()
			if code != 0 || !strings.Contains(said, img+" is free") {
				t.Errorf("exit code %d: %s", code, said)
			}
			f, err := os.Open(img)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
				t.Errorf("the image is not free: %v", err)
			}
			testimage.Fsck(t, img)
		})
	}
}

// TestUmountRefusals: what cannot be unmounted is named, with the reason, and stays mounted.
func TestUmountRefusals(t *testing.T) {
	img, dir := mountHere(t)
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(filepath.Join(dir, "sub"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{filepath.Join(dir, "sub")}, exitMount, "is not a mount point, its mount is at " + dir},
		{[]string{"/proc"}, exitMount, "type proc"},
		{[]string{"/nonexistent"}, exitMount, "/nonexistent: no such file"},
		{[]string{dir}, exitMount, "busy"},
		{[]string{}, exitUsage, "umount: 0 arguments, usage: "},
		{[]string{"-N", "1", dir}, exitUsage, "another namespace"},
	} {
		if code, said := newCommand(t, append([]string{"umount"}, c.args...)...).run(); code != c.code || !strings.Contains(said, c.says) {
			t.Errorf("umount %v: exit code %d, %q, want %d and a mention of %q", c.args, code, said, c.code, c.says)
		}
	}
	if err := open.Close(); err != nil {
		t.Error(err)
	}
	if code, said := newCommand(t, "umount", dir).run(); code != 0 {
		t.Errorf("exit code %d: %s", code, said)
	}
	testimage.Fsck(t, img)
}

// TestUmountAfterTheDaemon: the mount of a killed daemon goes away, and umount says that nothing is known of the image; with the daemon
// killed while it is asked, that the journal is not empty.
func TestUmountAfterTheDaemon(t *testing.T) {
	testimage.FuseUsable(t)
	img, dir := image(t, "has_journal"), t.TempDir()
	unmountLater(t, dir)
	daemon := foreground(t, img, dir)
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := daemon.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = daemon.cmd.Wait() // killed: the error says so
	if code, said := newCommand(t, "umount", dir).run(); code != 0 || !strings.Contains(said, "did not say which image") {
		t.Errorf("exit code %d: %s", code, said)
	}
	if isMounted(t, dir) {
		t.Error("still mounted")
	}
	c := &umountConfig{warn: os.Stderr}
	if err := c.wait(dir, img); err == nil || !strings.Contains(err.Error(), "its journal was not emptied") {
		t.Errorf("wait: %v", err)
	}
}

// TestUmountTimeout: the wait for an image that stays in use ends when it was told to.
func TestUmountTimeout(t *testing.T) {
	img, dir := mountHere(t)
	c := &umountConfig{warn: os.Stderr, timeout: 50 * time.Millisecond}
	if err := c.wait(dir, img); err == nil || !strings.Contains(err.Error(), "after 50ms the daemon still has its image") {
		t.Errorf("wait: %v", err)
	}
	if code, said := newCommand(t, "umount", dir).run(); code != 0 {
		t.Errorf("exit code %d: %s", code, said)
	}
	testimage.Fsck(t, img)
}
