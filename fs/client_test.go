package fs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"inlinefs/internal/control"
)

// A client is a process of its own which maps files of the mount: a page fault on a mount of the same process blocks a thread that the
// mount may need.

// clientMain reads commands and answers each with "ok ...", "errno N" or "sigbus".
func clientMain(in io.Reader, out io.Writer) int {
	debug.SetPanicOnFault(true)
	c := &clientState{fd: -1}
	for sc := bufio.NewScanner(in); sc.Scan(); {
		answer, err := c.do(strings.Fields(sc.Text()))
		var no syscall.Errno
		switch {
		case errors.Is(err, errBus):
			answer = "sigbus"
		case errors.As(err, &no):
			answer = fmt.Sprintf("errno %d", int(no))
		case err != nil:
			answer = "bad " + err.Error()
		default:
			answer = strings.TrimSpace("ok " + answer)
		}
		if _, err := fmt.Fprintln(out, answer); err != nil {
			return 1
		}
	}
	return 0
}

var errBus = errors.New("sigbus")

type clientState struct {
	fd  int
	mem []byte
}

func (c *clientState) do(w []string) (answer string, err error) {
	defer func() {
		if recover() != nil {
			err = errBus
		}
	}()
	var a, b, n int
	if len(w) > 1 && w[0] != "open" && w[0] != "openread" {
		if _, err := fmt.Sscan(strings.Join(w[1:], " ")+" 0 0 0", &a, &b, &n); err != nil {
			return "", err
		}
	}
	switch w[0] {
	case "open":
		c.fd, err = unix.Open(w[1], unix.O_RDWR|unix.O_CLOEXEC, 0)
	case "openread":
		c.fd, err = unix.Open(w[1], unix.O_RDONLY|unix.O_CLOEXEC, 0)
	case "announce":
		err = control.AnnounceMmap(c.fd)
	case "map": // LENGTH
		c.mem, err = unix.Mmap(c.fd, 0, a, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	case "store": // OFFSET BYTE COUNT
		copy(c.mem[a:], bytes.Repeat([]byte{byte(b)}, n))
	case "load": // OFFSET COUNT
		return fmt.Sprintf("%x", string(c.mem[a:a+b])), nil
	case "pwrite": // OFFSET BYTE COUNT
		_, err = unix.Pwrite(c.fd, bytes.Repeat([]byte{byte(b)}, n), int64(a))
	case "rounds": // COUNT LENGTH: map, store, unmap again and again
		for k := range a {
			if err = c.round(b, byte('a'+k%26)); err != nil {
				break
			}
		}
	case "msync":
		err = unix.Msync(c.mem, unix.MS_SYNC)
	case "unmap":
		err = unix.Munmap(c.mem)
	case "close":
		err = unix.Close(c.fd)
	default:
		err = fmt.Errorf("command %q", w[0])
	}
	return "", err
}

// round is one life of a mapping, each time through another open file.
func (c *clientState) round(n int, b byte) error {
	mem, err := unix.Mmap(c.fd, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	func() {
		defer func() { _ = recover() }() // SIGBUS: the conversion failed, as it may
		mem[0] = b
	}()
	return unix.Munmap(mem)
}

// client is the parent's end.
type client struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func newClient(t testing.TB) *client {
	t.Helper()
	return newClientAs(t, uint32(os.Geteuid()))
}

// newClientAs starts a client as another user, with files as its descriptors from 3 on.
func newClientAs(t testing.TB, uid uint32, files ...*os.File) *client {
	t.Helper()
	c := &client{t: t, cmd: exec.Command("/proc/self/exe")}
	if uid != uint32(os.Geteuid()) {
		c.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	c.cmd.ExtraFiles = files
	c.cmd.Env = append(os.Environ(), roleEnv+"=client")
	c.cmd.Stderr = os.Stderr
	var err error
	c.in, err = c.cmd.StdinPipe()
	must(t, err)
	out, err := c.cmd.StdoutPipe()
	must(t, err)
	c.out = bufio.NewReader(out)
	must(t, c.cmd.Start())
	t.Cleanup(c.close)
	return c
}

// close ends the process; its mappings go with it.
func (c *client) close() {
	if c.in == nil {
		return
	}
	if err := errors.Join(c.in.Close(), c.cmd.Wait()); err != nil {
		c.t.Errorf("client: %v", err)
	}
	c.in = nil
}

// send starts a command, answer waits for its end.
func (c *client) send(format string, a ...any) {
	c.t.Helper()
	_, err := fmt.Fprintf(c.in, format+"\n", a...)
	must(c.t, err)
}

func (c *client) answer() string {
	c.t.Helper()
	line, err := c.out.ReadString('\n')
	if err != nil {
		c.t.Fatalf("client: %v", err)
	}
	return strings.TrimSpace(line)
}

// do runs a command to its end.
func (c *client) do(format string, a ...any) string {
	c.t.Helper()
	c.send(format, a...)
	return c.answer()
}

// ok runs commands that must succeed.
func (c *client) ok(commands ...string) {
	c.t.Helper()
	for _, s := range commands {
		if got := c.do("%s", s); !strings.HasPrefix(got, "ok") {
			c.t.Fatalf("client: %s: %s", s, got)
		}
	}
}
