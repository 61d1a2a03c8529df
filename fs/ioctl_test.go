package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"inlinefs/internal/testimage"
	"inlinefs/ondisk"
)

// flagsOf and setFlagsOf are lsattr and chattr.
func flagsOf(path string) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
}

func setFlagsOf(path string, flags uint32) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags))
}

// TestFlagsShowInline: lsattr tells whether a file lies in its inode.
func TestFlagsShowInline(t *testing.T) {
	m := mount(t, plain(), Options{})
	p := m.path("f")
	for _, c := range []struct {
		content      string
		inline, exts bool
	}{{"small", true, false}, {strings.Repeat("x", 5000), false, true}} {
		write(t, p, c.content)
		fl, err := flagsOf(p)
		must(t, err)
		if got := fl&ondisk.FlInlineData != 0; got != c.inline || m.inline(p) != c.inline || (fl&ondisk.FlExtents != 0) != c.exts {
			t.Errorf("%d bytes: flags %#x, want inline %v", len(c.content), fl, c.inline)
		}
	}
	if fl, err := flagsOf(m.dir); err != nil || fl&ondisk.FlInlineData != 0 {
		t.Errorf("the root: %#x, %v", fl, err)
	}
}

// TestFlagsBind: what chattr sets is obeyed, stays through a remount, and moves ctime.
func TestFlagsBind(t *testing.T) {
	testimage.FuseUsable(t)
	img := testimage.Make(t, plain())
	m := mountConfig(t, config{img: img})
	p := m.path("f")
	write(t, p, "small")
	fl, err := flagsOf(p)
	must(t, err)
	before := stat(t, p).Ctim
	time.Sleep(20 * time.Millisecond)
	must(t, setFlagsOf(p, fl|ondisk.FlAppend))
	if stat(t, p).Ctim == before {
		t.Error("ctime has not moved")
	}
	if err := os.Truncate(p, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncate of an append-only file: %v, want EPERM", err)
	}
	must(t, setFlagsOf(p, fl|ondisk.FlImmutable))
	m.unmount()
	m = mountConfig(t, config{img: img})
	p = m.path("f")
	if err := os.Remove(p); !errors.Is(err, unix.EPERM) {
		t.Errorf("unlink of an immutable file: %v, want EPERM", err)
	}
	if now, err := flagsOf(p); err != nil || now != fl|ondisk.FlImmutable {
		t.Errorf("flags %#x, %v, want %#x", now, err, fl|ondisk.FlImmutable)
	}
	must(t, setFlagsOf(p, fl))
	must(t, os.Remove(p))
}

// TestFlagsSameAsKernel sets each flag of a file and of a directory on the kernel's ext4 and on ours, and compares errno and outcome.
func TestFlagsSameAsKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a loop mount by the host's kernel")
	}
	testimage.FuseUsable(t)
	// What inlinefs refuses by its own decision: another way to map blocks, to journal data, to reach memory.
	const refused = ondisk.FlExtents | ondisk.FlJournal | ondisk.FlDax
	run := func(dir string) (out []string) {
		must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600))
		must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o700))
		for _, name := range []string{"file", "dir"} {
			p := filepath.Join(dir, name)
			fl, err := flagsOf(p)
			must(t, err)
			for bit := range 32 {
				if refused>>bit&1 != 0 {
					continue
				}
				err := setFlagsOf(p, fl^1<<bit)
				now, gerr := flagsOf(p)
				out = append(out, fmt.Sprintf("%s, bit %#x: %v; %#x, %v", name, 1<<bit, err, now^fl, gerr))
				if now != fl {
					must(t, setFlagsOf(p, fl))
				}
			}
		}
		return out
	}
	o := plain()
	without := o
	without.Features = strings.Replace(o.Features, "inline_data", "^inline_data", 1)
	kdir, unmount := testimage.KernelMount(t, testimage.Make(t, without), "")
	want := run(kdir)
	unmount()
	m := mount(t, without, Options{})
	for k, got := range run(m.dir) {
		if got != want[k] {
			t.Errorf("ours: %s; the kernel's: %s", got, want[k])
		}
	}
	for _, bit := range []uint32{ondisk.FlExtents, ondisk.FlJournal, ondisk.FlDax} {
		fl, err := flagsOf(m.path("file"))
		must(t, err)
		if err := setFlagsOf(m.path("file"), fl^bit); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("bit %#x: %v, want EOPNOTSUPP", bit, err)
		}
	}
}

// TestExtendedFlags: the extended form sets what it can say, keeps the rest, and refuses extent sizes and projects.
func TestExtendedFlags(t *testing.T) {
	m := mount(t, plain(), Options{})
	p := m.path("f")
	write(t, p, "small")
	fl, err := flagsOf(p)
	must(t, err)
	must(t, setFlagsOf(p, fl|ondisk.FlNoDump|0x8)) // nodump and sync
	f, err := os.Open(p)
	must(t, err)
	defer f.Close()
	call := func(req uint, x []byte) error {
		if _, _, no := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(req), uintptr(unsafe.Pointer(&x[0]))); no != 0 {
			return no
		}
		return nil
	}
	x := make([]byte, sizeofFsxattr)
	must(t, call(fsGetXattr, x))
	if got := binary.NativeEndian.Uint32(x); got != 0x80|0x20 {
		t.Errorf("extended flags %#x, want nodump and sync", got)
	}
	binary.NativeEndian.PutUint32(x, 0x40) // noatime
	must(t, call(fsSetXattr, x))
	if now, err := flagsOf(p); err != nil || now != fl|ondisk.FlNoAtime {
		t.Errorf("flags %#x, %v, want %#x", now, err, fl|ondisk.FlNoAtime)
	}
	for at, what := range map[int]string{4: "an extent size", 12: "a project", 16: "a CoW extent size"} {
		y := slices.Clone(x)
		binary.NativeEndian.PutUint32(y[at:], 4096)
		if err := call(fsSetXattr, y); !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s: %v, want it refused", what, err)
		}
	}
}
