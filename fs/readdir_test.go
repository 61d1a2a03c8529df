package fs

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"inlinefs/internal/testimage"
	"inlinefs/ondisk"
)

// TestDirGrowth takes a directory from its inode to blocks to an index, and back to nothing.
func TestDirGrowth(t *testing.T) {
	n := 5000
	if testing.Short() {
		n = 700
	}
	for _, name := range []string{"b4096-i256", "b1024-i256", "no-dir-index", "ext2-like"} {
		t.Run(name, func(t *testing.T) {
			if n := n; name == "no-dir-index" || name == "ext2-like" {
				n = min(n, 1500) // each name is looked for in every block
				growDir(t, shape(t, name), n)
				return
			}
			growDir(t, shape(t, name), n)
		})
	}
}

func shape(t *testing.T, name string) testimage.Options {
	t.Helper()
	for _, s := range testimage.Shapes() {
		if s.Name == name {
			s.Options.Inodes, s.Options.SizeMiB = 8192, 48
			return s.Options
		}
	}
	t.Fatalf("no shape %q", name)
	return testimage.Options{}
}

func growDir(t *testing.T, o testimage.Options, n int) {
	m := mount(t, o, Options{})
	must(t, os.Mkdir(m.path("d"), 0o755))
	name := func(k int) string { return fmt.Sprintf("entry-%06d-%s", k, strings.Repeat("x", k%40)) }
	for k := range n {
		if k%10 == 0 {
			must(t, os.Mkdir(m.path("d", name(k)), 0o755))
			continue
		}
		fd, err := unix.Open(m.path("d", name(k)), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
		must(t, err)
		must(t, unix.Close(fd))
	}
	check := func(m *mounted, have func(int) bool) {
		t.Helper()
		seen := map[string]bool{}
		names, err := os.ReadDir(m.path("d"))
		must(t, err)
		for _, e := range names {
			if seen[e.Name()] {
				t.Errorf("%s twice", e.Name())
			}
			seen[e.Name()] = true
		}
		for k := range n {
			if seen[name(k)] != have(k) {
				t.Fatalf("%s listed: %v, want %v (%d names listed)", name(k), seen[name(k)], have(k), len(seen))
			}
			var st unix.Stat_t
			if err := unix.Lstat(m.path("d", name(k)), &st); (err == nil) != have(k) {
				t.Fatalf("%s found: %v, want %v", name(k), err, have(k))
			}
		}
	}
	check(m, func(int) bool { return true })
	m.unmount()
	sound(t, m.c.img, false)
	again := remount(t, m.c.img)
	check(again, func(int) bool { return true })
	for k := range n {
		if k%3 != 0 {
			must(t, os.Remove(again.path("d", name(k))))
		}
	}
	check(again, func(k int) bool { return k%3 == 0 })
	again.unmount()
	sound(t, m.c.img, false)
	last := remount(t, m.c.img)
	must(t, os.RemoveAll(last.path("d")))
}

// TestReaddirWhileChanging: a name that is there from beginning to end is listed once, whatever comes and goes meanwhile.
func TestReaddirWhileChanging(t *testing.T) {
	seed := uint64(os.Getpid())
	for _, base := range []int{3, 60, 1000} {
		t.Run(fmt.Sprint(base), func(t *testing.T) {
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, uint64(base)))
			o := plain()
			o.Inodes, o.SizeMiB = 4096, 32
			m := mount(t, o, Options{})
			must(t, os.Mkdir(m.path("d"), 0o755))
			for k := range base {
				write(t, m.path("d", fmt.Sprintf("stable-%d", k)), "")
				write(t, m.path("d", fmt.Sprintf("old-%d", k)), "")
			}
			fd, err := unix.Open(m.path("d"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
			must(t, err)
			defer unix.Close(fd)
			seen := map[string]int{}
			buf := make([]byte, 300) // a few names at a time
			for step := 0; ; step++ {
				n, err := unix.Getdents(fd, buf)
				must(t, err)
				if n == 0 {
					break
				}
				_, _, names := unix.ParseDirent(buf[:n], -1, nil)
				for _, s := range names {
					seen[s]++
				}
				k := rng.IntN(base)
				_ = os.Remove(m.path("d", fmt.Sprintf("old-%d", k))) // gone already, perhaps
				write(t, m.path("d", fmt.Sprintf("new-%d", step)), "")
			}
			for k := range base {
				if s := fmt.Sprintf("stable-%d", k); seen[s] != 1 {
					t.Errorf("%s listed %d times", s, seen[s])
				}
			}
		})
	}
}

// TestReaddirResumesAnywhere goes back to the start after each step, then on from where it was.
func TestReaddirResumesAnywhere(t *testing.T) {
	m := mount(t, plain(), Options{})
	must(t, os.Mkdir(m.path("d"), 0o755))
	for k := range 300 {
		write(t, m.path("d", fmt.Sprint(k)), "")
	}
	fd, err := unix.Open(m.path("d"), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	defer unix.Close(fd)
	buf := make([]byte, 64)
	seen := map[string]int{}
	for {
		n, err := unix.Getdents(fd, buf)
		must(t, err)
		if n == 0 {
			break
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, s := range names {
			seen[s]++
		}
		at, err := unix.Seek(fd, 0, unix.SEEK_CUR)
		must(t, err)
		_, err = unix.Seek(fd, 0, unix.SEEK_SET)
		must(t, err)
		_, err = unix.Getdents(fd, buf)
		must(t, err)
		_, err = unix.Seek(fd, at, unix.SEEK_SET)
		must(t, err)
	}
	if len(seen) != 300 {
		t.Errorf("%d names, want 300", len(seen))
	}
	for s, n := range seen {
		if n != 1 {
			t.Errorf("%s listed %d times", s, n)
		}
	}
	if st := stat(t, m.path("d/7")); st.Mode&ondisk.ModeFmt != unix.S_IFREG {
		t.Errorf("mode %o", st.Mode)
	}
}
