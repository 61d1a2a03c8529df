package fs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"inlinefs/blockdev"
	"inlinefs/internal/testimage"
	"inlinefs/super"
)

// way is one of the ways to make a change durable; do makes the file p with the content.
type way struct {
	name  string
	super super.Options
	do    func(p, content string) error
	// lost says that the change need not be, and is not, on the device.
	lost bool
	// nameOnly says that the file must be there, whatever its content.
	nameOnly bool
}

// put makes a file with open flags besides, and calls after before the close.
func put(flags int, after func(fd int) error) func(p, content string) error {
	return func(p, content string) error {
		return withFile(p, unix.O_CREAT|unix.O_WRONLY|flags, func(fd int) error {
			if _, err := unix.Write(fd, []byte(content)); err != nil {
				return err
			}
			if after == nil {
				return nil
			}
			return after(fd)
		})
	}
}

func ways() []way {
	return []way{
		{name: "nothing", do: put(0, nil), lost: true},
		{name: "fsync", do: put(0, unix.Fsync)},
		{name: "fdatasync", do: put(0, unix.Fdatasync)},
		{name: "O_SYNC", do: put(unix.O_SYNC, nil)},
		{name: "O_DSYNC", do: put(unix.O_DSYNC, nil)},
		{name: "mount option sync", super: super.Options{Sync: true}, do: put(0, nil)},
		{name: "mount option dirsync", super: super.Options{DirSync: true}, do: put(0, nil), nameOnly: true},
		{name: "fsync of the directory", do: func(p, content string) error {
			if err := put(0, nil)(p, content); err != nil {
				return err
			}
			return withFile(filepath.Dir(p), unix.O_RDONLY|unix.O_DIRECTORY, unix.Fsync)
		}, nameOnly: true},
		{name: "rename and fsync", do: func(p, content string) error {
			if err := put(0, nil)(p+"-old", content); err != nil {
				return err
			}
			return errors.Join(os.Rename(p+"-old", p), withFile(p, unix.O_RDONLY, unix.Fsync))
		}},
	}
}

// afterKill is the image as the death of the daemon at this moment leaves it.
func afterKill(t *testing.T, img string) string {
	t.Helper()
	b, err := os.ReadFile(img)
	must(t, err)
	to := filepath.Join(t.TempDir(), "killed.ext4")
	must(t, os.WriteFile(to, b, 0o600))
	return to
}

// TestDurable makes files durable by each of the ways there are, and looks for them in the image as a kill of the daemon leaves it.
func TestDurable(t *testing.T) {
	testimage.FuseUsable(t)
	for _, w := range ways() {
		t.Run(w.name, func(t *testing.T) {
			var dev *blockdev.Faulty
			m := mountConfig(t, config{img: testimage.Make(t, journalled()), super: w.super, fs: Options{Commit: time.Hour},
				wrap: func(d blockdev.Device) blockdev.Device { dev = blockdev.NewFaulty(d); return dev }})
			for k, n := range []int{10, 100, 300, 5000, 100000} {
				name := fmt.Sprint("f", k)
				flushes := dev.Count(blockdev.OpFlush)
				must(t, w.do(m.path(name), pattern(n, k)))
				if !w.lost && dev.Count(blockdev.OpFlush) == flushes {
					t.Errorf("%d bytes: the device was not flushed", n)
				}
				after := mountConfig(t, config{img: afterKill(t, m.c.img), killed: true})
				b, err := os.ReadFile(after.path(name))
				switch {
				case w.lost:
					want(t, "a file that was not synced", err, unix.ENOENT)
				case err != nil:
					t.Errorf("%d bytes: %v", n, err)
				case !w.nameOnly && string(b) != pattern(n, k):
					t.Errorf("%d bytes: the file has %d", n, len(b))
				}
				after.finish()
			}
			m.finish()
		})
	}
}

// TestCommitInterval: what is not synced is on the device when the interval has passed, and an hour's interval does not pass.
func TestCommitInterval(t *testing.T) {
	testimage.FuseUsable(t)
	m := mountConfig(t, config{img: testimage.Make(t, journalled()), fs: Options{Commit: 10 * time.Millisecond}})
	write(t, m.path("f"), pattern(100, 1))
	soon(t, func() error {
		after := mountConfig(t, config{img: afterKill(t, m.c.img), killed: true})
		defer after.finish()
		b, err := os.ReadFile(after.path("f"))
		if err == nil && string(b) != pattern(100, 1) {
			err = fmt.Errorf("%d bytes, want 100", len(b))
		}
		return err
	})
	m.finish()
}

// TestReadOnlyDirty: a dirty image in a file that may not be written is mounted read-only with its journal replayed in memory, and is
// the same afterwards.
func TestReadOnlyDirty(t *testing.T) {
	testimage.FuseUsable(t)
	m := mountConfig(t, config{img: testimage.Make(t, journalled()), fs: Options{Commit: time.Hour}})
	must(t, put(0, unix.Fsync)(m.path("synced"), pattern(3000, 1)))
	write(t, m.path("not-synced"), "x")
	img := afterKill(t, m.c.img)
	m.finish()
	must(t, os.Chmod(img, 0o400))
	before, err := os.ReadFile(img)
	must(t, err)
	ro := mountConfig(t, config{img: img, broken: true, super: super.Options{ReadOnly: true}})
	if got := read(t, ro.path("synced")); got != pattern(3000, 1) {
		t.Errorf("synced file has %d bytes", len(got))
	}
	_, err = os.Stat(ro.path("not-synced"))
	want(t, "the file that was not synced", err, unix.ENOENT)
	want(t, "create", os.Mkdir(ro.path("d"), 0o755), unix.EROFS)
	ro.unmount()
	if ro.err != nil {
		t.Error(ro.err)
	}
	same(t, "a read-only mount", img, before)
}
