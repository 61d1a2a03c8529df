// Package damage is the campaign of scripts/damage.sh: it damages images at random, mounts them with the program named by
// INLINEFS_BIN, walks and changes them, and wants either a mount that answers or a clear refusal. It is a test so that it can use
// internal/testimage; without INLINEFS_BIN it is skipped.
package damage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"inlinefs/internal/testimage"
)

// slowest is the longest a request may take.
const slowest = 2 * time.Second

// patience is how long a mount, a whole walk or an unmount may take before it counts as a hang.
const patience = 60 * time.Second

// number is an environment variable's value, or what is given when it is not set.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: want a number", name, s)
	}
	return n
}

func TestDamagedImages(t *testing.T) {
	bin := os.Getenv("INLINEFS_BIN")
	if bin == "" {
		t.Skip("a campaign: run scripts/damage.sh, or name a built inlinefs by INLINEFS_BIN")
	}
	testimage.FuseUsable(t)
	images := number(t, "INLINEFS_IMAGES", 500)
	seed := number(t, "INLINEFS_SEED", uint64(time.Now().UnixNano()))
	t.Logf("INLINEFS_SEED=%d", seed)
	var bases []string
	content := populate(t)
	for _, s := range testimage.Shapes() {
		if s.Options.SizeMiB == 0 || s.Journal {
			s.Options.Populate = content
			bases = append(bases, testimage.Make(t, s.Options))
		}
	}
	var mounted, refused int
	for i := range images {
		rng := rand.New(rand.NewPCG(seed, i))
		base := bases[rng.IntN(len(bases))]
		img := filepath.Join(t.TempDir(), "image")
		clone(t, base, img)
		log := testimage.Damage(t, img, rng, 1+rng.IntN(20), testimage.AllAreas)
		m := trial{bin: bin, img: img, dir: filepath.Join(filepath.Dir(img), "mnt")}
		ok := m.run(t)
		if ok {
			mounted++
		} else {
			refused++
		}
		if m.bad != "" {
			t.Errorf("image %d of seed %d: %s\ndamage:\n%s\ndaemon:\n%s", i, seed, m.bad, log, m.output.String())
		}
		if err := os.Remove(img); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d images: %d mounted, %d refused; slowest request %v", images, mounted, refused, time.Duration(slowestSeen.Load()))
}

// populate makes a small tree: inline and other files, inline and larger directories, links.
func populate(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := range 4 {
		sub := filepath.Join(dir, fmt.Sprintf("dir%d", d))
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		for f := range []int{2, 40, 150, 5}[d] {
			name := filepath.Join(sub, fmt.Sprintf("file-%d-%d", d, f))
			if err := os.WriteFile(name, bytes.Repeat([]byte{byte(f)}, []int{50, 0, 120, 9000}[f%4]), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(strings.Repeat("x", 20+100*d), filepath.Join(sub, "link")); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// clone copies an image sparsely, by cp, since there are hundreds.
func clone(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "--sparse=always", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp %s: %v: %s", from, err, out)
	}
}

// trial is one damaged image.
type trial struct {
	bin, img, dir string
	output        bytes.Buffer // the daemon's words; read after it has ended
	bad           string       // what must not be
}

// slowestSeen is the longest request so far, in nanoseconds.
var slowestSeen atomic.Int64

// run mounts, walks, changes and unmounts the image; it tells whether it was mounted.
func (m *trial) run(t *testing.T) bool {
	t.Helper()
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(m.bin, "mount", "-f", m.img, m.dir)
	cmd.Stdout, cmd.Stderr = &m.output, &m.output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	deadline := time.After(patience)
	for !isMounted(m.dir) {
		select {
		case err := <-ended:
			m.judgeEnd(err, false)
			return false
		case <-deadline:
			m.bad = "neither mounted nor refused in time"
			m.kill(cmd, ended)
			return false
		case <-time.After(5 * time.Millisecond):
		}
	}
	walked := make(chan struct{})
	go func() {
		defer close(walked)
		m.walk()
	}()
	select {
	case <-walked:
	case <-time.After(patience):
		m.kill(cmd, ended)
		<-walked
		m.bad = "a request was not answered in time"
		return true
	}
	unmount(m.dir)
	select {
	case err := <-ended:
		m.judgeEnd(err, true)
	case <-time.After(patience):
		m.bad = "the daemon did not end after the unmount"
		m.kill(cmd, ended)
	}
	return true
}

// isMounted tells whether something is mounted on the directory, without asking the file system there.
func isMounted(dir string) bool {
	table, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && bytes.Contains(table, []byte(" "+dir+" "))
}

// unmount takes the mount down, lazily when it is busy.
func unmount(dir string) {
	if os.Geteuid() == 0 {
		if syscall.Unmount(dir, 0) != nil {
			_ = syscall.Unmount(dir, syscall.MNT_DETACH)
		}
		return
	}
	if exec.Command("fusermount3", "-u", dir).Run() != nil {
		_ = exec.Command("fusermount3", "-u", "-z", dir).Run()
	}
}

// kill ends the daemon, which fails its requests, and takes the mount down.
func (m *trial) kill(cmd *exec.Cmd, ended <-chan error) {
	_ = cmd.Process.Kill()
	<-ended
	unmount(m.dir)
}

// judgeEnd looks at how the daemon ended: by itself, with words when it refused, and never by a panic.
func (m *trial) judgeEnd(err error, mounted bool) {
	out := m.output.String()
	var exit *exec.ExitError
	switch {
	case strings.Contains(out, "panic:") || strings.Contains(out, "goroutine ") || strings.Contains(out, "fatal error:"):
		m.bad = "the daemon panicked"
	case errors.As(err, &exit) && exit.ExitCode() < 0:
		m.bad = fmt.Sprintf("the daemon was killed: %v", err)
	case !mounted && err == nil:
		m.bad = "the daemon ended with exit code 0 without a mount"
	case !mounted && strings.TrimSpace(out) == "":
		m.bad = fmt.Sprintf("refused without a word: %v", err)
	}
}

// timed does one request.
func (m *trial) timed(what string, f func() error) error {
	start := time.Now()
	err := f()
	d := time.Since(start)
	for old := slowestSeen.Load(); int64(d) > old && !slowestSeen.CompareAndSwap(old, int64(d)); old = slowestSeen.Load() {
	}
	if d > slowest && m.bad == "" {
		m.bad = fmt.Sprintf("%s took %v, want at most %v", what, d, slowest)
	}
	return err
}

// walk reads everything that can be read, errors or not, then makes some changes. A damaged directory may lead in a circle, hence the
// limit.
func (m *trial) walk() {
	ctx, cancel := context.WithTimeout(context.Background(), patience/2)
	defer cancel()
	left := 2000
	m.walkDir(ctx, m.dir, &left, 0)
	for i := range 5 {
		name := filepath.Join(m.dir, fmt.Sprintf("new%d", i))
		data := bytes.Repeat([]byte("n"), 60<<i)
		if m.timed("create", func() error { return os.WriteFile(name, data, 0o644) }) == nil {
			_ = m.timed("append", func() error { return appendTo(name, data) })
			_ = m.timed("truncate", func() error { return os.Truncate(name, 10) })
			_ = m.timed("rename", func() error { return os.Rename(name, name+"x") })
		}
		if i%2 == 0 {
			_ = m.timed("remove", func() error { return os.Remove(name + "x") })
		}
		_ = m.timed("remove an old file", func() error { return os.Remove(filepath.Join(m.dir, "dir2", fmt.Sprintf("file-2-%d", i))) })
		_ = m.timed("mkdir", func() error { return os.Mkdir(name+"d", 0o755) })
	}
}

// walkDir is walk for one directory.
func (m *trial) walkDir(ctx context.Context, dir string, left *int, depth int) {
	var entries []os.DirEntry
	_ = m.timed("list "+dir, func() (err error) {
		entries, err = os.ReadDir(dir)
		return err
	})
	for _, e := range entries {
		*left--
		if *left < 0 || ctx.Err() != nil {
			return
		}
		path := filepath.Join(dir, e.Name())
		var st fs.FileInfo
		if m.timed("stat "+path, func() (err error) { st, err = os.Lstat(path); return err }) != nil {
			continue
		}
		var buf [4096]byte
		_ = m.timed("listxattr "+path, func() error { _, err := syscall.Listxattr(path, buf[:]); return err })
		switch {
		case st.IsDir() && depth < 20:
			m.walkDir(ctx, path, left, depth+1)
		case st.Mode()&fs.ModeSymlink != 0:
			_ = m.timed("readlink "+path, func() error { _, err := os.Readlink(path); return err })
		case st.Mode().IsRegular():
			_ = m.timed("read "+path, func() error { return readSome(path, st.Size()) })
		}
	}
}

// appendTo appends to a file.
func appendTo(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// readSome reads the first and the last bytes of a file, whose size may be damaged.
func readSome(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	for _, off := range []int64{0, size / 2, max(size-100, 0)} {
		if _, err := f.ReadAt(buf, off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return nil
}
