package control

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is one line of /proc/PID/mountinfo.
type Mount struct {
	// ID is the mount's number, unique on the machine while the mount exists; the same as mnt_id of /proc/PID/fdinfo.
	ID int
	// Dev is the file system's device as "major:minor": the same for every bind mount of it.
	Dev string
	// Point is the mount point as the process sees it.
	Point string
	// FSType is the file system type, for example "fuse.inlinefs".
	FSType string
	// Source is the mounted device or image.
	Source string
}

// MountOf returns the mount that path is on. It opens the path itself with O_PATH, which asks a FUSE daemon for nothing but the
// look-up of the names below its root.
func MountOf(path string) (Mount, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return Mount{}, fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	info, err := FdInfoOf("self", fd)
	if err != nil {
		return Mount{}, fmt.Errorf("%s: %w", path, err)
	}
	m, ok, err := MountByID("self", info.MountID)
	if err != nil {
		return Mount{}, fmt.Errorf("%s: %w", path, err)
	}
	if !ok {
		return Mount{}, fmt.Errorf("%s: mount %d is not in /proc/self/mountinfo", path, info.MountID)
	}
	return m, nil
}

// IsMount says whether path is on an inlinefs mount (type "fuse.inlinefs" in /proc/self/mountinfo).
func IsMount(path string) (bool, error) {
	m, err := MountOf(path)
	if err != nil {
		return false, err
	}
	return m.FSType == FSType, nil
}

// MountByID looks for a mount number in the mount table of a process, named as in /proc: a number or "self".
func MountByID(proc string, id int) (Mount, bool, error) {
	f, err := os.Open("/proc/" + proc + "/mountinfo")
	if err != nil {
		return Mount{}, false, err
	}
	defer f.Close()
	return findMount(f, id)
}

func findMount(r io.Reader, id int) (Mount, bool, error) {
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if m, ok := parseMount(strings.TrimSuffix(line, "\n")); ok && m.ID == id {
			return m, true, nil
		}
		if err == io.EOF {
			return Mount{}, false, nil
		}
		if err != nil {
			return Mount{}, false, err
		}
	}
}

// parseMount reads "36 35 98:0 /root /point rw,noatime master:1 - ext4 /dev/sda rw": the optional fields end with "-".
func parseMount(line string) (Mount, bool) {
	f := strings.Split(line, " ")
	if len(f) < 10 {
		return Mount{}, false
	}
	id, err := strconv.Atoi(f[0])
	if err != nil {
		return Mount{}, false
	}
	for i := 6; i+2 < len(f); i++ {
		if f[i] == "-" {
			return Mount{ID: id, Dev: f[2], Point: unescape(f[4]), FSType: unescape(f[i+1]), Source: unescape(f[i+2])}, true
		}
	}
	return Mount{}, false
}

// unescape undoes the three-digit octal escapes of blank, tab, newline and backslash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// FdInfo is what /proc/PID/fdinfo/FD says of an open file without asking its file system.
type FdInfo struct {
	// Flags are the open(2) flags, O_ACCMODE among them.
	Flags int
	// MountID is the number of the mount the file was opened through.
	MountID int
	// Ino is the inode number, 0 where the kernel (before 5.14) does not tell it.
	Ino uint64
}

// ReadWrite says whether the file was opened O_RDWR, without which no shared writable mapping of it can be made.
func (i FdInfo) ReadWrite() bool { return i.Flags&unix.O_ACCMODE == unix.O_RDWR }

// FdInfoOf reads fdinfo of descriptor fd of a process or thread, named as in /proc: a number or "self". A descriptor that is not
// open is fs.ErrNotExist.
func FdInfoOf(proc string, fd int) (FdInfo, error) {
	name := "/proc/" + proc + "/fdinfo/" + strconv.Itoa(fd)
	raw, err := os.ReadFile(name)
	if err != nil {
		return FdInfo{}, err
	}
	info, err := parseFdInfo(string(raw))
	if err != nil {
		return FdInfo{}, fmt.Errorf("%s: %w", name, err)
	}
	return info, nil
}

// parseFdInfo takes the first value of each field: what a file's own code adds to fdinfo comes after them.
func parseFdInfo(raw string) (FdInfo, error) {
	first := map[string]string{}
	for line := range strings.Lines(raw) {
		key, val, ok := strings.Cut(line, ":")
		if _, seen := first[key]; ok && !seen {
			first[key] = strings.TrimSpace(val)
		}
	}
	flags, err := strconv.ParseUint(first["flags"], 8, 63)
	if err != nil {
		return FdInfo{}, fmt.Errorf("field flags: %w", err)
	}
	mnt, err := strconv.Atoi(first["mnt_id"])
	if err != nil {
		return FdInfo{}, fmt.Errorf("field mnt_id: %w", err)
	}
	info := FdInfo{Flags: int(flags), MountID: mnt}
	if val, ok := first["ino"]; ok {
		if info.Ino, err = strconv.ParseUint(val, 10, 64); err != nil {
			return FdInfo{}, fmt.Errorf("field ino: %w", err)
		}
	}
	return info, nil
}
