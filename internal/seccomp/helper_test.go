package seccomp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const mapSize = 4096

// TestMain makes the test binary the shim and the command under test as well.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "exec-shim" {
		err := ShimMain(os.Args[2:])
		if !errors.Is(err, ErrTold) {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(StatusFailed)
	}
	if len(os.Args) > 2 && os.Args[1] == "helper" {
		os.Exit(helper(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

// helper is the command under test. It exits with the errno of mmap(2), or with 0.
func helper(mode string, args []string) int {
	switch mode {
	case "exit":
		n, _ := strconv.Atoi(args[0])
		return n
	case "kill":
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	case "term":
		return waitTerm(os.Stdout)
	case "map":
		return each(args, mapShared)
	case "readonly":
		return each(args, func(name string) int { return mapFile(name, os.O_RDONLY, unix.PROT_READ, unix.MAP_SHARED) })
	case "private":
		return each(args, func(name string) int {
			return mapFile(name, os.O_RDWR, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		})
	case "anonymous":
		return mapFd(-1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	case "closed":
		return mapFd(999, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	case "threads":
		return threads(args)
	case "child":
		return child(append([]string{"map"}, args...))
	case "grandchild":
		return child(append([]string{"child"}, args...))
	case "orphan":
		return orphan(args[0])
	case "after-eof":
		_, _ = io.ReadAll(os.NewFile(3, "pipe"))
		return mapShared(args[0])
	case "newns":
		return newNamespace(args[0])
	case "nested":
		return nested()
	}
	return 99
}

func each(names []string, f func(string) int) int {
	for _, n := range names {
		if status := f(n); status != 0 {
			return status
		}
	}
	return 0
}

func mapShared(name string) int {
	return mapFile(name, os.O_RDWR, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

func mapFile(name string, flags, prot, how int) int {
	f, err := os.OpenFile(name, flags, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 98
	}
	defer f.Close()
	return mapFd(int(f.Fd()), prot, how)
}

func mapFd(fd, prot, how int) int {
	p, err := unix.Mmap(fd, 0, mapSize, prot, how)
	if err != nil {
		return int(errnoOf(err))
	}
	if prot&unix.PROT_WRITE != 0 {
		p[0] = 'w'
	}
	if err := unix.Munmap(p); err != nil {
		return 97
	}
	return 0
}

func threads(names []string) int {
	status := make([]int, len(names))
	var wg sync.WaitGroup
	for i, n := range names {
		wg.Go(func() {
			runtime.LockOSThread()
			status[i] = mapShared(n)
		})
	}
	wg.Wait()
	for _, s := range status {
		if s != 0 {
			return s
		}
	}
	return 0
}

func child(args []string) int {
	cmd := exec.Command("/proc/self/exe", append([]string{"helper"}, args...)...)
	cmd.Stderr = os.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 96
	}
	return 0
}

// orphan leaves a child behind that maps the file after its parent's end.
func orphan(name string) int {
	r, _, err := os.Pipe()
	if err != nil {
		return 95
	}
	cmd := exec.Command("/proc/self/exe", "helper", "after-eof", name)
	cmd.ExtraFiles = []*os.File{r}
	if err := cmd.Start(); err != nil {
		return 94
	}
	return 5
}

func newNamespace(name string) int {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		fmt.Println("unshare:", err)
		return 93
	}
	return mapShared(name)
}

func waitTerm(w io.Writer) int {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGTERM)
	fmt.Fprintln(w, "ready")
	<-c
	return 7
}

// nested runs the supervisor inside of itself.
func nested() int {
	_, _, err := Run(context.Background(), Options{
		Announce: func(int) error { return nil },
		Argv:     []string{"/proc/self/exe", "helper", "exit", "0"},
		Shim:     []string{"/proc/self/exe", "exec-shim"},
	})
	var le *ListenerError
	if errors.As(err, &le) {
		fmt.Println(err)
		return int(le.Errno)
	}
	fmt.Fprintln(os.Stderr, err)
	return 92
}
