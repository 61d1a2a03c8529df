package fs

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"inlinefs/inode"
)

// upsideDown mounts an image with directories high/low/deep and beside and a file high/f. The deeper, the lower the inode number, and the
// file has the lowest: what comes first cannot be told from the numbers.
func upsideDown(t *testing.T) (m *mounted, in func(string) *inode.Inode) {
	m = mount(t, plain(), Options{})
	write(t, m.path("f"), "f")
	for _, d := range []string{"deep", "low", "beside", "high"} {
		must(t, os.Mkdir(m.path(d), 0o700))
	}
	must(t, os.Rename(m.path("deep"), m.path("low/deep")))
	must(t, os.Rename(m.path("low"), m.path("high/low")))
	must(t, os.Rename(m.path("f"), m.path("high/f")))
	in = func(p string) *inode.Inode {
		t.Helper()
		i, err := m.f.get(stat(t, m.path(p)).Ino)
		must(t, err)
		t.Cleanup(func() { m.f.put(i) }) // before the unmount, which was asked for first
		return i
	}
	return m, in
}

// TestRenameOrder: of two directories the one above the other is locked first, whatever their numbers, and the way between them is known;
// of two that have nothing to do with each other the one with the lower number.
func TestRenameOrder(t *testing.T) {
	m, in := upsideDown(t)
	if high, deep := in("high").Ino, in("high/low/deep").Ino; high < deep {
		t.Fatalf("high is inode %d, deep %d: want the parent to have the higher number", high, deep)
	}
	for _, tc := range []struct{ a, b, first, trap string }{
		{"high", "high/low", "high", "high/low"},
		{"high", "high/low/deep", "high", "high/low"},
		{"high/low", "high/low/deep", "high/low", "high/low/deep"},
		{"", "high/low/deep", "", "high"},
		{"", "beside", "", "beside"},
		{"high", "beside", "beside", ""},
		{"high/low/deep", "beside", "high/low/deep", ""},
	} {
		for _, p := range [][2]string{{tc.a, tc.b}, {tc.b, tc.a}} {
			mv := move{od: in(p[0]), nd: in(p[1])}
			first, second, err := m.f.inOrder(&mv)
			must(t, err)
			trap := uint32(0)
			if tc.trap != "" {
				trap = in(tc.trap).Ino
			}
			if first != in(tc.first) || first == second || mv.trap != trap {
				t.Errorf("%q and %q: inode %d before %d, trap %d, want %q first, trap %d", p[0], p[1], first.Ino, second.Ino, mv.trap, tc.first, trap)
			}
		}
	}
}

// TestRenameTraps: a directory is neither moved below itself nor replaced by what is in it, also when the kernel does not see to that.
func TestRenameTraps(t *testing.T) {
	m, in := upsideDown(t)
	write(t, m.path("high/low/deep/g"), "g")
	rename := func(od, oldName, nd, newName string, flags uint32) fuse.Status {
		r := fuse.RenameIn{InHeader: fuse.InHeader{NodeId: node(in(od).Ino)}, Newdir: node(in(nd).Ino), Flags: flags}
		return m.f.Rename(nil, &r, oldName, newName)
	}
	for _, tc := range []struct {
		od, oldName, nd, newName string
		flags                    uint32
		want                     fuse.Status
	}{
		{"", "high", "high/low", "x", 0, fuse.EINVAL},
		{"high", "low", "high/low/deep", "x", 0, fuse.EINVAL},
		{"high/low/deep", "g", "", "high", 0, fuse.Status(unix.ENOTEMPTY)},
		{"high/low/deep", "g", "high", "low", 0, fuse.Status(unix.ENOTEMPTY)},
		{"high/low/deep", "g", "high", "low", unix.RENAME_EXCHANGE, fuse.EINVAL},
		{"high/low/deep", "g", "high", "g", 0, fuse.OK},
	} {
		if st := rename(tc.od, tc.oldName, tc.nd, tc.newName, tc.flags); st != tc.want {
			t.Errorf("%s/%s to %s/%s, flags %d: %v, want %v", tc.od, tc.oldName, tc.nd, tc.newName, tc.flags, st, tc.want)
		}
	}
}

// TestRenamesDoNotWaitInACircle lets what the kernel's own locks keep apart meet in the daemon: renames down and up a tree and between
// strangers, an exchange of a directory and a file, and removals that fail after they have taken parent and child.
func TestRenamesDoNotWaitInACircle(t *testing.T) {
	m, in := upsideDown(t)
	// The file's other name is inside the directory that it changes places with.
	must(t, os.Link(m.path("high/f"), m.path("high/low/f")))
	write(t, m.path("high/a"), "a")
	write(t, m.path("beside/b"), "b")
	at := map[string]uint64{}
	for _, p := range []string{"high", "high/low", "high/low/deep", "beside"} {
		at[p] = node(in(p).Ino)
	}
	rename := func(od, a, nd, b string, flags uint32) {
		for _, r := range [][4]string{{od, a, nd, b}, {nd, b, od, a}} {
			in := fuse.RenameIn{InHeader: fuse.InHeader{NodeId: at[r[0]]}, Newdir: at[r[2]], Flags: flags}
			if st := m.f.Rename(nil, &in, r[1], r[3]); st != fuse.OK {
				t.Errorf("%s/%s to %s/%s: %v", r[0], r[1], r[2], r[3], st)
			}
		}
	}
	header := func(p string) *fuse.InHeader { return &fuse.InHeader{NodeId: at[p]} }
	acts := map[string]func(){
		"down": func() { rename("high", "a", "high/low", "a", 0) },
		"far":  func() { rename("beside", "b", "high/low/deep", "b", 0) },
		"swap": func() { rename("high", "f", "high", "low", unix.RENAME_EXCHANGE) },
		"rmdir low": func() {
			if st := m.f.Rmdir(nil, header("high"), "low"); st != fuse.Status(unix.ENOTEMPTY) && st != fuse.Status(unix.ENOTDIR) {
				t.Errorf("rmdir: %v", st)
			}
		},
		"rmdir f": func() {
			if st := m.f.Rmdir(nil, header("high/low"), "f"); st != fuse.Status(unix.ENOTDIR) {
				t.Errorf("rmdir of a file: %v", st)
			}
		},
	}
	end := time.Now().Add(time.Second)
	var wg sync.WaitGroup
	for _, act := range acts {
		wg.Go(func() {
			for time.Now().Before(end) {
				act()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		panic(fmt.Sprintf("%d kinds of requests wait for each other", len(acts))) // with the stacks of those that wait
	}
}
