package blockdev

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// holders names the processes that hold a flock(2) of the file, as /proc/locks tells: " (process 123, inlinefs)". Empty where it does not
// tell: other PID namespaces, file systems whose device numbers differ from stat(2)'s. It is for messages only.
func holders(st os.FileInfo) string {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		return ""
	}
	want := fmt.Sprintf("%02x:%02x:%d", unix.Major(sys.Dev), unix.Minor(sys.Dev), sys.Ino)
	var who []string
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || f[5] != want {
			continue
		}
		name, err := os.ReadFile("/proc/" + f[4] + "/comm")
		if err != nil {
			continue
		}
		who = append(who, fmt.Sprintf("process %s, %s", f[4], strings.TrimSpace(string(name))))
	}
	if len(who) == 0 {
		return ""
	}
	return " (" + strings.Join(who, "; ") + ")"
}

// usedLoop finds a loop device for writing over the file at the same offset that somebody has mounted: the kernel's own ext4 takes no
// flock(2). Empty when there is none, or when it is not to be seen from here (not root, no /dev/loopN).
func usedLoop(path string, offset int64) string {
	abs, err := filepath.Abs(path)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return ""
	}
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return ""
	}
	for _, f := range files {
		dir := filepath.Dir(f)
		if content(f) != abs || content(filepath.Join(dir, "offset")) != strconv.FormatInt(offset, 10) {
			continue
		}
		disk := filepath.Dir(dir)
		if content(filepath.Join(disk, "ro")) == "1" {
			continue
		}
		dev := "/dev/" + filepath.Base(disk)
		// Who mounts a block device holds it exclusively.
		fd, err := unix.Open(dev, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EBUSY) {
			return dev
		}
		if err == nil {
			_ = unix.Close(fd) // opened for reading: nothing to lose
		}
	}
	return ""
}

// content is a file of sysfs without its end of line; empty when it cannot be read.
func content(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b), "\n")
}
