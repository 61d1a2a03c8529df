package fs

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// asUser runs fn on a thread that has become uid (and group uid); the thread ends afterwards.
func asUser(uid int, fn func() (int, error)) (n int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		// The raw calls change this thread only.
		if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); e != 0 {
			err = e
			return
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
			err = e
			return
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
			err = e
			return
		}
		n, err = fn()
	}()
	<-done
	return n, err
}
