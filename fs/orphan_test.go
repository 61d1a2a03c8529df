package fs

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"inlinefs/internal/testimage"
)

func TestUnlinkedOpen(t *testing.T) {
	for _, mode := range []MmapMode{MmapCached, MmapObserve} {
		t.Run(string(mode), func(t *testing.T) {
			m := mount(t, plain(), Options{Mmap: mode})
			before := statfs(t, m.dir)
			for _, n := range []int{0, 50, 100, 20000} {
				p := m.path("f")
				write(t, p, pattern(n, 1))
				f, err := os.OpenFile(p, os.O_RDWR, 0)
				must(t, err)
				must(t, os.Remove(p))
				var st unix.Stat_t
				must(t, unix.Fstat(int(f.Fd()), &st))
				if st.Nlink != 0 || st.Size != int64(n) {
					t.Errorf("links %d size %d, want 0 %d", st.Nlink, st.Size, n)
				}
				if _, err := f.WriteAt([]byte(pattern(300, 2)), int64(n)); err != nil {
					t.Errorf("write to an unlinked file: %v", err)
				}
				b := make([]byte, n+300)
				if _, err := f.ReadAt(b, 0); err != nil || string(b) != pattern(n, 1)+pattern(300, 2) {
					t.Errorf("unlinked file reads wrong: %v", err)
				}
				must(t, f.Truncate(10))
				must(t, f.Close())
			}
			d := m.path("d")
			must(t, os.Mkdir(d, 0o755))
			fd, err := os.Open(d)
			must(t, err)
			must(t, os.Remove(d))
			if names, err := fd.Readdirnames(-1); len(names) != 0 {
				t.Errorf("removed directory lists %v, %v", names, err)
			}
			must(t, fd.Close())
			m.unmount()
			after := statfs(t, remount(t, m.c.img).dir)
			if after.Bfree != before.Bfree || after.Ffree != before.Ffree {
				t.Errorf("free blocks %d inodes %d, before %d %d", after.Bfree, after.Ffree, before.Bfree, before.Ffree)
			}
		})
	}
}

// daemon is a mount in a process of its own.
type daemon struct {
	t   testing.TB
	cmd *exec.Cmd
	dir string
}

func startDaemon(t testing.TB, img string) *daemon {
	t.Helper()
	testimage.FuseUsable(t)
	d := &daemon{t: t, dir: t.TempDir(), cmd: exec.Command(os.Args[0], img, "")}
	d.cmd.Args[2] = d.dir
	d.cmd.Env = append(os.Environ(), roleEnv+"=daemon")
	d.cmd.Stderr = os.Stderr
	out, err := d.cmd.StdoutPipe()
	must(t, err)
	must(t, d.cmd.Start())
	t.Cleanup(d.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "mounted" {
		t.Fatalf("daemon: %q, %v", line, err)
	}
	return d
}

// kill ends the daemon as a crash does.
func (d *daemon) kill() {
	if d.cmd.ProcessState != nil {
		return
	}
	if err := d.cmd.Process.Kill(); err != nil {
		d.t.Error(err)
	}
	_ = d.cmd.Wait() // says that it was killed
	if err := unix.Unmount(d.dir, unix.MNT_DETACH); err != nil && os.Geteuid() == 0 {
		d.t.Errorf("unmount after the kill: %v", err)
	}
	if os.Geteuid() != 0 {
		if out, err := exec.Command("fusermount3", "-uz", d.dir).CombinedOutput(); err != nil {
			d.t.Errorf("fusermount3: %v: %s", err, out)
		}
	}
}

// TestOrphansAtNextMount kills a daemon that holds deleted files open.
func TestOrphansAtNextMount(t *testing.T) {
	for name, o := range map[string]testimage.Options{"plain": plain(), "journal": journalled()} {
		t.Run(name, func(t *testing.T) {
			img := testimage.Make(t, o)
			m := remount(t, img)
			before := statfs(t, m.dir)
			write(t, m.path("stays"), "stays")
			m.finish()
			m.c.killed = true // what is found at the end of the test, once more
			d := startDaemon(t, img)
			for k, n := range []int{0, 50, 5000, 200000} {
				p := fmt.Sprintf("%s/f%d", d.dir, k)
				write(t, p, pattern(n, k))
				f, err := os.Open(p)
				must(t, err)
				defer f.Close()
				must(t, os.Remove(p))
			}
			root, err := os.Open(d.dir)
			must(t, err)
			must(t, root.Sync())
			must(t, root.Close())
			d.kill()
			after := mountConfig(t, config{img: img, killed: true})
			if got := read(t, after.path("stays")); got != "stays" {
				t.Errorf("content %q", got)
			}
			if s := after.log.find("orphan list finished"); len(s) != 1 || !strings.Contains(s[0], "deleted=4") {
				t.Errorf("log: %v", s)
			}
			must(t, os.Remove(after.path("stays")))
			after.unmount()
			if s := statfs(t, mountConfig(t, config{img: img, killed: true}).dir); s.Bfree != before.Bfree || s.Ffree != before.Ffree {
				t.Errorf("free blocks %d inodes %d, before %d %d", s.Bfree, s.Ffree, before.Bfree, before.Ffree)
			}
		})
	}
}

// TestManyOrphans deletes open files in an order of its own, so that the list loses its head, its tail and its middle.
func TestManyOrphans(t *testing.T) {
	m := mount(t, plain(), Options{})
	const n = 40
	var fs [n]*os.File
	for k := range n {
		f, err := os.Create(m.path(fmt.Sprint(k)))
		must(t, err)
		_, err = f.WriteString(pattern(k*50, k))
		must(t, err)
		fs[k] = f
	}
	for k := range n {
		must(t, os.Remove(m.path(fmt.Sprint(k*7%n))))
	}
	for k := range n {
		f := fs[k*11%n]
		st, err := f.Stat()
		must(t, err)
		if st.Size() != int64(k*11%n*50) {
			t.Errorf("size %d", st.Size())
		}
		must(t, f.Close())
	}
	m.unmount()
	if s := remount(t, m.c.img); statfs(t, s.dir).Ffree != 1024-11 {
		t.Errorf("%d inodes free", statfs(t, s.dir).Ffree)
	}
}
