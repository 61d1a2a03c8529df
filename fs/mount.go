package fs

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"inlinefs/inline"
)

// MountOptions are those of the FUSE mount itself.
type MountOptions struct {
	Source     string // shown in /proc/mounts
	AllowOther bool
	// Extra are options for the kernel or fusermount3: ro, nosuid, nodev, noatime...
	Extra []string
	NoACL bool
}

// Serve mounts f on mnt and returns when the mount answers; Wait then ends with the unmount. Root mounts directly, others through
// fusermount3. The error names what is missing.
func (f *FileSystem) Serve(mnt string, o MountOptions) (*fuse.Server, error) {
	if err := checkMountPoint(mnt); err != nil {
		return nil, err
	}
	direct := os.Geteuid() == 0
	flags, extra := kernelFlags(o.Extra, direct)
	opts := &fuse.MountOptions{
		AllowOther: o.AllowOther, FsName: o.Source, Name: "inlinefs", Options: append([]string{"default_permissions"}, extra...),
		MaxWrite: 1 << 20, MaxReadAhead: 1 << 20, MaxBackground: 64, CongestionThreshold: 48, DisableSplice: true, ExplicitDataCacheControl: true, EnableAcl: !o.NoACL,
		EnableSymlinkCaching: true, DirectMountStrict: direct, DirectMountFlags: flags,
		ExtraCapabilities:    fuse.CAP_DONT_MASK | fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_NO_OPENDIR_SUPPORT,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH,
		PanicHandler:         f.panicked,
		Logger:               log.New(logWriter{f.log}, "", 0),
	}
	if f.opts.Mmap.observes() {
		opts.ExtraCapabilities |= fuse.CAP_DIRECT_IO_ALLOW_MMAP
	}
	s, err := fuse.NewServer(f, mnt, opts)
	if err != nil {
		return nil, mountError(mnt, err)
	}
	go s.Serve()
	if err := s.WaitMount(); err != nil {
		uerr := s.Unmount()
		if errors.Is(uerr, unix.EINVAL) {
			return s, nil // no mount point any more: it was mounted, and somebody has unmounted it already
		}
		return nil, errors.Join(mountError(mnt, err), uerr)
	}
	if err := f.agreed(s); err != nil {
		return nil, errors.Join(err, s.Unmount())
	}
	return s, nil
}

// kernelFlags takes the options out of a list that mount(2) has flags for. What fusermount3 does not know of them has no meaning on a
// FUSE mount (access times are the daemon's matter) and is left out. As for every FUSE mount, nosuid and nodev hold unless undone.
func kernelFlags(list []string, direct bool) (flags uintptr, rest []string) {
	flags = unix.MS_NOSUID | unix.MS_NODEV
	set := map[string]uintptr{"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
		"strictatime": unix.MS_STRICTATIME, "lazytime": unix.MS_LAZYTIME, "atime": 0}
	for _, o := range list {
		if bit, ok := set[o]; ok {
			flags |= bit
			if direct || o != "noatime" {
				continue
			}
		}
		rest = append(rest, o) // go-fuse knows the flags of suid, dev, exec
	}
	return flags, rest
}

// agreed makes sure that the kernel offered what the mode needs: nothing degrades silently.
func (f *FileSystem) agreed(s *fuse.Server) error {
	k := s.KernelSettings()
	offered := uint64(k.Flags) | uint64(k.Flags2)<<32
	if f.opts.Mmap.observes() && offered&fuse.CAP_DIRECT_IO_ALLOW_MMAP == 0 {
		return fmt.Errorf("mmap=%s needs FUSE_DIRECT_IO_ALLOW_MMAP (Linux 6.6 or later); this kernel speaks FUSE %d.%d without it", f.opts.Mmap, k.Major, k.Minor)
	}
	return nil
}

// checkMountPoint wants a directory.
func checkMountPoint(mnt string) error {
	st, err := os.Stat(mnt)
	var named *os.PathError
	if errors.As(err, &named) {
		err = named.Err // the path is in the message already
	}
	if err != nil {
		return fmt.Errorf("mount point %s: %w", mnt, err)
	}
	if !st.IsDir() {
		return fmt.Errorf("mount point %s: not a directory", mnt)
	}
	return nil
}

// mountError adds what is usually missing.
func mountError(mnt string, err error) error {
	fd, e := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if e != nil {
		return fmt.Errorf("mount on %s: cannot open /dev/fuse (%w): is the fuse module loaded, and in a container, was --device /dev/fuse given? (%w)", mnt, e, err)
	}
	if e := unix.Close(fd); e != nil {
		err = errors.Join(err, e)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("mount on %s: %w", mnt, err)
	}
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("mount on %s: %w: mount(2) wants CAP_SYS_ADMIN; in a container, was --cap-add SYS_ADMIN given?", mnt, err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("mount on %s: %w: a security module forbids mount(2); in a container, was --security-opt apparmor=unconfined given?", mnt, err)
	}
	return fmt.Errorf("mount on %s: %w", mnt, err)
}

// panicked turns a panic in a handler into EIO for its caller and a record in the log; the request's locks stay taken.
func (f *FileSystem) panicked(v any) fuse.Status {
	f.log.Error("panic in a request", "value", fmt.Sprint(v), "stack", string(debug.Stack()))
	return fuse.EIO
}

// logWriter passes go-fuse's lines on.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Log(context.Background(), slog.LevelDebug, "go-fuse: "+strings.TrimSpace(string(p)))
	return len(p), nil
}

// DefaultStrategy is the conversion strategy that the build's tag chose.
func DefaultStrategy() string { return inline.DefaultName }

// Strategies lists the strategies that are compiled in.
func Strategies() []string { return inline.Names() }
