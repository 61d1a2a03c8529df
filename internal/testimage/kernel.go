package testimage

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Kernel mounts the image through a loop device by the host's own ext4 and returns the mount's directory; it is unmounted when the
// test ends. It needs root and a kernel that can do it, else the test is skipped with the reason.
//
// Use it from one thread only, one operation after another: a write racing a page fault on an inline file is a BUG() in the kernel
// and takes the machine down.
func Kernel(t testing.TB, img string) string {
	t.Helper()
	dir, unmount := KernelMount(t, img, "")
	t.Cleanup(unmount)
	return dir
}

// KernelMount is Kernel with mount options added to "loop" ("" for none) and the unmounting left to the caller: calling the function
// twice is harmless. The test fails when the unmount does.
func KernelMount(t testing.TB, img, options string) (dir string, unmount func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: a loop mount by the host's kernel")
	}
	for _, name := range []string{"mount", "umount"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs %s (package mount): %v", name, err)
		}
	}
	if options != "" {
		options = "," + options
	}
	dir = t.TempDir()
	if out, err := command("mount", "-t", "ext4", "-o", "loop"+options, img, dir).CombinedOutput(); err != nil {
		if refusedByHost(string(out)) {
			t.Skipf("the host's kernel cannot loop-mount: %v: %s", err, strings.TrimSpace(string(out)))
		}
		t.Fatalf("mount -o loop%s %s: %v\n%s", options, img, err, out)
	}
	done := false
	return dir, func() {
		if done {
			return
		}
		done = true
		if out, err := command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v\n%s", dir, err, out)
		}
	}
}

// refusedByHost tells a host that can't loop-mount at all (a container, no ext4 module) from an image the kernel rejects.
func refusedByHost(out string) bool {
	for _, s := range []string{"unknown filesystem type", "failed to setup loop device", "permission denied", "Operation not permitted",
		"could not find any device"} {
		if strings.Contains(out, s) {
			return true
		}
	}
	return false
}
