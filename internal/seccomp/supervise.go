package seccomp

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"inlinefs/internal/control"
)

// pidfdThread is PIDFD_THREAD: a pidfd of any thread, since Linux 6.9.
const pidfdThread = unix.O_EXCL

// notif is struct seccomp_notif, and notifResp is struct seccomp_notif_resp.
type notif struct {
	id    uint64
	pid   uint32 // a thread's number
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type notifResp struct {
	id    uint64
	val   int64
	errno int32 // negative
	flags uint32
}

// supervisor answers the notifications of one listener.
type supervisor struct {
	listener int                // immutable
	stopFd   int                // immutable; eventfd
	mountID  int                // immutable
	mountDev string             // immutable
	announce func(fd int) error // immutable
	wg       sync.WaitGroup     // atomic

	notified, announced, refused, unseen atomic.Int64
}

func newSupervisor(listener int, o Options) (*supervisor, error) {
	stop, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &supervisor{listener: listener, stopFd: stop, mountID: o.MountID, mountDev: o.MountDev, announce: o.Announce}, nil
}

func (s *supervisor) stats() Stats {
	return Stats{
		Notified: s.notified.Load(), Announced: s.announced.Load(), Refused: s.refused.Load(), Unseen: s.unseen.Load(),
	}
}

// stop ends loop. The error of the write is of no use: the counter is full, so that loop wakes up anyway.
func (s *supervisor) stop() {
	_, _ = unix.Write(s.stopFd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
}

// serveAll runs loop, waits for the answers under way and closes the listener: whatever is trapped later fails with ENOSYS.
func (s *supervisor) serveAll() error {
	err := s.loop()
	s.wg.Wait()
	_ = unix.Close(s.listener)
	return err
}

// loop serves notifications, each on a goroutine of its own, until no task is left under the filter or stop is called.
func (s *supervisor) loop() error {
	for {
		p := []unix.PollFd{{Fd: int32(s.listener), Events: unix.POLLIN}, {Fd: int32(s.stopFd), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return fmt.Errorf("poll of the listener: %w", err)
		}
		if p[1].Revents != 0 {
			return nil
		}
		if p[0].Revents&unix.POLLIN == 0 {
			if p[0].Revents != 0 { // POLLHUP: the last task has gone
				return nil
			}
			continue
		}
		n := new(notif)
		switch errno := ioctl(s.listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(n)); errno {
		case 0:
			s.notified.Add(1)
			s.wg.Go(func() { s.serve(n) })
		case unix.ENOENT, unix.EINTR: // the task was killed before it was asked about, or a signal came
		case unix.ENOTCONN: // the last task has gone
			return nil
		default:
			return fmt.Errorf("receive from the listener: %w", errno)
		}
	}
}

func ioctl(fd int, req uintptr, arg unsafe.Pointer) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(arg))
	return errno
}

// serve decides about one notification and answers it. The file is closed after the answer: closing a file of a FUSE mount asks
// the daemon, and waits for writes under way, which may themselves wait for the mapping.
func (s *supervisor) serve(n *notif) {
	fd := s.fetch(n)
	resp := notifResp{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	switch {
	case fd.errno != 0:
		resp.flags, resp.errno = 0, -int32(fd.errno)
		s.refused.Add(1)
	case fd.num >= 0 && !s.valid(n.id): // killed meanwhile, and the number may be another task's
		_ = unix.Close(fd.num)
		return
	case fd.num >= 0:
		if errno := errnoOf(s.announce(fd.num)); errno != 0 {
			resp.flags, resp.errno = 0, -int32(errno)
			s.refused.Add(1)
		} else {
			s.announced.Add(1)
		}
	}
	// Other errors: ENOENT, the task was killed meanwhile.
	for ioctl(s.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&resp)) == unix.EINTR {
	}
	if fd.num >= 0 {
		_ = unix.Close(fd.num)
	}
}

// valid says whether the trapped task is still waiting for the answer.
func (s *supervisor) valid(id uint64) bool {
	for {
		switch ioctl(s.listener, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) {
		case 0:
			return true
		case unix.EINTR:
			continue
		}
		return false
	}
}

// fetched is the outcome of fetch: a descriptor of ours to announce and to close, or -1 where there is nothing to announce, or the
// errno to refuse the mapping with.
type fetched struct {
	num   int
	errno unix.Errno
}

// fetch brings the file that is being mapped here if it is open for reading and writing on our mount. It looks at /proc only, which
// asks nothing of the mount's daemon.
func (s *supervisor) fetch(n *notif) fetched {
	nothing := fetched{num: -1}
	target := int(int32(n.args[4]))
	if target < 0 { // the kernel answers EBADF
		return nothing
	}
	proc := strconv.FormatUint(uint64(n.pid), 10)
	info, err := control.FdInfoOf(proc, target)
	if err != nil {
		if n.pid == 0 || !gone(err) {
			s.unseen.Add(1)
		}
		return nothing
	}
	if !info.ReadWrite() || !s.ours(proc, info) {
		return nothing
	}
	fd, err := grab(int(n.pid), target)
	if err != nil {
		if gone(err) {
			return nothing
		}
		return fetched{num: -1, errno: errnoOf(err)}
	}
	// The descriptor may have been replaced since.
	if now, err := control.FdInfoOf("self", fd); err != nil || !now.ReadWrite() || now.MountID != info.MountID {
		_ = unix.Close(fd)
		return nothing
	}
	return fetched{num: fd}
}

// gone says whether err means that the task or its descriptor is no more: mmap(2) itself will say so, if anybody waits for it.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EBADF)
}

// ours says whether the file is on the mount, or on another mount of the same file system: a bind mount, or the copy of the mount
// in another mount namespace.
func (s *supervisor) ours(proc string, info control.FdInfo) bool {
	if info.MountID == s.mountID {
		return true
	}
	if s.mountDev == "" {
		return false
	}
	m, ok, err := control.MountByID(proc, info.MountID)
	return err == nil && ok && m.Dev == s.mountDev
}

// grab duplicates a descriptor of a thread into this process.
func grab(tid, target int) (int, error) {
	pidfd, err := unix.PidfdOpen(tid, pidfdThread)
	if errors.Is(err, unix.EINVAL) { // before 6.9: of the process, whose threads share descriptors but for the oddest
		var pid int
		if pid, err = processOf(tid); err == nil {
			pidfd, err = unix.PidfdOpen(pid, 0)
		}
	}
	if err != nil {
		return -1, fmt.Errorf("pidfd of thread %d: %w", tid, err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, target, 0)
	if err != nil {
		return -1, fmt.Errorf("descriptor %d of thread %d: %w", target, tid, err)
	}
	return fd, nil
}

// processOf is the process (Tgid) of a thread.
func processOf(tid int) (int, error) {
	name := "/proc/" + strconv.Itoa(tid) + "/status"
	raw, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	return parseTgid(name, string(raw))
}
