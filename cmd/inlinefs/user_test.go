package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"inlinefs/internal/testimage"
)

// TestOrdinaryUser mounts through fusermount3.
func TestOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to become an ordinary user and back; the other tests run as one already")
	}
	testimage.FuseUsable(t)
	if _, err := exec.LookPath("fusermount3"); err != nil {
		t.Skipf("needs fusermount3 (package fuse3): %v", err)
	}
	openToAll(t, "/dev/fuse")
	const uid = 65534
	// Everything in a directory that an ordinary user can reach, the binary too.
	base, err := os.MkdirTemp("", "inlinefs-user")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	img, dir, bin := filepath.Join(base, "img"), filepath.Join(base, "mnt"), filepath.Join(base, "inlinefs")
	testimage.MakeAt(t, img, testimage.Options{Inodes: 256, Features: "inline_data,^has_journal", Extended: "root_owner=65534:65534"})
	copyFile(t, "/proc/self/exe", bin)
	for _, err := range []error{os.Mkdir(dir, 0o755), os.Chmod(base, 0o755), os.Chmod(bin, 0o755), os.Chown(img, uid, uid), os.Chown(dir, uid, uid)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	unmountLater(t, dir)
	as := func(c *command) *command {
		c.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		c.cmd.Dir = base
		return c
	}
	mount := as(newCommand(t, "mount", "-o", "noatime,nodiratime,relatime,lazytime,nosuid,nodev,noexec", img, dir))
	mount.cmd.Path = bin
	if code, said := mount.run(); code != 0 {
		t.Fatalf("exit code %d: %s", code, said)
	}
	if !isMounted(t, dir) {
		t.Error("not mounted")
	}
	sh := as(newCommand(t))
	sh.cmd = exec.Command("sh", "-c", "echo content > mnt/f && cat mnt/f && rm mnt/f && mkdir mnt/d && fusermount3 -u mnt")
	if err := as(sh).cmd.Run(); err != nil {
		t.Errorf("use of the mount: %v", err)
	}
	released(t, img)
	testimage.Fsck(t, img)
	// Without write permission on the image.
	if err := os.Chown(img, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(img, 0o644); err != nil {
		t.Fatal(err)
	}
	ro := as(newCommand(t, "mount", img, dir))
	ro.cmd.Path = bin
	if code, said := ro.run(); code != 0 || !strings.Contains(said, "write-protected, mounting read-only") {
		t.Errorf("image of another: exit code %d: %s", code, said)
	}
	sh = as(newCommand(t))
	sh.cmd = exec.Command("sh", "-c", "test -d mnt/d && ! touch mnt/g 2>/dev/null")
	if err := as(sh).cmd.Run(); err != nil {
		t.Errorf("use of the read-only mount: %v", err)
	}
	end := as(newCommand(t, "umount", dir))
	end.cmd.Path = bin
	if code, said := end.run(); code != 0 || isMounted(t, dir) {
		t.Errorf("umount: exit code %d: %s", code, said)
	}
	if err := os.Chmod(img, 0o600); err != nil {
		t.Fatal(err)
	}
	no := as(newCommand(t, "mount", img, dir))
	no.cmd.Path = bin
	if code, said := no.run(); code != exitMount || !strings.Contains(said, "permission denied") {
		t.Errorf("image without permission: exit code %d: %s", code, said)
	}
}

// openToAll gives everybody access to a device for the time of the test.
func openToAll(t *testing.T, path string) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Skip(err)
	}
	if st.Mode().Perm()&0o006 == 0o006 {
		return
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Skipf("%s is not open to ordinary users: %v", path, err)
	}
	t.Cleanup(func() {
		if err := os.Chmod(path, st.Mode().Perm()); err != nil {
			t.Error(err)
		}
	})
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
