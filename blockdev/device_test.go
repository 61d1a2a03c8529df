package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"inlinefs/internal/testimage"
)

func tempFile(t testing.TB, size int) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// devices are all kinds, size bytes each.
func devices(t testing.TB, size int) map[string]Device {
	t.Helper()
	file, err := OpenFile(tempFile(t, size), FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	part, err := OpenFile(tempFile(t, size+5000), FileOptions{Offset: 5000})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]Device{
		"file": file, "partition": part, "mem": NewMem(make([]byte, size)), "overlay": NewOverlay(NewMemReadOnly(make([]byte, size))),
		"faulty": NewFaulty(NewMem(make([]byte, size))),
	}
	t.Cleanup(func() {
		for name, d := range all {
			if err := d.Close(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	return all
}

// TestModel reads and writes every device and a slice of bytes alike.
func TestModel(t *testing.T) {
	const size = 3*overlayPage + 700
	for name, d := range devices(t, size) {
		t.Run(name, func(t *testing.T) {
			want := make([]byte, size)
			if d.Size() != size || d.ReadOnly() {
				t.Fatalf("size %d, read-only %v", d.Size(), d.ReadOnly())
			}
			rapid.Check(t, func(t *rapid.T) {
				off := rapid.IntRange(0, size-1).Draw(t, "off")
				p := rapid.SliceOfN(rapid.Byte(), 1, min(6000, size-off)).Draw(t, "bytes")
				if n, err := d.WriteAt(p, int64(off)); n != len(p) || err != nil {
					t.Fatalf("write: %d, %v", n, err)
				}
				copy(want[off:], p)
				got := make([]byte, size)
				if n, err := d.ReadAt(got, 0); n != size || err != nil || !bytes.Equal(got, want) {
					t.Fatalf("read: %d, %v, the same %v", n, err, bytes.Equal(got, want))
				}
				part := make([]byte, len(p))
				if _, err := d.ReadAt(part, int64(off)); err != nil || !bytes.Equal(part, p) {
					t.Fatalf("read of a part: %v", err)
				}
			})
			if err := d.Flush(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBounds: what lies outside is refused as a whole.
func TestBounds(t *testing.T) {
	for name, d := range devices(t, 1000) {
		for _, at := range []struct{ off, n int64 }{{1000, 1}, {999, 2}, {-1, 1}, {1 << 62, 1}, {0, 1001}} {
			p := make([]byte, at.n)
			if _, err := d.ReadAt(p, at.off); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: read of %d at %d: %v, want %v", name, at.n, at.off, err, io.ErrUnexpectedEOF)
			}
			if n, err := d.WriteAt(p, at.off); err == nil || n != 0 {
				t.Errorf("%s: write of %d at %d: %d, %v, want an error", name, at.n, at.off, n, err)
			}
		}
	}
}

// TestReadOnly devices refuse writes.
func TestReadOnly(t *testing.T) {
	file, err := OpenFile(tempFile(t, 100), FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []Device{file, NewMemReadOnly(make([]byte, 100))} {
		if _, err := d.WriteAt([]byte{1}, 0); !errors.Is(err, ErrReadOnly) || !d.ReadOnly() {
			t.Errorf("write: %v, read-only %v", err, d.ReadOnly())
		}
		if err := errors.Join(d.Flush(), d.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestLock: one writer or many readers.
func TestLock(t *testing.T) {
	path := tempFile(t, 100)
	open := func(o FileOptions) (*File, error) { return OpenFile(path, o) }
	w, err := open(FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []FileOptions{{}, {ReadOnly: true}} {
		d, err := open(o)
		if !errors.Is(err, ErrBusy) || d != nil {
			t.Errorf("%+v beside a writer: %v, want %v", o, err, ErrBusy)
		} else if who := fmt.Sprintf("process %d, ", os.Getpid()); readable("/proc/locks") && !strings.Contains(err.Error(), who) {
			t.Errorf("%+v beside a writer: %v, want a mention of %q", o, err, who)
		}
	}
	quiet, err := open(FileOptions{ReadOnly: true, NoLock: true})
	if err != nil {
		t.Errorf("without a lock: %v", err)
	}
	if err := errors.Join(w.Close(), quiet.Close()); err != nil {
		t.Fatal(err)
	}
	a, e1 := open(FileOptions{ReadOnly: true})
	b, e2 := open(FileOptions{ReadOnly: true})
	if err := errors.Join(e1, e2); err != nil {
		t.Fatal(err)
	}
	if _, err := open(FileOptions{}); !errors.Is(err, ErrBusy) {
		t.Errorf("a writer beside readers: %v, want %v", err, ErrBusy)
	}
	if err := errors.Join(a.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
}

// readable says whether /proc has the file; what it tells of locks is for messages only.
func readable(path string) bool {
	_, err := os.ReadFile(path)
	return err == nil
}

// TestLockOfTheKernel: what the kernel has mounted is not written beside it, through its file or its device; it may be read.
func TestLockOfTheKernel(t *testing.T) {
	img := testimage.Make(t, testimage.Options{Features: "^has_journal"})
	dir, unmount := testimage.KernelMount(t, img, "rw")
	t.Cleanup(unmount)
	dev := deviceOf(t, dir)
	for _, path := range []string{img, dev} {
		if _, err := OpenFile(path, FileOptions{}); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s for writing: %v, want %v", path, err, ErrBusy)
		}
		d, err := OpenFile(path, FileOptions{ReadOnly: true})
		if err != nil {
			t.Errorf("%s for reading: %v", path, err)
		} else if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	unmount()
	// The loop device may go a moment after the mount.
	var d *File
	err := ErrBusy
	for try := 0; errors.Is(err, ErrBusy) && try < 100; try++ {
		if d, err = OpenFile(img, FileOptions{}); err != nil {
			time.Sleep(50 * time.Millisecond)
		}
	}
	if err != nil {
		t.Fatalf("after the unmount: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// deviceOf is the source of the mount on dir.
func deviceOf(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 1 && f[1] == dir {
			return f[0]
		}
	}
	t.Fatalf("no mount on %s", dir)
	return ""
}

// TestOpenErrors names what was wrong.
func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		path string
		o    FileOptions
	}{
		{filepath.Join(dir, "missing"), FileOptions{}},
		{dir, FileOptions{ReadOnly: true}},
		{tempFile(t, 0), FileOptions{}},
		{tempFile(t, 100), FileOptions{Offset: 100}},
		{tempFile(t, 100), FileOptions{Offset: -1}},
	} {
		d, err := OpenFile(tc.path, tc.o)
		if err == nil {
			t.Errorf("%s %+v was opened", tc.path, tc.o)
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestFaults: rules fail what they name and count.
func TestFaults(t *testing.T) {
	read := func(f *Faulty, off int64) error {
		_, err := f.ReadAt(make([]byte, 10), off)
		return err
	}
	for _, tc := range []struct {
		name string
		rule Rule
		fail []bool // of reads at 0, 100, 200, 100
	}{
		{"all", Rule{Op: OpRead}, []bool{true, true, true, true}},
		{"range", Rule{Op: OpRead, Start: 105, End: 110}, []bool{false, true, false, true}},
		{"to the end", Rule{Op: OpRead, Start: 110}, []bool{false, false, true, false}},
		{"second", Rule{Op: OpRead, Nth: 2}, []bool{false, true, false, false}},
		{"from the second on", Rule{Op: OpRead, Nth: 2, From: true}, []bool{false, true, true, true}},
		{"writes only", Rule{Op: OpWrite}, []bool{false, false, false, false}},
	} {
		f := NewFaulty(NewMem(make([]byte, 1000)))
		tc.rule.Err = syscall.EIO
		f.Add(tc.rule)
		for k, off := range []int64{0, 100, 200, 100} {
			if err := read(f, off); errors.Is(err, syscall.EIO) != tc.fail[k] {
				t.Errorf("%s: read %d at %d: %v, want a failure: %v", tc.name, k, off, err, tc.fail[k])
			}
		}
		if n := f.Count(OpRead); n != 4 {
			t.Errorf("%s: %d reads counted", tc.name, n)
		}
		f.Clear()
		if err := read(f, 100); err != nil {
			t.Errorf("%s: after the rules were cleared: %v", tc.name, err)
		}
	}
	f := NewFaulty(NewMem(make([]byte, 10)))
	f.Add(Rule{Op: OpFlush, Err: syscall.EIO})
	if err := f.Flush(); !errors.Is(err, syscall.EIO) || f.Count(OpFlush) != 1 {
		t.Errorf("flush: %v", err)
	}
}

// TestOverlayKeepsBelow: what is below does not change.
func TestOverlayKeepsBelow(t *testing.T) {
	below := NewMem(bytes.Repeat([]byte{7}, 10000))
	before := below.Snapshot()
	o := NewOverlay(below)
	if _, err := o.WriteAt(make([]byte, 5000), 3000); err != nil {
		t.Fatal(err)
	}
	if err := o.Flush(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(below.Snapshot(), before) {
		t.Error("the device below changed")
	}
	got := make([]byte, 10000)
	if _, err := o.ReadAt(got, 0); err != nil || got[2999] != 7 || got[3000] != 0 || got[7999] != 0 || got[8000] != 7 {
		t.Errorf("%v, %v", err, got[2999:3001])
	}
}

// TestPreallocate: holes become blocks, and no byte changes.
func TestPreallocate(t *testing.T) {
	const size = 1 << 20
	path := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), writeAll(f, []byte("kept"), 300000), f.Close()); err != nil {
		t.Fatal(err)
	}
	d, err := OpenFile(path, FileOptions{Offset: 4096})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Preallocate(65536, 512<<10); err != nil {
		t.Fatal(err)
	}
	if err := d.Preallocate(0, size); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a range behind the end: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	copy(want[300000:], "kept")
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the content changed (%v)", err)
	}
	f, err = os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if hole, err := unix.Seek(int(f.Fd()), 4096+65536, unix.SEEK_HOLE); err != nil || hole < 4096+65536+512<<10 {
		t.Errorf("first hole in the range at %d (%v)", hole, err)
	}
	if data, err := unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA); err != nil || data < 65536 {
		t.Errorf("bytes before the range were allocated from %d (%v)", data, err)
	}
}

func writeAll(f *os.File, p []byte, off int64) error {
	_, err := f.WriteAt(p, off)
	return err
}
