package fs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"inlinefs/internal/control"
	"inlinefs/internal/testimage"
)

func TestTimes(t *testing.T) {
	m := mount(t, plain(), Options{})
	write(t, m.path("f"), "x")
	must(t, os.Mkdir(m.path("d"), 0o755))
	times := []unix.Timespec{
		{Sec: 0, Nsec: 1}, {Sec: 1, Nsec: 999999999}, {Sec: 1 << 31, Nsec: 5}, {Sec: 1<<32 - 1, Nsec: 7}, {Sec: -1, Nsec: 3}, {Sec: -1 << 31},
		{Sec: 15032385535, Nsec: 123456789}, // 2446-05-10, the last second that fits
	}
	for k, ts := range times {
		for _, name := range []string{"f", "d"} {
			at, mt := ts, times[(k+1)%len(times)]
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, m.path(name), []unix.Timespec{at, mt}, 0))
			st := stat(t, m.path(name))
			if st.Atim != at || st.Mtim != mt {
				t.Errorf("%s: times %v %v, want %v %v", name, st.Atim, st.Mtim, at, mt)
			}
		}
	}
	far := times[6]
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, m.path("f"), []unix.Timespec{far, far}, 0))
	m.unmount()
	again := remount(t, m.c.img)
	st := stat(t, again.path("f"))
	if st.Atim != far || st.Mtim != far {
		t.Errorf("after a remount: %v %v, want %v", st.Atim, st.Mtim, far)
	}
	if now := time.Now(); time.Unix(st.Ctim.Unix()).After(now.Add(time.Minute)) || time.Unix(st.Ctim.Unix()).Before(now.Add(-time.Hour)) {
		t.Errorf("ctime %v, now %v", st.Ctim, now)
	}
}

// timesBefore puts the times of a file at a known past, so that a change is seen without waiting for the clock.
func timesBefore(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	past := unix.Timespec{Sec: 1000, Nsec: 5}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{past, past}, 0))
	return stat(t, path)
}

func TestMtimeMoves(t *testing.T) {
	m := mount(t, plain(), Options{})
	must(t, os.Mkdir(m.path("d"), 0o755))
	write(t, m.path("f"), "content")
	for _, c := range []struct {
		what, path   string
		do           func() error
		mtime, ctime bool
	}{
		{"write", "f", func() error { return os.WriteFile(m.path("f"), []byte("other"), 0o644) }, true, true},
		{"truncate", "f", func() error { return os.Truncate(m.path("f"), 3) }, true, true},
		{"truncate to the same size", "f", func() error { return os.Truncate(m.path("f"), 3) }, true, true},
		{"chmod", "f", func() error { return os.Chmod(m.path("f"), 0o600) }, false, true},
		{"setxattr", "f", func() error { return unix.Setxattr(m.path("f"), "user.a", []byte("1"), 0) }, false, true},
		{"link", "f", func() error { return os.Link(m.path("f"), m.path("d/l")) }, false, true},
		{"fallocate", "f", func() error { return fallocate(m.path("f"), 0, 0, 5000) }, true, true},
		{"create in", "d", func() error { return os.WriteFile(m.path("d/x"), nil, 0o644) }, true, true},
		{"rename in", "d", func() error { return os.Rename(m.path("d/x"), m.path("d/y")) }, true, true},
		{"unlink in", "d", func() error { return os.Remove(m.path("d/y")) }, true, true},
		{"stat", "d", func() error { stat(t, m.path("d")); return nil }, false, false},
	} {
		before := timesBefore(t, m.path(c.path))
		want(t, c.what, c.do(), 0)
		after := stat(t, m.path(c.path))
		if got := after.Mtim != before.Mtim; got != c.mtime {
			t.Errorf("%s: mtime moved: %v, want %v", c.what, got, c.mtime)
		}
		// A tick of the clock may lie between the two or not, but time does not go back.
		if !c.ctime && after.Ctim != before.Ctim || after.Ctim.Nano() < before.Ctim.Nano() {
			t.Errorf("%s: ctime %v, before %v", c.what, after.Ctim, before.Ctim)
		}
	}
}

func fallocate(path string, mode uint32, off, n int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), mode, off, n)
}

func TestStatfs(t *testing.T) {
	m := mount(t, plain(), Options{})
	a := statfs(t, m.dir)
	if a.Bsize != 4096 || a.Files != 1024 || a.Namelen != 255 || a.Blocks == 0 || a.Bfree > a.Blocks || a.Bavail > a.Bfree {
		t.Errorf("statfs: %+v", a)
	}
	write(t, m.path("f"), pattern(40960, 1))
	b := statfs(t, m.dir)
	if a.Bfree-b.Bfree < 10 || a.Bfree-b.Bfree > 12 || a.Ffree-b.Ffree != 1 {
		t.Errorf("a file of 10 blocks took %d blocks and %d inodes", a.Bfree-b.Bfree, a.Ffree-b.Ffree)
	}
	if os.Geteuid() != 0 {
		return
	}
	kernel := testimage.Kernel(t, testimage.Make(t, plain()))
	if k := statfs(t, kernel); k.Blocks != a.Blocks || k.Bfree != a.Bfree || k.Files != a.Files || k.Ffree != a.Ffree {
		t.Errorf("statfs: blocks %d free %d files %d free %d; the kernel: %d %d %d %d",
			a.Blocks, a.Bfree, a.Files, a.Ffree, k.Blocks, k.Bfree, k.Files, k.Ffree)
	}
}

func TestModesAndOwners(t *testing.T) {
	m := mount(t, plain(), Options{})
	write(t, m.path("f"), "x")
	for _, mode := range []uint32{0, 0o777, 0o4755, 0o2755, 0o1644, 0o7777} {
		must(t, unix.Chmod(m.path("f"), mode))
		if got := stat(t, m.path("f")).Mode & 0o7777; got != mode && os.Geteuid() == 0 {
			t.Errorf("chmod %o gives %o", mode, got)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: chown")
	}
	must(t, os.Chown(m.path("f"), 70000, 80000))
	if st := stat(t, m.path("f")); st.Uid != 70000 || st.Gid != 80000 || st.Mode&0o6000 != 0 {
		t.Errorf("owner %d:%d mode %o after chown", st.Uid, st.Gid, st.Mode)
	}
	must(t, os.Mkdir(m.path("sg"), 0o755))
	must(t, os.Chown(m.path("sg"), 0, 4242))
	must(t, unix.Chmod(m.path("sg"), 0o2775))
	write(t, m.path("sg/f"), "")
	must(t, os.Mkdir(m.path("sg/d"), 0o755))
	must(t, os.Symlink("x", m.path("sg/l")))
	for name, mode := range map[string]uint32{"f": 0, "d": 0o2000, "l": 0} {
		if st := stat(t, m.path("sg", name)); st.Gid != 4242 || st.Mode&0o2000 != mode {
			t.Errorf("%s in a set-group-id directory: group %d mode %o", name, st.Gid, st.Mode)
		}
	}
}

func listXattr(t *testing.T, path string) []string {
	t.Helper()
	buf := make([]byte, 65536)
	n, err := unix.Llistxattr(path, buf)
	must(t, err)
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	return names
}

func getXattr(path, name string) (string, error) {
	buf := make([]byte, 65536)
	n, err := unix.Lgetxattr(path, name, buf)
	return string(buf[:max(n, 0)]), err
}

func TestXattrs(t *testing.T) {
	m := mount(t, plain(), Options{})
	for _, name := range []string{"f", "g"} {
		write(t, m.path(name), pattern(100, 3))
	}
	f := m.path("f")
	if !m.inline(f) {
		t.Error("100 bytes are not inline")
	}
	_, err := getXattr(f, "user.none")
	want(t, "get of none", err, syscall.ENODATA)
	want(t, "remove of none", unix.Removexattr(f, "user.none"), syscall.ENODATA)
	want(t, "replace of none", unix.Setxattr(f, "user.a", nil, unix.XATTR_REPLACE), syscall.ENODATA)
	want(t, "create", unix.Setxattr(f, "user.a", []byte("one"), unix.XATTR_CREATE), 0)
	want(t, "create again", unix.Setxattr(f, "user.a", []byte("two"), unix.XATTR_CREATE), syscall.EEXIST)
	want(t, "unknown namespace", unix.Setxattr(f, "nowhere.a", nil, 0), syscall.EOPNOTSUPP)
	for k, size := range []int{0, 1, 30, 200, 1000, 3000} {
		name := fmt.Sprintf("user.k%d", k)
		if err := unix.Setxattr(m.path("g"), name, []byte(pattern(size, k)), 0); err != nil && (size < 3000 || err != unix.ENOSPC) {
			t.Errorf("attribute of %d bytes: %v", size, err)
		} else if got, e := getXattr(m.path("g"), name); err == nil && (e != nil || got != pattern(size, k)) {
			t.Errorf("attribute of %d bytes reads %d, %v", size, len(got), e)
		}
	}
	want(t, "too large", unix.Setxattr(f, "user.big", make([]byte, 5000), 0), syscall.ENOSPC)
	small := make([]byte, 2)
	_, err = unix.Getxattr(f, "user.a", small)
	want(t, "short buffer", err, syscall.ERANGE)
	names := listXattr(t, m.path("g"))
	m.unmount()

	again := remount(t, m.c.img)
	if got := listXattr(t, again.path("g")); !slices.Equal(got, names) || slices.Contains(got, "system.data") {
		t.Errorf("names after a remount %v, before %v", got, names)
	}
	if got := read(t, again.path("f")); got != pattern(100, 3) || read(t, again.path("g")) != got {
		t.Error("content changed")
	}
	for _, n := range names {
		must(t, unix.Removexattr(again.path("g"), n))
	}
	if got := listXattr(t, again.path("g")); len(got) != 0 {
		t.Errorf("names left: %v", got)
	}
	if os.Geteuid() == 0 {
		must(t, unix.Setxattr(again.path("f"), "trusted.t", []byte("t"), 0))
		must(t, unix.Setxattr(again.path("f"), "security.s", []byte("s"), 0))
		if got := listXattr(t, again.path("f")); !slices.Equal(got, []string{"security.s", "trusted.t", "user.a"}) {
			t.Errorf("names %v", got)
		}
	}
}

// acl encodes an access control list: tag, permissions, id each.
func acl(entries ...[3]uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

// Tags of ACL entries.
const (
	aclUserObj, aclUser, aclGroupObj, aclMask, aclOther = 1, 2, 4, 16, 32
	aclNoID                                             = 1<<32 - 1
)

func TestACL(t *testing.T) {
	m := mount(t, plain(), Options{})
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	must(t, os.Mkdir(m.path("d"), 0o777))
	const access, deflt = "system.posix_acl_access", "system.posix_acl_default"
	list := acl([3]uint32{aclUserObj, 7, aclNoID}, [3]uint32{aclUser, 6, 1234}, [3]uint32{aclGroupObj, 5, aclNoID},
		[3]uint32{aclMask, 7, aclNoID}, [3]uint32{aclOther, 5, aclNoID})
	must(t, unix.Setxattr(m.path("d"), deflt, list, 0))
	// The umask does not count where a default list is.
	must(t, os.WriteFile(m.path("d/f"), nil, 0o666))
	must(t, os.Mkdir(m.path("d/sub"), 0o777))
	if st := stat(t, m.path("d/f")); st.Mode&0o777 != 0o664 {
		t.Errorf("file under a default list: mode %o", st.Mode)
	}
	fileList := acl([3]uint32{aclUserObj, 6, aclNoID}, [3]uint32{aclUser, 6, 1234}, [3]uint32{aclGroupObj, 5, aclNoID},
		[3]uint32{aclMask, 6, aclNoID}, [3]uint32{aclOther, 4, aclNoID})
	if got, err := getXattr(m.path("d/f"), access); err != nil || !bytes.Equal([]byte(got), fileList) {
		t.Errorf("inherited list %x, want %x, %v", got, fileList, err)
	}
	for _, n := range []string{access, deflt} {
		if got, err := getXattr(m.path("d/sub"), n); err != nil || got != string(list) {
			t.Errorf("%s of a directory: %x, want %x, %v", n, got, list, err)
		}
	}
	// chmod changes owner, mask and others.
	must(t, os.Chmod(m.path("d/f"), 0o640))
	chmodded := acl([3]uint32{aclUserObj, 6, aclNoID}, [3]uint32{aclUser, 6, 1234}, [3]uint32{aclGroupObj, 5, aclNoID},
		[3]uint32{aclMask, 4, aclNoID}, [3]uint32{aclOther, 0, aclNoID})
	if got, err := getXattr(m.path("d/f"), access); err != nil || got != string(chmodded) {
		t.Errorf("list after chmod %x, want %x, %v", got, chmodded, err)
	}
	// A list that says no more than a mode is the mode.
	must(t, unix.Setxattr(m.path("d/f"), access, acl([3]uint32{aclUserObj, 7, aclNoID}, [3]uint32{aclGroupObj, 1, aclNoID},
		[3]uint32{aclOther, 2, aclNoID}), 0))
	if st := stat(t, m.path("d/f")); st.Mode&0o777 != 0o712 {
		t.Errorf("mode of a minimal list: %o", st.Mode)
	}
	must(t, unix.Removexattr(m.path("d"), deflt))
	must(t, os.WriteFile(m.path("d/g"), nil, 0o666))
	if st := stat(t, m.path("d/g")); st.Mode&0o777 != 0o600 {
		t.Errorf("without a default list: mode %o", st.Mode)
	}
}

func TestACLIsEnforced(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: to become somebody else")
	}
	testimage.FuseUsable(t)
	m := mountConfig(t, config{img: testimage.Make(t, plain()), mount: MountOptions{AllowOther: true}})
	must(t, os.Chmod(m.dir, 0o755))
	write(t, m.path("f"), "secret")
	must(t, os.Chmod(m.path("f"), 0o600))
	must(t, unix.Setxattr(m.path("f"), "system.posix_acl_access", acl([3]uint32{aclUserObj, 6, aclNoID}, [3]uint32{aclUser, 4, 1234},
		[3]uint32{aclGroupObj, 0, aclNoID}, [3]uint32{aclMask, 4, aclNoID}, [3]uint32{aclOther, 0, aclNoID}), 0))
	// The directories above the mount point are closed to others: they get the root as descriptor 3.
	root, err := os.Open(m.dir)
	must(t, err)
	defer root.Close()
	for _, c := range []struct {
		uid     uint32
		command string
		want    string
	}{
		{1234, "openread", "ok"}, {1234, "open", "errno 13"}, {1235, "openread", "errno 13"}, {0, "open", "ok"},
	} {
		if got := newClientAs(t, c.uid, root).do("%s /proc/self/fd/3/f", c.command); got != c.want {
			t.Errorf("user %d, %s: %s, want %s", c.uid, c.command, got, c.want)
		}
	}
}

func TestFlags(t *testing.T) {
	testimage.FuseUsable(t)
	img := testimage.Make(t, plain())
	first := remount(t, img)
	for _, f := range []string{"imm", "app", "plain"} {
		write(t, first.path(f), "content")
	}
	must(t, os.Mkdir(first.path("idir"), 0o755))
	must(t, os.Mkdir(first.path("adir"), 0o755))
	write(t, first.path("idir/x"), "x")
	write(t, first.path("adir/x"), "x")
	first.unmount()
	for path, bits := range map[string]uint32{"imm": 0x10, "app": 0x20, "idir": 0x10, "adir": 0x20} {
		setFlags(t, img, path, bits)
	}
	m := remount(t, img)
	for what, err := range map[string]error{
		"write imm": os.WriteFile(m.path("imm"), []byte("x"), 0), "truncate imm": os.Truncate(m.path("imm"), 1), "unlink imm": unix.Unlink(m.path("imm")),
		"chmod imm": os.Chmod(m.path("imm"), 0o600), "rename imm": os.Rename(m.path("imm"), m.path("z")), "link imm": os.Link(m.path("imm"), m.path("z")),
		"setxattr imm": unix.Setxattr(m.path("imm"), "user.x", nil, 0), "fallocate imm": fallocate(m.path("imm"), 0, 0, 5000),
		"create in idir": os.WriteFile(m.path("idir/y"), nil, 0o600), "unlink in idir": unix.Unlink(m.path("idir/x")),
		"rename out of idir": os.Rename(m.path("idir/x"), m.path("z")), "rename into idir": os.Rename(m.path("plain"), m.path("idir/z")),
		"truncate app": os.Truncate(m.path("app"), 1), "unlink app": unix.Unlink(m.path("app")), "rename app": os.Rename(m.path("app"), m.path("z")),
		"unlink in adir": unix.Unlink(m.path("adir/x")),
	} {
		want(t, what, err, syscall.EPERM)
	}
	want(t, "create in adir", os.WriteFile(m.path("adir/y"), []byte("y"), 0o600), 0)
	a, err := os.OpenFile(m.path("app"), os.O_WRONLY|os.O_APPEND, 0)
	if want(t, "open to append", err, 0); err == nil {
		_, err = a.WriteString(" and more")
		want(t, "append", err, 0)
		must(t, a.Close())
	}
	if got := read(t, m.path("app")); got != "content and more" {
		t.Errorf("append-only file holds %q", got)
	}
	want(t, "truncating write to an append-only file", os.WriteFile(m.path("app"), []byte("x"), 0), syscall.EPERM)
	over, err := os.OpenFile(m.path("app"), os.O_WRONLY, 0)
	if err == nil {
		_, err = over.WriteAt([]byte("x"), 0)
		must(t, over.Close())
	}
	want(t, "write into an append-only file", err, syscall.EPERM)
	if read(t, m.path("imm")) != "content" {
		t.Error("immutable file changed")
	}
}

// setFlags adds inode flags by debugfs.
func setFlags(t *testing.T, img, path string, bits uint32) {
	t.Helper()
	out := testimage.Debugfs(t, img, false, "stat /"+path)
	_, rest, ok := strings.Cut(out, "Flags: ")
	var old uint32
	if _, err := fmt.Sscanf(rest, "0x%x", &old); err != nil || !ok {
		t.Fatalf("debugfs stat %s: %v\n%s", path, err, out)
	}
	testimage.Debugfs(t, img, true, fmt.Sprintf("sif /%s flags 0x%x", path, old|bits))
}

func TestReport(t *testing.T) {
	m := mount(t, plain(), Options{Version: "v-test"})
	write(t, m.path("f"), "x")
	r, err := control.Report(m.dir)
	must(t, err)
	if r.Schema != control.ReportSchema || r.Version != "v-test" || r.MmapMode != "cached" || r.Strategy != DefaultStrategy() ||
		r.Counters.Writes != 1 || len(r.Violations) != 0 {
		t.Errorf("report %+v", r)
	}
	if slices.Contains(listXattr(t, m.dir), control.XattrReport) {
		t.Error("the report is listed")
	}
	want(t, "ioctl unknown", func() error {
		fd, err := os.Open(m.path("f"))
		must(t, err)
		defer fd.Close()
		_, err = unix.IoctlGetInt(int(fd.Fd()), 0x6699)
		return err
	}(), syscall.ENOTTY)
}
