package fs

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"inlinefs/blockdev"
	"inlinefs/internal/testimage"
	"inlinefs/ondisk"
	"inlinefs/ondisk/jbd2"
	"inlinefs/super"
)

// guard fails the test with every goroutine's stack when fn does not end: a request hangs.
func guard(t *testing.T, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-done:
	case <-time.After(2 * time.Minute):
		buf := make([]byte, 1<<20)
		t.Fatalf("no end in sight\n%s", buf[:runtime.Stack(buf, true)])
	}
}

// ioCase is one way of failing requests of the device.
type ioCase struct {
	name   string
	rule   func(img string, t *testing.T) blockdev.Rule
	errors uint16
}

// anyRule is a rule that does not depend on the image.
func anyRule(r blockdev.Rule) func(string, *testing.T) blockdev.Rule {
	return func(string, *testing.T) blockdev.Rule { return r }
}

// region is the rule for writes to some blocks.
func region(where func(l *logImage, sb ondisk.Super) (first, last uint64)) func(string, *testing.T) blockdev.Rule {
	return func(img string, t *testing.T) blockdev.Rule {
		l := logOf(t, img)
		a, b := where(l, superblock(t, img))
		return blockdev.Rule{Op: blockdev.OpWrite, Start: int64(a) * int64(l.bs), End: int64(b+1) * int64(l.bs), Err: syscall.EIO}
	}
}

func ioCases() []ioCase {
	var out []ioCase
	for _, n := range []int{1, 2, 3, 4, 5, 7, 10, 14, 19, 27, 38, 55} {
		for _, from := range []bool{false, true} {
			out = append(out, ioCase{fmt.Sprintf("write %d, all after it %v", n, from),
				anyRule(blockdev.Rule{Op: blockdev.OpWrite, Nth: n, From: from, Err: syscall.EIO}), ondisk.ErrorsRO})
		}
	}
	for _, n := range []int{1, 2, 3, 4, 6, 9, 20} {
		out = append(out, ioCase{fmt.Sprintf("flush %d", n), anyRule(blockdev.Rule{Op: blockdev.OpFlush, Nth: n, Err: syscall.EIO}), ondisk.ErrorsContinue})
		out = append(out, ioCase{fmt.Sprintf("flushes from %d", n), anyRule(blockdev.Rule{Op: blockdev.OpFlush, Nth: n, From: true, Err: syscall.EIO}), ondisk.ErrorsRO})
	}
	return append(out,
		ioCase{"the log", region(func(l *logImage, _ ondisk.Super) (uint64, uint64) { return l.blocks[4], l.blocks[40] }), ondisk.ErrorsContinue},
		ioCase{"the log's superblock", region(func(l *logImage, _ ondisk.Super) (uint64, uint64) { return l.blocks[0], l.blocks[0] }), ondisk.ErrorsRO},
		ioCase{"the superblock", region(func(*logImage, ondisk.Super) (uint64, uint64) { return 0, 0 }), ondisk.ErrorsContinue},
		ioCase{"all metadata in place", region(func(_ *logImage, _ ondisk.Super) (uint64, uint64) { return 1, 80 }), ondisk.ErrorsContinue},
		ioCase{"file data", region(func(l *logImage, sb ondisk.Super) (uint64, uint64) {
			return l.blocks[len(l.blocks)-1] + 1, sb.BlocksCount() - 1
		}), ondisk.ErrorsContinue},
		ioCase{"no space below", anyRule(blockdev.Rule{Op: blockdev.OpWrite, Nth: 30, From: true, Err: syscall.ENOSPC}), ondisk.ErrorsContinue},
	)
}

// ackLoad makes files and returns those whose fsync said that they are durable. refused is the first error.
func ackLoad(dir string, round int) (acked map[string]string, refused error) {
	acked = map[string]string{}
	note := func(err error) {
		if err != nil && refused == nil {
			refused = err
		}
	}
	for k := range 40 {
		name := fmt.Sprintf("f%d-%d", round, k)
		content := pattern([]int{20, 100, 400, 9000, 200000}[k%5], k)
		err := withFile(dir+"/"+name, unix.O_CREAT|unix.O_WRONLY, func(fd int) error {
			if _, err := unix.Write(fd, []byte(content)); err != nil {
				return err
			}
			return unix.Fsync(fd)
		})
		note(err)
		if err == nil {
			acked[name] = content
		}
		if k%4 == 3 {
			old := fmt.Sprintf("f%d-%d", round, k-2)
			if err := os.Remove(dir + "/" + old); err != nil {
				note(err)
			}
			delete(acked, old) // gone or not: both may be
		}
	}
	return acked, refused
}

// TestIOErrors fails requests of the device below a journalled mount. Callers hear of it (EIO, EROFS or ENOSPC), nothing hangs, an abort
// stands in both superblocks, and what fsync acknowledged is there when the image was recovered.
func TestIOErrors(t *testing.T) {
	testimage.FuseUsable(t)
	for k, c := range ioCases() {
		if testing.Short() && k%5 != 0 {
			continue
		}
		t.Run(c.name, func(t *testing.T) { guard(t, func() { ioError(t, c) }) })
	}
}

func ioError(t *testing.T, c ioCase) {
	img := testimage.Make(t, journalled())
	rule := c.rule(img, t)
	var dev *blockdev.Faulty
	m, err := tryMount(t, config{img: img, broken: true, fs: Options{Commit: time.Hour}, super: super.Options{Errors: c.errors},
		wrap: func(d blockdev.Device) blockdev.Device { dev = blockdev.NewFaulty(d); return dev }})
	if err != nil {
		t.Error(err)
		return
	}
	acked, refused := ackLoad(m.dir, 0)
	if refused != nil {
		t.Errorf("before anything failed: %v", refused)
	}
	dev.Add(rule)
	more, refused := ackLoad(m.dir, 1)
	for name, content := range more {
		acked[name] = content
	}
	if refused != nil && !errors.Is(refused, syscall.EIO) && !errors.Is(refused, syscall.EROFS) && !errors.Is(refused, syscall.ENOSPC) {
		t.Errorf("a caller got %v, want EIO, EROFS or ENOSPC", refused)
	}
	aborted := m.f.fs.Journal.Aborted()
	if aborted != nil {
		if refused == nil {
			t.Errorf("the journal is aborted (%v) and no caller heard of an error", aborted)
		}
		if err := os.WriteFile(m.path("late"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
			t.Errorf("create after the abort: %v, want EROFS", err)
		}
	}
	t.Logf("first error %v, abort %v, %d files acknowledged", refused, aborted, len(acked))
	dev.Clear() // a device that came back: the errors can be recorded
	m.unmount()
	if aborted != nil {
		recorded(t, img)
	}
	afterIOError(t, img, acked)
}

// recorded looks for the traces of an abort.
func recorded(t *testing.T, img string) {
	t.Helper()
	sb := superblock(t, img)
	if sb.ErrorCount() == 0 || sb.State()&ondisk.StateError == 0 {
		t.Errorf("superblock: s_error_count %d, s_state %#x, want an error", sb.ErrorCount(), sb.State())
	}
	if !sb.Incompat(ondisk.IncompatRecover) {
		t.Error("needs_recovery is not set after an abort")
	}
	js, err := jbd2.DecodeSuperblock(logOf(t, img).read(t, 0))
	if err != nil {
		t.Error(err)
		return
	}
	if js.Errno == 0 {
		t.Error("s_errno of the journal is 0")
	}
}

// afterIOError mounts the image again and looks for what was acknowledged.
func afterIOError(t *testing.T, img string, acked map[string]string) {
	t.Helper()
	had := superblock(t, img).ErrorCount()
	m, err := tryMount(t, config{img: img, broken: true})
	if err != nil {
		t.Errorf("mount afterwards: %v", err)
		return
	}
	for name, content := range acked {
		b, err := os.ReadFile(m.path(name))
		if err != nil || string(b) != content {
			t.Errorf("%s was acknowledged by fsync and has %d bytes, %v, want %d", name, len(b), err, len(content))
		}
	}
	if err := os.WriteFile(m.path("again"), []byte("again"), 0o644); err != nil {
		t.Errorf("write on the mount afterwards: %v", err)
	}
	m.unmount()
	if m.err != nil {
		t.Errorf("unmount afterwards: %v", m.err)
	}
	if n := superblock(t, img).ErrorCount(); n < had {
		t.Errorf("s_error_count %d after the recovery, it was %d", n, had)
	}
	if out, code := testimage.FsckOutput(img); code != 0 {
		t.Errorf("e2fsck -fn afterwards: exit %d\n%s", code, out)
	}
}
