package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"inlinefs/blockdev"
	"inlinefs/check"
	"inlinefs/internal/event"
	"inlinefs/internal/testimage"
	"inlinefs/super"
)

// roleEnv makes the test binary play another part: a mapping client, or a daemon that is going to be killed.
const roleEnv = "INLINEFS_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "client":
		os.Exit(clientMain(os.Stdin, os.Stdout))
	case "daemon":
		os.Exit(daemonMain(os.Args[1], os.Args[2]))
	}
	os.Exit(m.Run())
}

// plain are image options without a journal, of the default shape.
func plain() testimage.Options {
	return testimage.Options{BlockSize: 4096, InodeSize: 256, Inodes: 1024, Features: "inline_data,metadata_csum,64bit,^has_journal"}
}

// journalled are image options with a journal.
func journalled() testimage.Options {
	return testimage.Options{SizeMiB: 32, BlockSize: 4096, InodeSize: 256, Inodes: 1024, Features: "inline_data,metadata_csum,64bit,has_journal"}
}

// record is a slog.Handler that keeps what a mount said.
type record struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

func (r *record) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (r *record) WithAttrs([]slog.Attr) slog.Handler           { return r }
func (r *record) WithGroup(string) slog.Handler                { return r }

func (r *record) Handle(_ context.Context, rec slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", rec.Level, rec.Message)
	rec.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&b, " %s=%v", a.Key, a.Value); return true })
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lines) < 500 {
		r.lines = append(r.lines, b.String())
	}
	return nil
}

// find returns the lines that contain s.
func (r *record) find(s string) (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lines {
		if strings.Contains(l, s) {
			out = append(out, l)
		}
	}
	return out
}

// config of a test mount; the zero value with an image is an ordinary one.
type config struct {
	img    string
	fs     Options
	super  super.Options
	mount  MountOptions
	wrap   func(blockdev.Device) blockdev.Device // puts something between image and file system
	broken bool                                  // errors and violations are expected; the image is not checked afterwards
	races  bool                                  // violations are expected, a sound image all the same
	killed bool                                  // an earlier mount was killed: without a journal, s_state says so until e2fsck ran
}

// mounted is an image mounted by this process.
type mounted struct {
	t      testing.TB
	c      config
	dir    string
	f      *FileSystem
	dev    blockdev.Device
	server *fuse.Server
	log    *record
	down   bool
	err    error // of Stop and Close
}

// path is a path below the mount point.
func (m *mounted) path(elem ...string) string {
	return filepath.Join(append([]string{m.dir}, elem...)...)
}

// mount makes an image of the given options and mounts it. At the end of the test it is unmounted and checked.
func mount(t testing.TB, o testimage.Options, fo Options) *mounted {
	t.Helper()
	testimage.FuseUsable(t)
	return mountConfig(t, config{img: testimage.Make(t, o), fs: fo})
}

// remount mounts an image that exists.
func remount(t testing.TB, img string) *mounted {
	t.Helper()
	return mountConfig(t, config{img: img})
}

func mountConfig(t testing.TB, c config) *mounted {
	t.Helper()
	m, err := tryMount(t, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range m.f.fs.Notices {
		if strings.Contains(n, "mounted read-only") && !c.super.ReadOnly && !c.broken {
			t.Skipf("this image can only be read: %s", n)
		}
	}
	return m
}

// tryMount mounts, or returns why that was refused.
func tryMount(t testing.TB, c config) (*mounted, error) {
	t.Helper()
	testimage.FuseUsable(t)
	file, err := blockdev.OpenFile(c.img, blockdev.FileOptions{ReadOnly: c.super.ReadOnly})
	if err != nil {
		return nil, err
	}
	m := &mounted{t: t, c: c, dir: t.TempDir(), dev: file, log: &record{}}
	if c.wrap != nil {
		m.dev = c.wrap(file)
	}
	m.f, m.server, err = start(m.dev, m.dir, slog.New(m.log), c)
	if err != nil {
		return nil, errors.Join(err, m.dev.Close())
	}
	t.Cleanup(m.finish)
	return m, nil
}

// start brings a file system up as the mount command does.
func start(dev blockdev.Device, dir string, log *slog.Logger, c config) (*FileSystem, *fuse.Server, error) {
	c.super.Log, c.fs.Log = log, log
	if c.fs.Mmap == "" {
		c.fs.Mmap = MmapCached
	}
	if c.super.Strategy = c.fs.Strategy; c.super.Strategy == "" {
		c.super.Strategy = DefaultStrategy()
	}
	if !c.super.NoRecovery {
		var err error
		if dev, err = Recover(dev, c.super.ReadOnly, log); err != nil {
			return nil, nil, err
		}
	}
	var f *FileSystem
	c.super.Events = func(ino uint64) []event.Event { return f.EventsOf(ino) }
	s, err := super.Open(dev, c.super)
	if err != nil {
		return nil, nil, err
	}
	f, err = New(s, c.fs)
	if err != nil {
		return nil, nil, err
	}
	if err := f.Start(); err != nil {
		return nil, nil, errors.Join(err, f.Stop())
	}
	if c.mount.Source = "test"; s.ReadOnly() {
		c.mount.Extra = append(c.mount.Extra, "ro")
	}
	server, err := f.Serve(dir, c.mount)
	if err != nil {
		return nil, nil, errors.Join(err, f.Stop())
	}
	return f, server, nil
}

// unmount ends the mount; a second call does nothing.
func (m *mounted) unmount() {
	m.t.Helper()
	if m.down {
		return
	}
	m.down = true
	var err error
	for range 10 {
		if err = m.server.Unmount(); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond) // a release may still be under way
	}
	if err != nil {
		// A file is still open: without its mount point the server would be waited for in vain.
		m.t.Errorf("unmount: %v", err)
		if err := unix.Unmount(m.dir, unix.MNT_DETACH); err != nil {
			m.t.Errorf("lazy unmount: %v", err)
		}
		return
	}
	m.server.Wait()
	m.err = errors.Join(m.f.Stop(), m.dev.Close())
	if m.err != nil && !m.c.broken {
		m.t.Errorf("stop: %v", m.err)
	}
}

// finish unmounts and judges the mount and the image.
func (m *mounted) finish() {
	m.t.Helper()
	m.unmount()
	for _, l := range m.log.find("panic") {
		m.t.Errorf("%s", l)
	}
	if m.c.broken {
		return
	}
	for _, l := range m.log.find("ERROR") {
		if !m.c.races {
			m.t.Errorf("the mount said: %s", l)
		}
	}
	if v := m.f.Report().Violations; len(v) != 0 && !m.c.races {
		m.t.Errorf("violations: %v", v)
	}
	sound(m.t, m.c.img, m.c.killed)
}

// sound holds the image against e2fsck and against the project's own check.
func sound(t testing.TB, img string, killed bool) {
	t.Helper()
	testimage.Fsck(t, img)
	dev, err := blockdev.OpenFile(img, blockdev.FileOptions{ReadOnly: true})
	if err != nil {
		t.Errorf("check: %v", err)
		return
	}
	defer dev.Close()
	r, err := check.Image(dev, check.Options{})
	if err != nil {
		t.Errorf("check: %v", err)
	}
	for _, f := range r.Findings {
		if killed && f.Class == check.ClassState {
			continue
		}
		t.Errorf("check: %s", f)
	}
}

// daemonMain mounts os.Args[1] on os.Args[2], says "mounted", and serves until it is killed or unmounted.
func daemonMain(img, dir string) int {
	dev, err := blockdev.OpenFile(img, blockdev.FileOptions{})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	f, server, err := start(dev, dir, slog.New(slog.NewTextHandler(io.Discard, nil)), config{})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("mounted")
	server.Wait()
	if err := errors.Join(f.Stop(), dev.Close()); err != nil {
		return 1
	}
	return 0
}

// must fails the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// want fails the test unless err is the errno; 0 is no error.
func want(t testing.TB, what string, err error, no syscall.Errno) {
	t.Helper()
	if no == 0 && err != nil || no != 0 && !errors.Is(err, no) {
		t.Errorf("%s: %v, want errno %d (%v)", what, err, int(no), no)
	}
}

// read returns a file's content.
func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return string(b)
}

// write makes a file.
func write(t testing.TB, path, content string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

// stat is lstat(2).
func stat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("lstat %s: %v", path, err)
	}
	return st
}

// inline says whether the file lives in its inode now.
func (m *mounted) inline(path string) bool {
	m.t.Helper()
	i, err := m.f.inodes.Get(uint32(stat(m.t, path).Ino))
	must(m.t, err)
	defer m.f.put(i)
	return i.HasInline()
}

// pattern is n bytes that depend on seed.
func pattern(n, seed int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('!' + (i*7+seed*13)%90)
	}
	return string(b)
}
