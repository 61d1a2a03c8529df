package main

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"inlinefs/fs"
	"inlinefs/internal/control"
	"inlinefs/internal/testimage"
	"inlinefs/ondisk"
)

// mainEnv makes the test binary be the command.
const mainEnv = "INLINEFS_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestParseOptions(t *testing.T) {
	for _, c := range []struct {
		list string
		want mountConfig
	}{
		{"", mountConfig{}},
		{"rw,defaults,nofail,_netdev,x-systemd.automount,comment=x,user_xattr", mountConfig{}},
		{"ro,norecovery,sync,dirsync,noacl,allow_other", mountConfig{ro: true, noRecovery: true, sync: true, dirSync: true, noACL: true, allowOther: true}},
		{"noload", mountConfig{noRecovery: true}},
		{"ro,sync,noacl,rw,async,acl", mountConfig{}},
		{"nosuid,noatime", mountConfig{kernel: []string{"nosuid", "noatime"}}},
		{"offset=1M,cache_size=2g,fsname=a=b,log=debug", mountConfig{offset: 1 << 20, cacheSize: 2 << 30, fsname: "a=b", logLevel: "debug"}},
		{"commit=7,data=ordered", mountConfig{commit: 7 * time.Second, ordered: true}},
		{"data=writeback", mountConfig{ordered: true}},
		{"errors=continue", mountConfig{errors: ondisk.ErrorsContinue}},
		{"errors=remount-ro", mountConfig{errors: ondisk.ErrorsRO}},
		{"errors=panic", mountConfig{errors: ondisk.ErrorsPanic}},
		{"mmap=observe,conversion=mkwrite,window=2ms", mountConfig{mmap: fs.MmapObserve, conversion: "mkwrite", window: 2 * time.Millisecond}},
	} {
		var got mountConfig
		if err := got.parse(c.list); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %+v, %v, want %+v", c.list, got, err, c.want)
		}
	}
	for list, says := range map[string]string{
		"errrors=panic": `unknown mount option "errrors=panic"`, "rro": `nearest is "ro"`, "errors=no": "want continue", "errors": "wants a value", "ro=1": "ro takes no value",
		"discard": `unknown mount option "discard": inlinefs mount --help`, "remount": "unmount, and mount again", "log=loud": "want debug",
		"offset=x": "not a size", "offset=-1": "not a size", "offset=99999999T": "not a size", "cache_size=10": "at least", "mmap=other": `want one of ["cached" "observe" "direct"]`,
		"conversion=none": "want one of", "window=2s": "want 0 to 1s", "window=x": "window", "commit=x": "want whole seconds", "commit=65536": "0 (the default, 5) to 65535",
		"data=journal": "want ordered (what is always done) or writeback", "data=x": "want ordered",
	} {
		var c mountConfig
		if err := c.parse(list); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want a mention of %q", list, err, says)
		}
	}
}

// FuzzParseOptions: no list panics, and what is refused says why.
func FuzzParseOptions(f *testing.F) {
	for _, s := range []string{"ro", "offset=1k,errors=panic", "=,,=", "window=1ms,x-", "cache_size=T"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var c mountConfig
		if err := c.parse(s); err != nil && err.Error() == "" {
			t.Error("refused without a word")
		}
	})
}

// command is a run of the command; its standard error goes to a file, since a daemon keeps it.
type command struct {
	t   *testing.T
	cmd *exec.Cmd
	err string // path
}

func newCommand(t *testing.T, args ...string) *command {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "stderr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	c := &command{t: t, cmd: exec.Command("/proc/self/exe", args...), err: f.Name()}
	c.cmd.Args[0] = "inlinefs"
	c.cmd.Env = append(os.Environ(), mainEnv+"=1")
	c.cmd.Stderr = f
	return c
}

// run runs to the end and returns exit code and standard error.
func (c *command) run() (int, string) {
	c.t.Helper()
	err := c.cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return c.cmd.ProcessState.ExitCode(), c.said()
}

func (c *command) said() string {
	c.t.Helper()
	b, err := os.ReadFile(c.err)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

// image is a small image with inline data.
func image(t *testing.T, features string) string {
	t.Helper()
	return testimage.Make(t, testimage.Options{BlockSize: 4096, InodeSize: 256, Inodes: 256, Features: "inline_data,metadata_csum,64bit," + features})
}

// isMounted asks the kernel.
func isMounted(t *testing.T, dir string) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		if w := strings.Fields(sc.Text()); len(w) > 4 && w[4] == dir {
			return true
		}
	}
	return false
}

// within waits until cond holds; half a minute is more than any machine needs.
func within(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for range 600 {
		if cond() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%s: not within half a minute", what)
}

// released waits until no process holds the image: a background daemon has written everything then.
func released(t *testing.T, img string) {
	t.Helper()
	within(t, "the image is released", func() bool {
		f, err := os.Open(img)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
	})
}

// unmountLater makes sure that nothing stays mounted.
func unmountLater(t *testing.T, dir string) {
	t.Cleanup(func() {
		if !isMounted(t, dir) {
			return
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			if out, err := exec.Command("fusermount3", "-uz", dir).CombinedOutput(); err != nil {
				t.Errorf("unmount %s: %v: %s", dir, err, out)
			}
		}
	})
}

// unmount ends the test when it cannot: what follows waits for the daemon. Others on the machine may look at a mount for a moment.
func unmount(t *testing.T, dir string) {
	t.Helper()
	var err error
	for range 100 {
		if os.Geteuid() == 0 {
			err = unix.Unmount(dir, 0)
		} else {
			err = exec.Command("fusermount3", "-u", dir).Run()
		}
		if err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("unmount %s: %v", dir, err)
}

func TestBackgroundMount(t *testing.T) {
	testimage.FuseUsable(t)
	for _, c := range []struct{ name, argv0 string }{{"mount", "inlinefs"}, {"helper", "/sbin/mount.fuse.inlinefs"}} {
		for _, features := range []string{"has_journal", "^has_journal"} {
			t.Run(c.name+"-"+features, func(t *testing.T) {
				img, dir := image(t, features), t.TempDir()
				unmountLater(t, dir)
				cmd := newCommand(t, "mount", "-o", "fsname=here,noatime", img, dir)
				if c.name == "helper" {
					cmd = newCommand(t, img, dir, "-o", "rw,fsname=here,noatime", "-n", "-s", "-v")
				}
				cmd.cmd.Args[0] = c.argv0
				if code, said := cmd.run(); code != 0 {
					t.Fatalf("exit code %d: %s", code, said)
				}
				if m, err := control.MountOf(dir); err != nil || m.FSType != control.FSType || m.Source != "here" || m.Point != dir {
					t.Errorf("mounted as %+v, %v", m, err)
				}
				if err := os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o644); err != nil {
					t.Error(err)
				}
				refusesSecondMount(t, img)
				if r, err := control.Report(dir); err != nil || r.Version != version {
					t.Errorf("report %+v, %v", r, err)
				}
				unmount(t, dir)
				released(t, img)
				testimage.Fsck(t, img)
				if out := testimage.Debugfs(t, img, false, "cat /f"); !strings.Contains(out, "content") {
					t.Errorf("the image holds %q", out)
				}
			})
		}
	}
}

// TestOutputIsLetGo: whoever reads the output of a background mount through a pipe sees its end.
func TestOutputIsLetGo(t *testing.T) {
	testimage.FuseUsable(t)
	img, dir := image(t, "^has_journal"), t.TempDir()
	unmountLater(t, dir)
	cmd := exec.Command("/proc/self/exe", "mount", img, dir)
	cmd.Env = append(os.Environ(), mainEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || len(out) != 0 {
		t.Errorf("%v: %s", err, out)
	}
	unmount(t, dir)
	released(t, img)
}

// TestKernelOptions mounts with each option that goes to the kernel.
func TestKernelOptions(t *testing.T) {
	testimage.FuseUsable(t)
	img := image(t, "^has_journal")
	for _, o := range passed {
		dir := t.TempDir()
		c := foreground(t, img, dir, "-o", o)
		if m, err := control.MountOf(dir); err != nil || m.Point != dir {
			t.Errorf("%s: %+v, %v", o, m, err)
		}
		unmount(t, dir)
		if err := c.cmd.Wait(); err != nil {
			t.Errorf("%s: %v: %s", o, err, c.said())
		}
	}
}

func refusesSecondMount(t *testing.T, img string) {
	t.Helper()
	dir := t.TempDir()
	code, said := newCommand(t, "mount", img, dir).run()
	if code != exitMount || !strings.Contains(said, "in use by another process") || strings.Count(said, "\n") != 1 {
		t.Errorf("second mount: exit code %d, %q", code, said)
	}
	if isMounted(t, dir) {
		t.Error("mounted twice")
	}
}

func TestMountRefusals(t *testing.T) {
	testimage.FuseUsable(t)
	img, dir := image(t, "^has_journal"), t.TempDir()
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, bytes.Repeat([]byte("no file system "), 10000), 0o600); err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := testimage.Make(t, testimage.Options{Features: "^has_journal,casefold"})
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"missing image", []string{filepath.Join(dir, "none"), dir}, exitMount, "no such file"},
		{"directory", []string{dir, dir}, exitMount, dir},
		{"not an image", []string{junk, dir}, exitMount, "magic"},
		{"too short", []string{short, dir}, exitMount, "too small"},
		{"unknown feature", []string{foreign, dir}, exitMount, "casefold"},
		{"offset past the end", []string{"-o", "offset=1T", img, dir}, exitMount, ""},
		{"missing mount point", []string{img, filepath.Join(dir, "none")}, exitMount, "mount point"},
		{"mount point is a file", []string{img, junk}, exitMount, "not a directory"},
		{"one argument", []string{img}, exitUsage, "usage: inlinefs mount"},
		{"bad option", []string{"-o", "errrors=panic", img, dir}, exitUsage, `nearest is "errors"`},
		{"bad log level", []string{"-o", "log=loud", img, dir}, exitUsage, "mount option log=loud: want debug"},
		{"empty image", []string{os.DevNull, dir}, exitMount, os.DevNull},
		{"bad value", []string{"-o", "errors=perhaps", img, dir}, exitUsage, "remount-ro"},
		{"bad flag", []string{"--no-such-flag", img, dir}, exitUsage, "no-such-flag"},
	} {
		for _, how := range [][]string{{"mount"}, {"mount", "-f"}} {
			code, said := newCommand(t, append(how, c.args...)...).run()
			if code != c.code || !strings.Contains(said, c.says) || said == "" {
				t.Errorf("%s %v: exit code %d, %q; want %d and a mention of %q", c.name, how, code, said, c.code, c.says)
			}
		}
	}
	if isMounted(t, dir) {
		t.Error("mounted")
	}
	testimage.Fsck(t, img)
}

// foreground starts a mount that stays, and waits until it answers.
func foreground(t *testing.T, img, dir string, opts ...string) *command {
	t.Helper()
	unmountLater(t, dir)
	c := newCommand(t, append([]string{"mount", "-f"}, append(opts, img, dir)...)...)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		close(done)
		if c.cmd.ProcessState == nil {
			_ = c.cmd.Process.Kill()
			_ = c.cmd.Wait()
		}
	})
	within(t, "mounted", func() bool {
		_, err := control.Report(dir)
		return err == nil
	})
	return c
}

func TestSignalsUnmount(t *testing.T) {
	testimage.FuseUsable(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		for _, features := range []string{"has_journal", "^has_journal"} {
			t.Run(sig.String()+"-"+features, func(t *testing.T) {
				img, dir := image(t, features), t.TempDir()
				c := foreground(t, img, dir)
				if err := os.WriteFile(filepath.Join(dir, "f"), bytes.Repeat([]byte("content"), 2000), 0o644); err != nil {
					t.Error(err)
				}
				if err := c.cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
				if err := c.cmd.Wait(); err != nil {
					t.Errorf("%v: %s", err, c.said())
				}
				if isMounted(t, dir) {
					t.Error("still mounted")
				}
				testimage.Fsck(t, img)
			})
		}
	}
}

// TestSignalWhileBusy: with a file open the unmount waits for it, and goes on by itself.
func TestSignalWhileBusy(t *testing.T) {
	testimage.FuseUsable(t)
	img, dir := image(t, "has_journal"), t.TempDir()
	c := foreground(t, img, dir)
	f, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	within(t, "the signal is heard", func() bool { return strings.Contains(c.said(), "unmounting") })
	if _, err := f.WriteString("written after the signal"); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, c.said())
	}
	testimage.Fsck(t, img)
	if out := testimage.Debugfs(t, img, false, "cat /f"); !strings.Contains(out, "after the signal") {
		t.Errorf("the image holds %q", out)
	}
}

// TestReadOnlyImage: an image without write permission is mounted read-only, and stays as it is.
func TestReadOnlyImage(t *testing.T) {
	testimage.FuseUsable(t)
	img, dir := image(t, "^has_journal"), t.TempDir()
	first := foreground(t, img, dir)
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	unmount(t, dir)
	if err := first.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(img, 0o444); err != nil {
		t.Fatal(err)
	}
	c := foreground(t, img, dir, "-o", "ro")
	if err := os.WriteFile(filepath.Join(dir, "g"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("write: %v, want EROFS", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(b) != "content" {
		t.Errorf("read: %q, %v", b, err)
	}
	unmount(t, dir)
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, c.said())
	}
	if after, err := os.ReadFile(img); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the image changed (%v)", err)
	}
}

func TestOffset(t *testing.T) {
	testimage.FuseUsable(t)
	img, dir := image(t, "^has_journal"), t.TempDir()
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, append(make([]byte, 1<<20), b...), 0o600); err != nil {
		t.Fatal(err)
	}
	c := foreground(t, disk, dir, "-o", "offset=1M")
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("content"), 0o644); err != nil {
		t.Error(err)
	}
	unmount(t, dir)
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, c.said())
	}
	if b, err = os.ReadFile(disk); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b[:1<<20], make([]byte, 1<<20)) {
		t.Error("something was written before the offset")
	}
	if err := os.WriteFile(img, b[1<<20:], 0o600); err != nil {
		t.Fatal(err)
	}
	testimage.Fsck(t, img)
}

// TestSystemdNotify: READY=1 comes when the mount answers, STOPPING=1 when it ends.
func TestSystemdNotify(t *testing.T) {
	testimage.FuseUsable(t)
	img, dir := image(t, "^has_journal"), t.TempDir()
	sock := filepath.Join(t.TempDir(), "notify")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: sock}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", sock)
	c := foreground(t, img, dir)
	hear := func(want string) {
		t.Helper()
		buf := make([]byte, 100)
		if n, err := unix.Read(fd, buf); err != nil || string(buf[:max(n, 0)]) != want {
			t.Errorf("notified %q, %v, want %q", buf[:max(n, 0)], err, want)
		}
	}
	hear("READY=1")
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hear("STOPPING=1")
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, c.said())
	}
}
