package stress

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	fuseMagic    = 0x65735546
	mountPatient = 60 * time.Second
	pollEvery    = 10 * time.Millisecond
	exitPatient  = 90 * time.Second
	tailBytes    = 4096
)

// tailBuffer keeps the last bytes written to it.
type tailBuffer struct {
	mu  sync.Mutex
	buf []byte // guarded by mu
}

// Write never returns an error.
func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailBytes; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// String gives what is kept.
func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}

// child is a process of ours that can be waited for by several.
type child struct {
	cmd    *exec.Cmd
	stderr *tailBuffer
	exited chan struct{} // closed when the process is gone and err is set
	err    error
}

// startChild starts cmd in a process group of its own: the terminal's interrupt is for the leader alone.
func startChild(cmd *exec.Cmd) (*child, error) {
	c := &child{cmd: cmd, stderr: &tailBuffer{}, exited: make(chan struct{})}
	cmd.Stderr = c.stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	go func() {
		c.err = cmd.Wait()
		close(c.exited)
	}()
	return c, nil
}

// within waits for the end of the process; false: it still runs.
func (c *child) within(d time.Duration) bool {
	select {
	case <-c.exited:
		return true
	case <-time.After(d):
		return false
	}
}

// kill ends the process the hard way and waits until it is gone, a little.
func (c *child) kill() {
	// An error means that it has ended by itself.
	_ = c.cmd.Process.Kill()
	c.within(10 * time.Second)
}

// mounted is an image mounted by a child process.
type mounted struct {
	dir   string
	minor uint32 // of the device number: the name of the FUSE connection
	proc  *child
}

// mountUsage is the exit code of `inlinefs mount` for a bad option.
const mountUsage = 1

// mountImage runs `inlinefs mount -f` and waits until the mount answers. An option or a given image that is refused is a usage error.
func mountImage(c *Config, image, dir string) (*mounted, error) {
	opts := "mmap=" + c.Mmap
	if c.Conversion != "" {
		opts += ",conversion=" + c.Conversion
	}
	if c.Window > 0 {
		opts += ",window=" + c.Window.String()
	}
	var before unix.Stat_t
	if err := unix.Stat(dir, &before); err != nil {
		return nil, fmt.Errorf("mount point %s: %w", dir, err)
	}
	p, err := startChild(exec.Command(c.Binary, "mount", "-f", "-o", opts, image, dir))
	if err != nil {
		return nil, err
	}
	m := &mounted{dir: dir, proc: p}
	deadline := time.Now().Add(mountPatient)
	for {
		if p.within(pollEvery) {
			err := fmt.Errorf("mount of %s with -o %s ended at once: %w: %s", image, opts, orNone(p.err), p.stderr.String())
			var exit *exec.ExitError
			if errors.As(p.err, &exit) && (exit.ExitCode() == mountUsage || c.Image != "") {
				return nil, usagef("%w", err)
			}
			return nil, err
		}
		var sf unix.Statfs_t
		var st unix.Stat_t
		if unix.Stat(dir, &st) == nil && st.Dev != before.Dev && unix.Statfs(dir, &sf) == nil && sf.Type == fuseMagic {
			m.minor = unix.Minor(st.Dev)
			return m, nil
		}
		if time.Now().After(deadline) {
			p.kill()
			return nil, fmt.Errorf("mount of %s: not there after %s: %s", image, mountPatient, p.stderr.String())
		}
	}
}

// abort cuts the FUSE connection: all requests under way return an error. Where that cannot be done the daemon is killed, which
// comes to the same.
func (m *mounted) abort() {
	path := filepath.Join("/sys/fs/fuse/connections", strconv.FormatUint(uint64(m.minor), 10), "abort")
	if err := os.WriteFile(path, []byte("1"), 0); err != nil {
		m.proc.kill()
	}
}

func unmountDir(dir string, lazy bool) error {
	if os.Geteuid() == 0 {
		flags := 0
		if lazy {
			flags = unix.MNT_DETACH
		}
		return unix.Unmount(dir, flags)
	}
	tool, err := findTool("fusermount3", "fuse3")
	if err != nil {
		return err
	}
	args := []string{"-u"}
	if lazy {
		args = append(args, "-z")
	}
	out, code, err := runTool(tool, append(args, dir)...)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, strings.TrimSpace(out))
	}
	return err
}

var errStillThere = errors.New("the daemon did not end")

// unmount unmounts and waits for the daemon: its write-back goes on after umount has returned. An error wrapping errStillThere is
// a hang.
func (m *mounted) unmount() error {
	err := unmountDir(m.dir, false)
	for i := 0; err != nil && i < 100; i++ {
		if m.proc.within(50 * time.Millisecond) {
			break
		}
		err = unmountDir(m.dir, false)
	}
	if err != nil {
		// Somebody is still inside, or the daemon died and left the mount behind.
		if lazy := unmountDir(m.dir, true); lazy != nil && !errors.Is(lazy, unix.EINVAL) {
			err = errors.Join(err, lazy)
		}
	}
	if !m.proc.within(exitPatient) {
		m.abort()
		m.proc.kill()
		return fmt.Errorf("unmount of %s: %w within %s", m.dir, errStillThere, exitPatient)
	}
	if m.proc.err != nil {
		return fmt.Errorf("daemon of %s: %w: %s", m.dir, m.proc.err, m.proc.stderr.String())
	}
	if err != nil {
		return fmt.Errorf("unmount of %s: %w", m.dir, err)
	}
	return nil
}
