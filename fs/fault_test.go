package fs

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"inlinefs/blockdev"
	"inlinefs/internal/testimage"
	"inlinefs/ondisk"
	"inlinefs/super"
)

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(d)
}

// TestNoLeaks: 10,000 opens leave as many goroutines, descriptors and inodes in core as before.
func TestNoLeaks(t *testing.T) {
	for _, mode := range []MmapMode{MmapCached, MmapObserve} {
		t.Run(string(mode), func(t *testing.T) {
			m := mount(t, plain(), Options{Mmap: mode})
			use := func(n int) {
				for k := range n {
					p := m.path(fmt.Sprint(k % 50))
					f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE, 0o644)
					must(t, err)
					if k%100 == 0 {
						_, err = f.WriteString("x")
						must(t, err)
					}
					must(t, f.Close())
					if k%500 == 0 {
						must(t, os.Remove(p))
					}
				}
			}
			use(200)
			goroutines, fds, inodes := runtime.NumGoroutine(), openFiles(t), m.f.inodes.Len()
			n := 10000
			if testing.Short() {
				n = 1000
			}
			use(n)
			// The answers of the last requests may still be on their way, and go-fuse keeps a few readers.
			soon(t, func() error {
				if g, f, i := runtime.NumGoroutine(), openFiles(t), m.f.inodes.Len(); g > goroutines+8 || f > fds || i > inodes+2 {
					return fmt.Errorf("goroutines %d, descriptors %d, inodes %d; before %d %d %d", g, f, i, goroutines, fds, inodes)
				}
				return nil
			})
		})
	}
}

// soon waits, at most half a minute, until cond holds.
func soon(t *testing.T, cond func() error) {
	t.Helper()
	var err error
	for range 300 {
		if err = cond(); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Error(err)
}

// TestMountLeavesNothing: a mount that ends takes its goroutines and descriptors along.
func TestMountLeavesNothing(t *testing.T) {
	testimage.FuseUsable(t)
	img := testimage.Make(t, plain())
	remount(t, img).unmount()
	goroutines, fds := runtime.NumGoroutine(), openFiles(t)
	for k := range 5 {
		m := mountConfig(t, config{img: img, fs: Options{Mmap: []MmapMode{MmapCached, MmapObserve}[k%2]}})
		write(t, m.path("f"), pattern(k*100, k))
		m.unmount()
	}
	soon(t, func() error {
		if g, f := runtime.NumGoroutine(), openFiles(t); g > goroutines || f > fds {
			return fmt.Errorf("goroutines %d, descriptors %d; before %d %d", g, f, goroutines, fds)
		}
		return nil
	})
}

// faulty mounts an image above a device that fails by rule; errs is what errors= says.
func faulty(t *testing.T, o testimage.Options, errs uint16) (*mounted, *blockdev.Faulty) {
	t.Helper()
	testimage.FuseUsable(t)
	var dev *blockdev.Faulty
	m := mountConfig(t, config{img: testimage.Make(t, o), broken: true, super: super.Options{Errors: errs},
		wrap: func(d blockdev.Device) blockdev.Device { dev = blockdev.NewFaulty(d); return dev }})
	return m, dev
}

// TestWriteErrors: with every write failing, callers get EIO or EROFS and nothing hangs; with the device well again a mount that goes on
// goes on.
func TestWriteErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		o      testimage.Options
		errors uint16
	}{
		{"plain-continue", plain(), ondisk.ErrorsContinue}, {"plain-remount-ro", plain(), ondisk.ErrorsRO},
		{"journal-continue", journalled(), ondisk.ErrorsContinue}, {"journal-remount-ro", journalled(), ondisk.ErrorsRO},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, dev := faulty(t, c.o, c.errors)
			write(t, m.path("before"), pattern(100, 1))
			write(t, m.path("large"), pattern(10000, 1))
			dev.Add(blockdev.Rule{Op: blockdev.OpWrite, Err: syscall.EIO})
			f, err := os.OpenFile(m.path("large"), os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt([]byte(pattern(8192, 2)), 0)
			if err == nil {
				err = f.Sync()
			}
			if !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.EROFS) {
				t.Errorf("write and fsync on a dead device: %v", err)
			}
			err = f.Sync()
			if err == nil && c.errors == ondisk.ErrorsRO {
				err = os.WriteFile(m.path("after"), []byte("x"), 0o644)
			}
			if !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.EROFS) {
				t.Errorf("afterwards: %v, want EIO or EROFS", err)
			}
			must(t, f.Close())
			if c.errors == ondisk.ErrorsRO && !m.f.fs.ReadOnly() {
				t.Error("errors=remount-ro did not")
			}
			if got := read(t, m.path("before")); got != pattern(100, 1) {
				t.Errorf("content %q", got)
			}
			dev.Clear()
			if c.errors == ondisk.ErrorsContinue && m.f.fs.Journal.Aborted() == nil {
				want(t, "a write on the device well again", os.WriteFile(m.path("again"), []byte("x"), 0o644), 0)
			}
			m.unmount()
		})
	}
}

// TestReadErrors: what cannot be read is EIO to its reader, the rest is served.
func TestReadErrors(t *testing.T) {
	testimage.FuseUsable(t)
	img := testimage.Make(t, plain())
	first := mountConfig(t, config{img: img, broken: true}) // the errors to come are recorded in the image
	write(t, first.path("good"), pattern(100, 1))
	write(t, first.path("bad"), pattern(10000, 1))
	first.finish()
	first.c.broken = true // from here on
	var dev *blockdev.Faulty
	m := mountConfig(t, config{img: img, broken: true, super: super.Options{Errors: ondisk.ErrorsContinue},
		wrap: func(d blockdev.Device) blockdev.Device { dev = blockdev.NewFaulty(d); return dev }})
	read(t, m.path("good"))
	stat(t, m.path("bad"))
	dev.Add(blockdev.Rule{Op: blockdev.OpRead, Err: syscall.EIO})
	_, err := os.ReadFile(m.path("bad"))
	want(t, "read of a bad file", err, syscall.EIO)
	if got := read(t, m.path("good")); got != pattern(100, 1) {
		t.Errorf("content %q", got)
	}
	dev.Clear()
	if got := read(t, m.path("bad")); got != pattern(10000, 1) {
		t.Errorf("after the device is well again: %d bytes", len(got))
	}
	m.unmount()
}

// TestEveryWriteFails fails the nth write and each after it, for n up to a few hundred: the mount survives all of them, and what can be
// mounted afterwards can be walked.
func TestEveryWriteFails(t *testing.T) {
	step := 7
	if testing.Short() {
		step = 41
	}
	for n := 1; n < 120; n += step {
		m, dev := faulty(t, plain(), ondisk.ErrorsRO)
		dev.Add(blockdev.Rule{Op: blockdev.OpWrite, Nth: n, From: true, Err: syscall.EIO})
		for k := range 30 {
			// Any outcome but a hang or a panic.
			_ = os.Mkdir(m.path(fmt.Sprint("d", k)), 0o755)
			_ = os.WriteFile(m.path(fmt.Sprint("d", k), "f"), []byte(pattern(k*200, k)), 0o644)
			if k%3 == 0 {
				_ = os.RemoveAll(m.path(fmt.Sprint("d", k)))
			}
			if f, err := os.Open(m.dir); err == nil {
				_ = f.Sync()
				_ = f.Close()
			}
		}
		m.finish()
	}
}

// TestDamagedImages mounts images with random bytes in their metadata. Each is refused or can be walked and written to without a panic,
// and no request takes long.
func TestDamagedImages(t *testing.T) {
	testimage.FuseUsable(t)
	seed, count := uint64(7), 60
	if testing.Short() {
		count = 10
	}
	t.Logf("seed %d", seed)
	for _, o := range []testimage.Options{plain(), journalled()} {
		o.SizeMiB = 16
		master := testimage.Make(t, o)
		m := remount(t, master)
		for k := range 30 {
			d := m.path(fmt.Sprintf("d%d", k%6))
			_ = os.Mkdir(d, 0o755)
			write(t, filepath.Join(d, fmt.Sprint("f", k)), pattern(k*k*20, k))
			must(t, os.Symlink(pattern(k*5+1, k), filepath.Join(d, fmt.Sprint("l", k))))
			must(t, unix.Setxattr(filepath.Join(d, fmt.Sprint("f", k)), "user.a", []byte(pattern(k*10, k)), 0))
		}
		for k := range 200 {
			write(t, m.path("d0", fmt.Sprintf("filler-with-a-long-name-%d", k)), "")
		}
		m.unmount()
		for k := range count / 2 {
			rng := rand.New(rand.NewPCG(seed, uint64(k)))
			img := testimage.Copy(t, master)
			areas := []testimage.Area{testimage.Superblock, testimage.Descriptors, testimage.InodeTable, testimage.Directories,
				testimage.Bitmaps, testimage.AllAreas}[k%6]
			said := testimage.Damage(t, img, rng, 1+rng.IntN(60), areas)
			if !survives(t, img) {
				t.Errorf("image %d of seed %d: %s", k, seed, said)
			}
			must(t, os.Remove(img))
		}
	}
}

// slow is the longest that any request may take; the machine may be busy.
const slow = 10 * time.Second

// survives mounts a damaged image, walks it and writes to it.
func survives(t *testing.T, img string) bool {
	t.Helper()
	m, err := tryMount(t, config{img: img, broken: true, super: super.Options{Errors: ondisk.ErrorsContinue}})
	if err != nil {
		return !strings.Contains(err.Error(), "panic") // refused, with reasons
	}
	var longest time.Duration
	var what string
	timed := func(op string, fn func()) {
		start := time.Now()
		fn()
		if d := time.Since(start); d > longest {
			longest, what = d, op
		}
	}
	visited := 0
	var walk func(dir string, depth int)
	walk = func(dir string, depth int) {
		var names []os.DirEntry
		timed("readdir", func() { names, _ = os.ReadDir(dir) })
		for _, e := range names {
			if visited++; visited > 5000 || depth > 20 {
				return
			}
			p := filepath.Join(dir, e.Name())
			timed("visit", func() { visit(p) })
			if e.IsDir() {
				walk(p, depth+1)
			}
		}
	}
	walk(m.dir, 0)
	timed("change", func() {
		_ = os.WriteFile(m.path("new"), []byte(pattern(9000, 1)), 0o644)
		_ = os.Mkdir(m.path("newdir"), 0o755)
		_ = os.Rename(m.path("d1"), m.path("newdir/d1"))
		_ = os.RemoveAll(m.path("d0"))
		_ = os.Truncate(m.path("d2/f8"), 3)
	})
	m.unmount()
	if longest > slow {
		t.Errorf("%s took %v", what, longest)
	}
	panics := m.log.find("panic")
	for _, l := range panics {
		t.Error(l)
	}
	return longest <= slow && len(panics) == 0
}

// visit reads what there is of a file, whatever it is.
func visit(p string) {
	var st unix.Stat_t
	if unix.Lstat(p, &st) != nil {
		return
	}
	buf := make([]byte, 65536)
	_, _ = unix.Llistxattr(p, buf)
	_, _ = unix.Lgetxattr(p, "user.a", buf)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		_, _ = os.Readlink(p)
	case unix.S_IFREG:
		if f, err := os.Open(p); err == nil {
			_, _ = f.Read(buf)
			_, _ = f.ReadAt(buf, max(st.Size-100, 0))
			_ = f.Close()
		}
	}
}
