package fs

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMakeKinds(t *testing.T) {
	m := mount(t, plain(), Options{})
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	dev := int(unix.Mkdev(300, 0x12345))
	for _, c := range []struct {
		name string
		make func(string) error
		mode uint32
	}{
		{"file", func(p string) error { return os.WriteFile(p, nil, 0o666) }, unix.S_IFREG | 0o640},
		{"node", func(p string) error { return unix.Mknod(p, unix.S_IFREG|0o604, 0) }, unix.S_IFREG | 0o600},
		{"fifo", func(p string) error { return unix.Mkfifo(p, 0o666) }, unix.S_IFIFO | 0o640},
		{"sock", func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o777, 0) }, unix.S_IFSOCK | 0o750},
		{"dir", func(p string) error { return unix.Mkdir(p, 0o777) }, unix.S_IFDIR | 0o750},
		{"link", func(p string) error { return os.Symlink("file", p) }, unix.S_IFLNK | 0o777},
		{"chr", func(p string) error { return rootOnly(unix.Mknod(p, unix.S_IFCHR|0o666, dev)) }, unix.S_IFCHR | 0o640},
		{"blk", func(p string) error { return rootOnly(unix.Mknod(p, unix.S_IFBLK|0o666, 0x103)) }, unix.S_IFBLK | 0o640},
	} {
		err := c.make(m.path(c.name))
		if err == errNotRoot {
			continue
		}
		want(t, c.name, err, 0)
		if st := stat(t, m.path(c.name)); st.Mode != c.mode || int(st.Uid) != os.Geteuid() {
			t.Errorf("%s: mode %o uid %d, want %o %d", c.name, st.Mode, st.Uid, c.mode, os.Geteuid())
		}
		want(t, c.name+" again", unix.Mkdir(m.path(c.name), 0o777), syscall.EEXIST)
	}
	m.unmount()
	again := remount(t, m.c.img)
	if os.Geteuid() == 0 {
		if st := stat(t, again.path("chr")); st.Rdev != uint64(dev) {
			t.Errorf("chr: device %x, want %x", st.Rdev, dev)
		}
	}
	if s, err := os.Readlink(again.path("link")); s != "file" || err != nil {
		t.Errorf("readlink: %q, %v", s, err)
	}
}

var errNotRoot = fmt.Errorf("not root")

func rootOnly(err error) error {
	if err == unix.EPERM && os.Geteuid() != 0 {
		return errNotRoot
	}
	return err
}

func TestSymlinkLengths(t *testing.T) {
	m := mount(t, plain(), Options{})
	for _, n := range []int{1, 59, 60, 61, 128, 255, 1000, 4094, 4095} {
		target := pattern(n, n)
		want(t, fmt.Sprintf("symlink of %d", n), os.Symlink(target, m.path(fmt.Sprint(n))), 0)
	}
	want(t, "symlink of 4096", os.Symlink(pattern(4096, 1), m.path("long")), syscall.ENAMETOOLONG)
	m.unmount()
	again := remount(t, m.c.img)
	for _, n := range []int{1, 59, 60, 61, 128, 255, 1000, 4094, 4095} {
		got, err := os.Readlink(again.path(fmt.Sprint(n)))
		if err != nil || got != pattern(n, n) {
			t.Errorf("readlink of %d bytes: %d bytes, %v", n, len(got), err)
		}
		if st := stat(t, again.path(fmt.Sprint(n))); st.Size != int64(n) {
			t.Errorf("symlink of %d bytes has size %d", n, st.Size)
		}
		must(t, os.Remove(again.path(fmt.Sprint(n))))
	}
}

func TestNames(t *testing.T) {
	m := mount(t, plain(), Options{})
	long := strings.Repeat("n", 255)
	write(t, m.path(long), "x")
	if got := read(t, m.path(long)); got != "x" {
		t.Errorf("content %q", got)
	}
	for what, err := range map[string]error{
		"create": os.WriteFile(m.path(long+"n"), nil, 0o600), "mkdir": unix.Mkdir(m.path(long+"n"), 0o700),
		"rename": unix.Rename(m.path(long), m.path(long+"n")), "link": unix.Link(m.path(long), m.path(long+"n")),
		"symlink": unix.Symlink("x", m.path(long+"n")), "unlink": unix.Unlink(m.path(long + "n")),
	} {
		want(t, what, err, syscall.ENAMETOOLONG)
	}
	for _, n := range []string{"ümlaut", "new\nline", "\xff\xfe", "-", "a b"} {
		write(t, m.path(n), n)
		if got := read(t, m.path(n)); got != n {
			t.Errorf("%q holds %q", n, got)
		}
	}
	want(t, "below a file", os.WriteFile(m.path("-", "x"), nil, 0o600), syscall.ENOTDIR)
	want(t, "missing", unix.Unlink(m.path("missing")), syscall.ENOENT)
	want(t, "unlink of a directory", func() error { must(t, unix.Mkdir(m.path("d"), 0o700)); return unix.Unlink(m.path("d")) }(), syscall.EISDIR)
	want(t, "rmdir of a file", unix.Rmdir(m.path("-")), syscall.ENOTDIR)
	write(t, m.path("d", "f"), "")
	want(t, "rmdir of a full directory", unix.Rmdir(m.path("d")), syscall.ENOTEMPTY)
	must(t, os.Remove(m.path("d", "f")))
	want(t, "rmdir", unix.Rmdir(m.path("d")), 0)
}

func TestLinks(t *testing.T) {
	m := mount(t, plain(), Options{})
	write(t, m.path("a"), "content")
	must(t, os.Mkdir(m.path("d"), 0o755))
	must(t, os.Link(m.path("a"), m.path("d", "b")))
	want(t, "link over a name", os.Link(m.path("a"), m.path("d", "b")), syscall.EEXIST)
	want(t, "link of a directory", unix.Link(m.path("d"), m.path("e")), syscall.EPERM)
	if a, b := stat(t, m.path("a")), stat(t, m.path("d", "b")); a.Ino != b.Ino || a.Nlink != 2 || b.Nlink != 2 {
		t.Errorf("inodes %d %d, links %d %d", a.Ino, b.Ino, a.Nlink, b.Nlink)
	}
	must(t, os.Remove(m.path("a")))
	if st := stat(t, m.path("d", "b")); st.Nlink != 1 || read(t, m.path("d", "b")) != "content" {
		t.Errorf("links %d", st.Nlink)
	}
	must(t, os.Symlink("nowhere", m.path("s")))
	must(t, unix.Linkat(unix.AT_FDCWD, m.path("s"), unix.AT_FDCWD, m.path("s2"), 0))
	if s, err := os.Readlink(m.path("s2")); s != "nowhere" {
		t.Errorf("second name of a symlink: %q, %v", s, err)
	}
	for k := range 20 {
		must(t, os.Mkdir(m.path("d", fmt.Sprint(k)), 0o755))
	}
	if st := stat(t, m.path("d")); st.Nlink != 22 {
		t.Errorf("links of a directory with 20: %d", st.Nlink)
	}
}

func TestRename(t *testing.T) {
	m := mount(t, plain(), Options{})
	for _, d := range []string{"p", "q", "p/sub", "p/sub/deep", "p/full", "q/empty"} {
		must(t, os.Mkdir(m.path(d), 0o755))
	}
	for _, f := range []string{"a", "b", "p/full/x"} {
		write(t, m.path(f), "content of "+f)
	}
	rename := func(from, to string, flags uint, no syscall.Errno) {
		t.Helper()
		err := unix.Renameat2(unix.AT_FDCWD, m.path(from), unix.AT_FDCWD, m.path(to), flags)
		want(t, fmt.Sprintf("rename %s %s flags %d", from, to, flags), err, no)
	}
	rename("a", "b", unix.RENAME_NOREPLACE, syscall.EEXIST)
	rename("a", "c", unix.RENAME_NOREPLACE, 0)
	rename("c", "a", 0, 0)
	rename("a", "nothing", unix.RENAME_EXCHANGE, syscall.ENOENT)
	rename("a", "b", unix.RENAME_EXCHANGE, 0)
	if read(t, m.path("a")) != "content of b" || read(t, m.path("b")) != "content of a" {
		t.Error("exchange did not")
	}
	rename("a", "w", unix.RENAME_WHITEOUT, syscall.EINVAL)
	rename("a", "p", 0, syscall.EISDIR)
	rename("p", "a", 0, syscall.ENOTDIR)
	rename("q/empty", "p/full", 0, syscall.ENOTEMPTY)
	rename("p", "p/sub/in", 0, syscall.EINVAL)
	rename("p/sub", "q/sub", 0, 0)
	nlink := func(d string, n uint64) {
		t.Helper()
		if st := stat(t, m.path(d)); st.Nlink != n {
			t.Errorf("links of %s: %d, want %d", d, st.Nlink, n)
		}
	}
	nlink("p", 3)
	nlink("q", 4)
	rename("q/sub", "q/empty", 0, 0) // over an empty directory of the same parent
	nlink("q", 3)
	must(t, os.Mkdir(m.path("p/hole"), 0o755))
	rename("q/empty", "p/hole", 0, 0) // over one of another parent
	nlink("p", 4)
	nlink("q", 2)
	rename("p/full", "b", unix.RENAME_EXCHANGE, 0) // a directory against a file
	nlink("p", 3)
	if read(t, m.path("b/x")) != "content of p/full/x" || read(t, m.path("p/full")) != "content of a" {
		t.Error("exchange of a directory and a file did not")
	}
	must(t, os.Link(m.path("a"), m.path("a2")))
	rename("a", "a2", 0, 0) // two names of one file: nothing happens
	if stat(t, m.path("a")).Nlink != 2 {
		t.Error("rename onto itself took a link")
	}
	// ".." by number, past the kernel's name cache.
	m.unmount()
	again := remount(t, m.c.img)
	if a, b := stat(t, again.path("p/hole")+"/.."), stat(t, again.path("p")); a.Ino != b.Ino {
		t.Errorf(`".." of a moved directory is inode %d, want %d`, a.Ino, b.Ino)
	}
	if a, b := stat(t, again.path("b")+"/.."), stat(t, again.dir); a.Ino != b.Ino {
		t.Errorf(`".." of an exchanged directory is inode %d, want %d`, a.Ino, b.Ino)
	}
}

func TestRenameReplacesOpenFile(t *testing.T) {
	m := mount(t, plain(), Options{})
	write(t, m.path("old"), pattern(9000, 1))
	write(t, m.path("new"), "new")
	fd, err := os.Open(m.path("old"))
	must(t, err)
	must(t, os.Rename(m.path("new"), m.path("old")))
	b := make([]byte, 9000)
	if n, err := fd.ReadAt(b, 0); string(b[:n]) != pattern(9000, 1) {
		t.Errorf("replaced file reads %d bytes, %v", n, err)
	}
	must(t, fd.Close())
	if read(t, m.path("old")) != "new" {
		t.Error("the new file is not there")
	}
}

func TestDirCycleOfLife(t *testing.T) {
	m := mount(t, plain(), Options{})
	before := statfs(t, m.dir)
	for round := range 3 {
		deep := m.dir
		for k := range 20 {
			deep += fmt.Sprintf("/level%d", k)
			must(t, os.Mkdir(deep, 0o755))
			write(t, deep+"/file", pattern(k*100, round))
		}
		if err := os.RemoveAll(m.path("level0")); err != nil {
			t.Fatal(err)
		}
	}
	m.unmount()
	if after := statfs(t, remount(t, m.c.img).dir); after.Bfree != before.Bfree || after.Ffree != before.Ffree {
		t.Errorf("free blocks %d inodes %d, before %d %d", after.Bfree, after.Ffree, before.Bfree, before.Ffree)
	}
}

func statfs(t testing.TB, path string) unix.Statfs_t {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		t.Fatalf("statfs %s: %v", path, err)
	}
	return s
}
