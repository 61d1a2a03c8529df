package seccomp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exit statuses of Run which are not the command's own, as shells use them.
const (
	// StatusFailed is the status where the listener or the supervisor does not work.
	StatusFailed = 125
	// StatusNotExecutable is the status where the command was found but cannot be run.
	StatusNotExecutable = 126
	// StatusNotFound is the status where there is no such command.
	StatusNotFound = 127
	// StatusSignal is added to the number of the signal that killed the command.
	StatusSignal = 128
)

// Options say what to run and what to announce.
type Options struct {
	// MountID is the mount whose files are announced, as in /proc/self/mountinfo.
	MountID int
	// MountDev, if not empty, is the device ("major:minor") of the mount: files reached through a bind mount or in another mount
	// namespace are announced as well.
	MountDev string
	// Announce is called with a descriptor of the file before the mapping exists, from several goroutines at once. The descriptor
	// is closed afterwards. The errno in its error (EIO, if there is none) is what mmap(2) fails with.
	Announce func(fd int) error
	// Argv is the command and its arguments. The command is looked up as a shell does.
	Argv []string
	// Env is the command's environment, nil for that of this process.
	Env []string
	// Stdin is the command's, as in exec.Cmd.
	Stdin io.Reader
	// Stdout, like Stderr: where it is not an *os.File, Run also waits until nobody has it open.
	Stdout io.Writer
	// Stderr is the command's standard error.
	Stderr io.Writer
	// Shim is the beginning of the argv of a program which calls ShimMain with the arguments that follow.
	Shim []string
	// Reap makes this process the reaper of the command's orphans, and waits for all of its children at the end: for processes
	// which do nothing else.
	Reap bool
}

// Stats count mappings.
type Stats struct {
	// Notified are the shared file mappings that were trapped, of whatever file system.
	Notified int64
	// Announced are those of files of the mount that went ahead after the announcement.
	Announced int64
	// Refused are those that failed with the errno of the announcement.
	Refused int64
	// Unseen are those that went ahead without a look at the file, since the process hides its descriptors (PR_SET_DUMPABLE).
	Unseen int64
}

// ListenerError is the errno of seccomp(2): ENOSYS or EINVAL where the kernel has no user notification, EBUSY where another
// listener is installed already, EPERM where a container forbids it.
type ListenerError struct{ Errno unix.Errno }

// Error names the errno and what it means here.
func (e *ListenerError) Error() string {
	hint := "is seccomp forbidden here?"
	switch e.Errno {
	case unix.EBUSY:
		hint = "another seccomp listener is installed already"
	case unix.ENOSYS, unix.EINVAL:
		hint = "the kernel has no seccomp user notification, want Linux 5.9 or newer"
	}
	return fmt.Sprintf("seccomp listener: %s (%s): %s", unix.ErrnoName(e.Errno), e.Errno, hint)
}

// Unwrap returns the errno.
func (e *ListenerError) Unwrap() error { return e.Errno }

// Run runs a command under the listener until the command and all processes it has started have gone, and returns the command's
// exit status (StatusSignal + signal if it was killed). SIGINT and SIGTERM to this process are passed on to the command; after its
// end they end the wait for what it left behind. The end of ctx kills the command. A trapped mmap(2) of a process that outlives Run
// fails with ENOSYS. Errors come with StatusNotFound, StatusNotExecutable or StatusFailed.
func Run(ctx context.Context, o Options) (status int, stats Stats, err error) {
	if len(o.Argv) == 0 || len(o.Shim) == 0 || o.Announce == nil {
		return StatusFailed, Stats{}, fmt.Errorf("exec options: %d words of argv, %d of shim, announce set %t, want all",
			len(o.Argv), len(o.Shim), o.Announce != nil)
	}
	path, status, err := lookUp(o.Argv[0])
	if err != nil {
		return status, Stats{}, err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(signals)
	if o.Reap {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return StatusFailed, Stats{}, fmt.Errorf("prctl PR_SET_CHILD_SUBREAPER: %w", err)
		}
	}
	cmd, sock, err := startShim(ctx, o, path)
	if err != nil {
		return StatusFailed, Stats{}, err
	}
	defer unix.Close(sock)
	listener, err := receiveListener(sock)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // the status of the shim says less than err
		return StatusFailed, Stats{}, err
	}
	s, err := newSupervisor(listener, o)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // as above
		_ = unix.Close(listener)
		return StatusFailed, Stats{}, err
	}
	status, err = s.run(ctx, cmd, sock, signals, o)
	return status, s.stats(), err
}

// lookUp finds the command. A program in the current directory that PATH leads to is as good as any.
func lookUp(name string) (path string, status int, err error) {
	path, err = exec.LookPath(name)
	switch {
	case err == nil || errors.Is(err, exec.ErrDot):
		return path, 0, nil
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		return "", StatusNotFound, fmt.Errorf("%s: command not found", name)
	}
	return "", StatusNotExecutable, fmt.Errorf("%s: not executable: %w", name, errnoOf(err))
}

// startShim starts the shim with one end of a new socket pair and returns the other end.
func startShim(ctx context.Context, o Options, path string) (*exec.Cmd, int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, fmt.Errorf("socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "shim socket")
	defer theirs.Close()
	argv := append(append(append([]string{}, o.Shim...), path), o.Argv...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = o.Env, o.Stdin, o.Stdout, o.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		_ = unix.Close(pair[0])
		return nil, -1, fmt.Errorf("start of the shim: %w", err)
	}
	return cmd, pair[0], nil
}

// receive reads one message of the shim; its kind is 0 at the end of the stream.
func receive(sock int) (kind byte, errno unix.Errno, rights []int, err error) {
	buf, oob := make([]byte, msgLen+1), make([]byte, unix.CmsgSpace(4))
	n, oobn := 0, 0
	for {
		n, oobn, _, _, err = unix.Recvmsg(sock, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return 0, 0, nil, fmt.Errorf("receive from the shim: %w", err)
	}
	if n == 0 {
		return 0, 0, nil, nil
	}
	if n != msgLen {
		return 0, 0, nil, fmt.Errorf("message of the shim has %d bytes, want %d", n, msgLen)
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, 0, nil, fmt.Errorf("control message of the shim: %w", err)
	}
	for i := range cmsgs {
		if rights, err = unix.ParseUnixRights(&cmsgs[i]); err != nil {
			return 0, 0, nil, fmt.Errorf("control message of the shim: %w", err)
		}
	}
	return buf[0], unix.Errno(binary.LittleEndian.Uint32(buf[1:])), rights, nil
}

func receiveListener(sock int) (int, error) {
	kind, errno, rights, err := receive(sock)
	switch {
	case err != nil:
		return -1, err
	case kind == msgNoListener:
		return -1, &ListenerError{errno}
	case kind == msgListener && len(rights) == 1:
		return rights[0], nil
	case kind == 0:
		return -1, errors.New("the shim ended before it sent the listener")
	}
	return -1, fmt.Errorf("message %q of the shim with %d descriptors, want %q with 1", kind, len(rights), byte(msgListener))
}

// run serves the listener, first while the command starts and runs, then until its descendants have gone.
func (s *supervisor) run(ctx context.Context, cmd *exec.Cmd, sock int, signals <-chan os.Signal, o Options) (int, error) {
	defer unix.Close(s.stopFd)
	served := make(chan error, 1)
	go func() {
		err := s.serveAll()
		if err != nil {
			_ = cmd.Process.Kill() // nothing can be mapped any more
		}
		served <- err
	}()
	ended := make(chan struct{})
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		s.passSignals(ctx, cmd.Process, signals, ended)
	}()
	kind, errno, _, execErr := receive(sock) // the socket closes when execve(2) succeeds
	status, err := exitStatus(cmd.Wait())
	reaped := make(chan struct{})
	go func() {
		defer close(reaped)
		if o.Reap {
			reapAll()
		}
	}()
	loopErr := <-served
	stopped := s.stopped()
	close(ended)
	<-passed
	if !stopped {
		<-reaped
	}
	switch {
	case kind == msgNoExec:
		return StatusNotExecutable, fmt.Errorf("%s: not executable: %w", o.Argv[0], errno)
	case ctx.Err() != nil:
		return status, fmt.Errorf("exec was ended: %w", context.Cause(ctx))
	}
	if err = errors.Join(err, execErr, loopErr); err != nil {
		return StatusFailed, err
	}
	return status, nil
}

// passSignals passes signals on until ended is closed. Where the command has gone already, a signal, and the end of ctx in any
// case, stop the loop.
func (s *supervisor) passSignals(ctx context.Context, p *os.Process, signals <-chan os.Signal, ended <-chan struct{}) {
	for {
		select {
		case sig := <-signals:
			if p.Signal(sig) != nil {
				s.stop()
			}
		case <-ctx.Done():
			s.stop()
			<-ended
			return
		case <-ended:
			return
		}
	}
}

// stopped says whether loop was told to end.
func (s *supervisor) stopped() bool {
	p := []unix.PollFd{{Fd: int32(s.stopFd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 1
}

// reapAll waits until this process has no children.
func reapAll() {
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// exitStatus turns the result of Wait into a shell's exit status.
func exitStatus(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return StatusFailed, fmt.Errorf("wait for the command: %w", err)
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return StatusSignal + int(ws.Signal()), nil
	}
	return exit.ExitCode(), nil
}

// parseTgid finds the Tgid line of /proc/TID/status.
func parseTgid(name, raw string) (int, error) {
	for line := range strings.Lines(raw) {
		if val, ok := strings.CutPrefix(line, "Tgid:"); ok {
			return strconv.Atoi(strings.TrimSpace(val))
		}
	}
	return 0, fmt.Errorf("%s: no Tgid line", name)
}
