package control

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAnnounceOnAnOrdinaryFile(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = AnnounceMmap(int(f.Fd()))
	var errno unix.Errno
	if !errors.As(err, &errno) {
		t.Fatalf("announce on an ordinary file: %v, want an errno", err)
	}
	if err := AnnounceMmap(-1); err != unix.EBADF {
		t.Fatalf("announce on descriptor -1: %v, want EBADF", err)
	}
}

func TestReportOfAnOrdinaryDirectory(t *testing.T) {
	dir := t.TempDir()
	if _, err := Report(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Fatalf("report of an ordinary directory: %v, want an error naming it", err)
	}
	if _, err := Report(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("report of a missing path: %v, want not exist", err)
	}
}

func TestDecodeReport(t *testing.T) {
	for _, c := range []struct{ raw, want string }{
		{`{"schema":1,"version":"v","strategy":"mmap","counters":{"writes":3}}`, ""},
		{`{"schema":2,"version":"v9","counters":[]}`, `schema 2 (written by version "v9"), want schema 1`},
		{`{"version":"v"}`, "without a schema"},
		{`{"schema":1,"counters":[]}`, "report of schema 1"},
		{`no`, "not JSON"},
		{``, "not JSON"},
	} {
		r, err := decodeReport("/mnt", []byte(c.raw))
		if c.want == "" {
			if err != nil || r.Strategy != "mmap" || r.Counters.Writes != 3 {
				t.Errorf("decode %s: %+v, %v", c.raw, r, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "/mnt: ") {
			t.Errorf("decode %s: error %v, want %q", c.raw, err, c.want)
		}
	}
}

func TestGetxattrGrows(t *testing.T) {
	dir := "/dev/shm"
	name := filepath.Join(t.TempDir(), "f")
	value := strings.Repeat("x", 20000)
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(name, "user.big", []byte(value), 0); err != nil {
		f, err2 := os.CreateTemp(dir, "control")
		if err2 != nil {
			t.Skipf("no file system with user attributes of 20000 bytes: %v, %v", err, err2)
		}
		f.Close()
		name = f.Name()
		defer os.Remove(name)
		if err2 := unix.Setxattr(name, "user.big", []byte(value), 0); err2 != nil {
			t.Skipf("no file system with user attributes of 20000 bytes: %v, %v", err, err2)
		}
	}
	got, err := getxattr(name, "user.big")
	if err != nil || string(got) != value {
		t.Fatalf("getxattr: %d bytes, %v, want 20000", len(got), err)
	}
	if _, err := getxattr(name, "user.none"); !errors.Is(err, unix.ENODATA) {
		t.Fatalf("getxattr of a missing name: %v, want ENODATA", err)
	}
}

func TestMountOf(t *testing.T) {
	m, err := MountOf("/proc")
	if err != nil {
		t.Fatal(err)
	}
	if m.FSType != "proc" || m.Point != "/proc" || m.ID <= 0 || !strings.Contains(m.Dev, ":") {
		t.Fatalf("mount of /proc: %+v", m)
	}
	if is, err := IsMount(t.TempDir()); is || err != nil {
		t.Fatalf("IsMount of a temporary directory: %t, %v", is, err)
	}
	if _, err := IsMount("/nonexistent/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("IsMount of a missing path: %v", err)
	}
	if _, ok, err := MountByID("self", 1<<30); ok || err != nil {
		t.Fatalf("mount 1<<30: %t, %v, want none", ok, err)
	}
}

func TestFindMount(t *testing.T) {
	table := "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n" +
		"short line\n" +
		`98 21 0:45 / /mnt/a\040b\134c rw,nosuid shared:5 master:2 - fuse.inlinefs /img\011x rw,user_id=0`
	m, ok, err := findMount(strings.NewReader(table), 98)
	want := Mount{ID: 98, Dev: "0:45", Point: `/mnt/a b\c`, FSType: FSType, Source: "/img\tx"}
	if !ok || err != nil || m != want {
		t.Fatalf("mount 98: %+v, %t, %v, want %+v", m, ok, err, want)
	}
	if m, ok, _ := findMount(strings.NewReader(table), 21); !ok || m.Point != "/" {
		t.Fatalf("mount 21: %+v, %t", m, ok)
	}
}

func TestFdInfo(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	for _, flags := range []int{os.O_RDWR | os.O_CREATE, os.O_RDONLY, os.O_WRONLY} {
		f, err := os.OpenFile(name, flags, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		info, err := FdInfoOf("self", int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		m, err := MountOf(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.MountID != m.ID || info.ReadWrite() != (flags&os.O_RDWR != 0) {
			t.Errorf("flags %#x: %+v on mount %+v", flags, info, m)
		}
		fd := int(f.Fd())
		f.Close()
		if _, err := FdInfoOf("self", fd+1000); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("closed descriptor: %v, want not exist", err)
		}
	}
	for _, raw := range []string{"", "pos:\t0\nflags:\t0100002\n", "flags:\t9\nmnt_id:\t3\n", "mnt_id:\tx\nflags:\t02\n"} {
		if info, err := parseFdInfo(raw); err == nil {
			t.Errorf("fdinfo %q: %+v, want an error", raw, info)
		}
	}
	info, err := parseFdInfo("pos:\t0\nflags:\t02100002\nmnt_id:\t15\nino:\t2049\nlock:\t1: POSIX\nflags:\tx\n")
	if err != nil || !info.ReadWrite() || info.MountID != 15 || info.Ino != 2049 {
		t.Errorf("fdinfo: %+v, %v", info, err)
	}
}
