package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"inlinefs/blockdev"
	"inlinefs/fs"
	"inlinefs/internal/event"
	"inlinefs/super"
)

// readyFD is where a background mount tells its parent the outcome.
const readyEnv = "INLINEFS_READY_FD"

func newMountCmd() *cobra.Command {
	c := &mountConfig{mmap: fs.MmapCached}
	var opts []string
	var ignore bool
	cmd := &cobra.Command{
		Use:   "mount [-f] [-o OPTS] IMAGE MNT",
		Short: "mount an ext4 image or block device",
		Long: `mount shows the ext4 file system in IMAGE at the directory MNT and returns when it answers. Unmount with inlinefs umount,
umount or fusermount3 -u; SIGTERM and SIGINT to the process do the same. An image in use is waited for, at most ` + lockWait.String() + `: the
daemon of the last mount may still be writing it back. Exit status: 0 mounted, 1 usage, 32 not mounted.

Options (-o, separated by commas; BYTES may end in K, M, G or T):
  ro, rw                            read-only; a journal with something in it is replayed into memory
  norecovery, noload                leave the journal as it is (only with ro, if there is something in it)
  offset=BYTES                      where the file system starts in IMAGE
  errors=continue|remount-ro|panic  what a damaged image leads to (default: what its superblock says)
  sync, dirsync                     each change is on the device when the call returns; dirsync: those of directories
  commit=SECONDS                    age at which a transaction is committed (default 5)
  data=ordered|writeback            accepted; it is always ordered
  noacl                             no access control lists
  allow_other                       other users may use the mount
  fsname=NAME                       what /proc/mounts shows as the source
  cache_size=BYTES                  memory for metadata (default 64M)
  mmap=cached|observe|direct        observe: page faults and mapped stores of inline files are seen one by one, the race can be raced; direct: of
                                    all files, no append is lost beside a mapping (README, "Limits"), reads are slower (default cached)
  conversion=STRATEGY               how a file leaves its inode (inlinefs version lists them)
  window=DURATION                   widen the race by this time, at most 1s
  log=debug|info|warn|error         what goes to standard error (default info)
and the kernel's nosuid, nodev, noexec, noatime...`,
		DisableFlagsInUseLine: true,
		Args:                  func(cmd *cobra.Command, args []string) error { return wantArgs(cmd, args, 2, 2) },
		RunE: func(_ *cobra.Command, args []string) error {
			for _, o := range opts {
				if err := c.parse(o); err != nil {
					return &codeError{exitUsage, err}
				}
			}
			c.image, c.mnt = args[0], args[1]
			if err := c.run(); err != nil {
				return &codeError{exitMount, err}
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&opts, "options", "o", nil, "comma-separated mount options")
	cmd.Flags().BoolVarP(&c.foreground, "foreground", "f", false, "stay in the foreground")
	cmd.Flags().BoolVarP(&ignore, "sloppy", "s", false, "accepted for mount(8), changes nothing")
	cmd.Flags().BoolVarP(&ignore, "no-mtab", "n", false, "accepted for mount(8), changes nothing")
	cmd.Flags().BoolVarP(&ignore, "verbose", "v", false, "accepted for mount(8), changes nothing")
	return cmd
}

func (c *mountConfig) run() error {
	if !c.foreground {
		return background()
	}
	ready, err := readyPipe()
	if err != nil {
		return err
	}
	err = c.serve(ready)
	if err != nil && ready != nil {
		ready.report(err)
		return errTold
	}
	return err
}

// errTold ends a process whose parent has printed the reason.
var errTold = errors.New("not mounted")

// background starts this command again with -f and waits until it is mounted or says why not.
func background() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	args := os.Args[1:]
	if strings.HasPrefix(filepath.Base(os.Args[0]), "mount.") {
		args = append([]string{"mount"}, args...)
	}
	k := slices.Index(args, "mount")
	args = slices.Insert(slices.Clone(args), k+1, "-f")
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), readyEnv+"=3")
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, r.Close(), w.Close())
	}
	if err := w.Close(); err != nil {
		return err
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if line = strings.TrimSpace(line); line == "mounted" {
		return cmd.Process.Release()
	}
	werr := cmd.Wait()
	if line == "" {
		return fmt.Errorf("the mount process ended before it was mounted: %v", werr)
	}
	return errors.New(line)
}

// readyWriter tells the parent, once.
type readyWriter struct{ f *os.File }

func readyPipe() (*readyWriter, error) {
	if os.Getenv(readyEnv) == "" {
		return nil, nil
	}
	if err := os.Unsetenv(readyEnv); err != nil {
		return nil, err
	}
	syscall.CloseOnExec(3)
	return &readyWriter{os.NewFile(3, "ready")}, nil
}

func (r *readyWriter) report(err error) {
	msg := "mounted"
	if err != nil {
		msg = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	// A parent that is gone does not care.
	_, _ = fmt.Fprintln(r.f, msg)
	_ = r.f.Close()
}

func (c *mountConfig) logger(w io.Writer) (*slog.Logger, error) {
	var lv slog.Level
	if c.logLevel == "" {
		c.logLevel = "info"
	}
	if err := lv.UnmarshalText([]byte(c.logLevel)); err != nil {
		return nil, fmt.Errorf("log=%s: want debug, info, warn or error", c.logLevel)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: lv})), nil
}

// fuseServer is what a signal needs of a mount.
type fuseServer interface{ Unmount() error }

// errNotMountedYet makes a signal that comes before the mount wait for it.
var errNotMountedYet = errors.New("not mounted yet")

// serve mounts and returns after the unmount.
func (c *mountConfig) serve(ready *readyWriter) error {
	log, err := c.logger(os.Stderr)
	if err != nil {
		return err
	}
	if c.image, err = filepath.Abs(c.image); err != nil {
		return err // a table of mounts is read from anywhere
	}
	file, err := c.open()
	if err != nil {
		return err
	}
	var dev blockdev.Device = file
	if !c.noRecovery {
		if dev, err = fs.Recover(file, c.ro, log); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", c.image, err), file.Close())
		}
	}
	f, s, err := c.build(dev, log)
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	defer f.LockReports()()
	for _, n := range s.Notices {
		log.Warn(n)
	}
	mo := fs.MountOptions{Source: c.source(), AllowOther: c.allowOther, NoACL: c.noACL, Extra: c.kernel}
	if s.ReadOnly() {
		mo.Extra = append(mo.Extra, "ro")
	}
	if err := f.Start(); err != nil {
		return errors.Join(err, f.Stop(), dev.Close())
	}
	// Before the mount: go-fuse opens a file of it for a moment, and a process that a signal ends just then waits for itself.
	var served atomic.Pointer[fuseServer]
	stop := unmountOnSignal(log, func() error {
		if server := served.Load(); server != nil {
			return (*server).Unmount()
		}
		return errNotMountedYet
	})
	server, err := f.Serve(c.mnt, mo)
	if err != nil {
		stop()
		return errors.Join(err, f.Stop(), dev.Close())
	}
	var running fuseServer = server
	served.Store(&running)
	sdNotify("READY=1")
	if ready != nil {
		ready.report(nil)
		if err := leavePipe(int(os.Stderr.Fd())); err != nil {
			log.Warn("standard error is a pipe and stays open", "err", err)
		}
	}
	server.Wait()
	stop()
	sdNotify("STOPPING=1")
	if err := errors.Join(f.Stop(), dev.Close()); err != nil {
		log.Error("unmount", "err", err)
		return err
	}
	return nil
}

// leavePipe points a standard error that is a pipe to /dev/null: who captures what a background mount says would otherwise wait for the
// unmount. A file, a terminal or the journal's socket goes on being written to.
func leavePipe(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Dup3(int(null.Fd()), fd, 0), null.Close())
}

func (c *mountConfig) source() string {
	if c.fsname != "" {
		return c.fsname
	}
	return c.image
}

func (c *mountConfig) open() (*blockdev.File, error) {
	o := blockdev.FileOptions{ReadOnly: c.ro, Offset: c.offset}
	dev, err := openWaiting(context.Background(), c.image, o)
	if err != nil && !c.ro && (errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS)) {
		// As mount(8) does for write-protected media.
		o.ReadOnly = true
		if ro, e := blockdev.OpenFile(c.image, o); e == nil {
			fmt.Fprintf(os.Stderr, "inlinefs: %s is write-protected, mounting read-only\n", c.image)
			return ro, nil
		}
	}
	return dev, err
}

func (c *mountConfig) build(dev blockdev.Device, log *slog.Logger) (*fs.FileSystem, *super.FS, error) {
	var f *fs.FileSystem
	mnt, err := filepath.Abs(c.mnt)
	if err != nil {
		return nil, nil, err
	}
	s, err := super.Open(dev, super.Options{
		Log: log, ReadOnly: c.ro, NoRecovery: c.noRecovery, Errors: c.errors, CacheSize: c.cacheSize, Strategy: strategyName(c.conversion),
		MountPoint: mnt, Sync: c.sync, DirSync: c.dirSync, Ordered: c.ordered,
		Events: func(ino uint64) []event.Event { return f.EventsOf(ino) },
		OnPanic: func(err error) {
			log.Error("errors=panic: the mount ends here", "because", err)
			os.Exit(1)
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", c.image, err)
	}
	f, err = fs.New(s, fs.Options{Log: log, Mmap: c.mmap, Strategy: c.conversion, Window: c.window, Commit: c.commit, Version: version, Image: c.image})
	return f, s, err
}

func strategyName(s string) string {
	if s == "" {
		return fs.DefaultStrategy()
	}
	return s
}

// unmountOnSignal unmounts on SIGINT, SIGTERM and SIGHUP; a second signal ends the process, which leaves the image as after a crash.
func unmountOnSignal(log *slog.Logger, unmount func() error) (stop func()) {
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			case sig := <-ch:
				if n > 0 {
					log.Error("second signal: ending without a clean unmount", "signal", sig)
					os.Exit(128)
				}
				log.Info("unmounting", "signal", sig)
				go retryUnmount(log, unmount, done)
			}
		}
	}()
	return func() { signal.Stop(ch); close(done) }
}

// retryUnmount tries until it works: a file may still be open.
func retryUnmount(log *slog.Logger, unmount func() error, done <-chan struct{}) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := unmount()
		if err == nil {
			return
		}
		select {
		case <-done:
			return
		case <-time.After(wait):
		}
		if wait == 2*time.Second {
			log.Warn("still busy, trying to unmount", "err", err)
		}
	}
}

// sdNotify tells systemd, if it asked (sd_notify(3)). Not being heard is no error of the mount.
func sdNotify(state string) {
	addr := os.Getenv("NOTIFY_SOCKET")
	if addr == "" {
		return
	}
	if addr[0] == '@' {
		addr = "\x00" + addr[1:]
	}
	conn, err := net.Dial("unixgram", addr)
	if err != nil {
		return
	}
	_, _ = conn.Write([]byte(state))
	_ = conn.Close()
}
