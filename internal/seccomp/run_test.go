package seccomp

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"inlinefs/internal/control"
)

// hang is how long a test may take before it is a failure; nothing is measured by it.
const hang = 4 * time.Minute

// bench is a directory of files, and what was announced.
type bench struct {
	t    *testing.T
	dir  string
	opts Options
	out  bytes.Buffer

	mu    sync.Mutex
	inode map[uint64]int // guarded by mu; announcements of each inode
}

// newBench skips the test where there is no listener to be had.
func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), inode: map[uint64]int{}}
	m, err := control.MountOf(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	b.opts = Options{
		MountID: m.ID, Announce: b.record, Shim: []string{"/proc/self/exe", "exec-shim"}, Stdout: &b.out, Stderr: &b.out,
		Env: append(os.Environ(), "GORACE=atexit_sleep_ms=0"),
	}
	status, _, err := b.run("exit", "0")
	var le *ListenerError
	if errors.As(err, &le) {
		t.Skipf("no listener here: %v", err)
	}
	if status != 0 || err != nil {
		t.Fatalf("empty command: status %d, %v\n%s", status, err, &b.out)
	}
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Skipf("no pidfd here: %v", err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, 0, 0)
	if err != nil && !errors.Is(err, unix.EBADF) {
		t.Skipf("no pidfd_getfd here: %v", err)
	}
	if err == nil {
		unix.Close(fd)
	}
	return b
}

func (b *bench) record(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inode[st.Ino]++
	return nil
}

func (b *bench) run(args ...string) (int, Stats, error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), hang)
	defer cancel()
	o := b.opts
	if o.Argv == nil {
		o.Argv = append([]string{"/proc/self/exe", "helper"}, args...)
	}
	return Run(ctx, o)
}

// expect runs the helper and compares its exit status and the counts.
func (b *bench) expect(status int, announced, refused int64, args ...string) Stats {
	b.t.Helper()
	got, stats, err := b.run(args...)
	if err != nil || got != status {
		b.t.Fatalf("%v: status %d, error %v, want status %d\n%s", args, got, err, status, &b.out)
	}
	if stats.Announced != announced || stats.Refused != refused || stats.Unseen != 0 {
		b.t.Fatalf("%v: %+v, want %d announced, %d refused, 0 unseen", args, stats, announced, refused)
	}
	return stats
}

func (b *bench) file(name string) string {
	b.t.Helper()
	name = filepath.Join(b.dir, name)
	if err := os.WriteFile(name, make([]byte, mapSize), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return name
}

func (b *bench) announcedOf(name string) int {
	b.t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.inode[st.Ino]
}

func TestSharedMappingIsAnnounced(t *testing.T) {
	b := newBench(t)
	f, g := b.file("f"), b.file("g")
	stats := b.expect(0, 3, 0, "map", f, g, f)
	if stats.Notified != 3 {
		t.Errorf("%+v, want 3 notified", stats)
	}
	if b.announcedOf(f) != 2 || b.announcedOf(g) != 1 {
		t.Errorf("announced f %d times, g %d times, want 2 and 1", b.announcedOf(f), b.announcedOf(g))
	}
	if data, err := os.ReadFile(f); err != nil || data[0] != 'w' {
		t.Errorf("the mapping was not written through: %v", err)
	}
}

func TestOtherMappingsAreNot(t *testing.T) {
	b := newBench(t)
	f := b.file("f")
	if stats := b.expect(0, 0, 0, "private", f); stats.Notified != 0 {
		t.Errorf("private: %+v, want nothing notified", stats)
	}
	if stats := b.expect(0, 0, 0, "anonymous"); stats.Notified != 0 {
		t.Errorf("anonymous: %+v, want nothing notified", stats)
	}
	if stats := b.expect(0, 0, 0, "readonly", f); stats.Notified != 1 {
		t.Errorf("read only: %+v, want 1 notified", stats)
	}
	if stats := b.expect(int(unix.EBADF), 0, 0, "closed"); stats.Notified != 1 {
		t.Errorf("closed descriptor: %+v, want 1 notified", stats)
	}
	b.opts.MountID = -1
	if stats := b.expect(0, 0, 0, "map", f); stats.Notified != 1 {
		t.Errorf("another mount: %+v, want 1 notified", stats)
	}
}

func TestRefusalIsTheErrnoOfMmap(t *testing.T) {
	b := newBench(t)
	f := b.file("f")
	for _, c := range []struct {
		err  error
		want unix.Errno
	}{
		{unix.ENOSPC, unix.ENOSPC},
		{fmt.Errorf("inode 12: %w", unix.EUCLEAN), unix.EUCLEAN},
		{errors.New("no errno"), unix.EIO},
	} {
		b.opts.Announce = func(int) error { return c.err }
		b.expect(int(c.want), 0, 1, "map", f)
	}
	if data, err := os.ReadFile(f); err != nil || data[0] != 0 {
		t.Errorf("a refused mapping was written through: %v", err)
	}
}

func TestThreadsAndChildren(t *testing.T) {
	b := newBench(t)
	var names []string
	for i := range 8 {
		names = append(names, b.file(fmt.Sprint("f", i)))
	}
	for i, mode := range []string{"threads", "child", "grandchild"} {
		b.expect(0, int64(len(names)), 0, append([]string{mode}, names...)...)
		for _, n := range names {
			if b.announcedOf(n) != i+1 {
				t.Errorf("%s: %s announced %d times, want %d", mode, n, b.announcedOf(n), i+1)
			}
		}
	}
	b.opts.Announce = func(int) error { return unix.ENOSPC }
	b.expect(int(unix.ENOSPC), 0, 1, "grandchild", names[0])
}

// TestBlockedAnnouncement: the announcement of one file waits for that of the other one.
func TestBlockedAnnouncement(t *testing.T) {
	b := newBench(t)
	f, g := b.file("f"), b.file("g")
	var st unix.Stat_t
	if err := unix.Stat(f, &st); err != nil {
		t.Fatal(err)
	}
	other := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	b.opts.Announce = func(fd int) error {
		var now unix.Stat_t
		if err := unix.Fstat(fd, &now); err != nil {
			return err
		}
		if now.Ino != st.Ino {
			close(other)
			return nil
		}
		select {
		case <-other:
			return nil
		case <-ctx.Done():
			return unix.ETIMEDOUT
		}
	}
	b.expect(0, 2, 0, "threads", f, g)
}

func TestOrphanIsWaitedFor(t *testing.T) {
	b := newBench(t)
	b.opts.Reap = true
	defer func() {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
			t.Error(err)
		}
	}()
	out, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	b.opts.Stdout, b.opts.Stderr = out, out
	f := b.file("f")
	b.expect(5, 1, 0, "orphan", f)
	if b.announcedOf(f) != 1 {
		t.Errorf("announced %d times, want 1", b.announcedOf(f))
	}
}

func TestOtherMountNamespace(t *testing.T) {
	b := newBench(t)
	m, err := control.MountOf(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	f := b.file("f")
	b.opts.MountID, b.opts.MountDev = -1, m.Dev
	b.expect(0, 1, 0, "map", f)
	b.opts.MountID = m.ID
	status, stats, err := b.run("newns", f)
	if status == 93 {
		t.Skipf("no new mount namespace here: %s", &b.out)
	}
	if status != 0 || err != nil || stats.Announced != 1 {
		t.Errorf("status %d, %+v, %v, want 1 announced\n%s", status, stats, err, &b.out)
	}
}

func TestExitStatus(t *testing.T) {
	b := newBench(t)
	b.expect(0, 0, 0, "exit", "0")
	b.expect(42, 0, 0, "exit", "42")
	b.expect(StatusSignal+int(unix.SIGKILL), 0, 0, "kill")
}

func TestCommandThatCannotRun(t *testing.T) {
	b := newBench(t)
	garbage, script, plain := b.file("garbage"), b.file("script"), b.file("plain")
	if err := os.WriteFile(script, []byte("#!/nonexistent/shell\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{garbage, script} {
		if err := os.Chmod(name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		want int
		text string
	}{
		{"/nonexistent/command", StatusNotFound, "not found"},
		{"no-such-command-in-path", StatusNotFound, "not found"},
		{filepath.Join(plain, "below"), StatusNotFound, "not found"},
		{plain, StatusNotExecutable, "permission denied"},
		{b.dir, StatusNotExecutable, "directory"},
		{garbage, StatusNotExecutable, "exec format error"},
		{script, StatusNotExecutable, "no such file"},
	} {
		b.opts.Argv = []string{c.name}
		status, _, err := b.run()
		if status != c.want || err == nil || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), c.name) {
			t.Errorf("%s: status %d, error %v, want %d with %q", c.name, status, err, c.want, c.text)
		}
	}
}

func TestSecondListener(t *testing.T) {
	b := newBench(t)
	b.expect(int(unix.EBUSY), 0, 0, "nested")
	if !strings.Contains(b.out.String(), "another seccomp listener") {
		t.Errorf("error of the inner one: %s", &b.out)
	}
}

func TestListenerError(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.EBUSY: "EBUSY", unix.ENOSYS: "ENOSYS", unix.EINVAL: "user notification", unix.EPERM: "forbidden",
	} {
		err := error(&ListenerError{errno})
		if !strings.Contains(err.Error(), want) || !errors.Is(err, errno) {
			t.Errorf("%d: %v, want %q", errno, err, want)
		}
	}
}

// readyPipe makes the command's output a pipe and calls f when the command has said that it is ready.
func (b *bench) readyPipe(f func()) (done chan struct{}) {
	r, w := io.Pipe()
	b.t.Cleanup(func() { w.Close() })
	b.opts.Stdout = w
	done = make(chan struct{})
	go func() {
		defer close(done)
		line, err := bufio.NewReader(r).ReadString('\n')
		if err != nil || line != "ready\n" {
			b.t.Errorf("output %q, %v, want ready", line, err)
			return
		}
		f()
		_, _ = io.Copy(io.Discard, r)
	}()
	return done
}

func TestSignalIsPassedOn(t *testing.T) {
	b := newBench(t)
	guard := make(chan os.Signal, 1)
	signal.Notify(guard, unix.SIGTERM)
	defer signal.Stop(guard)
	b.readyPipe(func() {
		if err := unix.Kill(os.Getpid(), unix.SIGTERM); err != nil {
			t.Error(err)
		}
	})
	b.expect(7, 0, 0, "term")
}

func TestContextKillsTheCommand(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	b.readyPipe(cancel)
	b.opts.Argv = []string{"/proc/self/exe", "helper", "term"}
	status, _, err := Run(ctx, b.opts)
	if status != StatusSignal+int(unix.SIGKILL) || !errors.Is(err, context.Canceled) {
		t.Errorf("status %d, %v, want killed and canceled", status, err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	if status, _, err := Run(t.Context(), Options{Argv: []string{"true"}}); status != StatusFailed || err == nil {
		t.Errorf("no shim, no announcement: status %d, %v", status, err)
	}
	if err := ShimMain([]string{"/bin/true"}); err == nil || errors.Is(err, ErrTold) {
		t.Errorf("shim without argv: %v", err)
	}
	if _, err := parseTgid("status", "Name:\tx\nTgid:\t12\n"); err != nil {
		t.Error(err)
	}
	if _, err := parseTgid("status", "Name:\tx\n"); err == nil {
		t.Error("status without Tgid is accepted")
	}
}
