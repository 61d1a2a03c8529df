package seccomp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shimSocket is the descriptor of the socket to the supervisor in the shim: the first one after standard error.
const shimSocket = 3

// Kinds of message from the shim: one byte, followed by an errno as four little-endian bytes.
const (
	msgListener   = 'L' // the listener comes with it
	msgNoListener = 'S' // seccomp(2) failed
	msgNoExec     = 'X' // execve(2) failed
	msgLen        = 5
)

// ErrTold is what ShimMain returns after the supervisor has been told of the failure: nothing is left to print.
var ErrTold = errors.New("the supervisor has been told")

// ShimMain is the main function of the shim that Run starts: it puts the filter on its thread, sends the listener to the
// supervisor and becomes the command. args are the path of the program, then its argv. It returns only on failure.
func ShimMain(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("shim of exec: %d arguments, want a path and an argv", len(args))
	}
	if _, err := unix.GetsockoptInt(shimSocket, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return fmt.Errorf("shim of exec: descriptor %d is not the supervisor's socket: %w", shimSocket, err)
	}
	unix.CloseOnExec(shimSocket)
	runtime.LockOSThread()
	listener, err := installFilter()
	if err != nil {
		return tell(msgNoListener, err, nil)
	}
	if err := tell(msgListener, nil, unix.UnixRights(listener)); !errors.Is(err, ErrTold) {
		return err
	}
	if err := unix.Close(listener); err != nil {
		return fmt.Errorf("close of the listener: %w", err)
	}
	return tell(msgNoExec, syscall.Exec(args[0], args[1:], os.Environ()), nil)
}

// tell sends one message to the supervisor and returns ErrTold, or cause where that does not work.
func tell(kind byte, cause error, rights []byte) error {
	msg := make([]byte, msgLen)
	msg[0] = kind
	binary.LittleEndian.PutUint32(msg[1:], uint32(errnoOf(cause)))
	for {
		err := unix.Sendmsg(shimSocket, msg, rights, nil, unix.MSG_NOSIGNAL)
		switch {
		case err == nil:
			return ErrTold
		case errors.Is(err, unix.EINTR):
			continue
		case cause != nil:
			return fmt.Errorf("%w (and the supervisor cannot be told: %w)", cause, err)
		}
		return fmt.Errorf("send of the listener: %w", err)
	}
}

// errnoOf is the errno in err: 0 for nil, EIO for an error without one.
func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno) && errno > 0 && errno < 4096:
		return errno
	}
	return unix.EIO
}

// installFilter puts the filter on the calling thread and returns the listener. A thread with CAP_SYS_ADMIN may do so as it is, so
// that its children may still gain rights through setuid programs; another one gives up gaining rights first.
func installFilter() (int, error) {
	t, err := hostTarget()
	if err != nil {
		return -1, err
	}
	code := mmapFilter(t)
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	fd, err := seccompListener(&prog)
	if !errors.Is(err, unix.EACCES) {
		return fd, err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	return seccompListener(&prog)
}

// seccompListener asks for a wait that only fatal signals end, which Linux has since 5.19, and does without on older ones.
func seccompListener(prog *unix.SockFprog) (int, error) {
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	var errno unix.Errno
	for _, f := range []uintptr{flags | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, flags} {
		var fd uintptr
		fd, _, errno = unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, f, uintptr(unsafe.Pointer(prog)))
		if errno == 0 {
			return int(fd), nil
		}
		if errno != unix.EINVAL {
			break
		}
	}
	return -1, errno
}
