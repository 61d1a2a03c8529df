package fs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"inlinefs/internal/testimage"
)

// TestReferenceTable is the behaviour of the 6.18 kernel around inline data, as measured there.
func TestReferenceTable(t *testing.T) {
	for _, size := range []int{256, 512, 1024} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			o := plain()
			o.InodeSize = size
			m := mount(t, o, Options{})
			limit := map[int]int{256: 128, 512: 384, 1024: 896}[size]
			for _, c := range []struct {
				n      int
				inline bool
			}{{0, false}, {1, true}, {59, true}, {60, true}, {61, true}, {limit - 1, true}, {limit, true}, {limit + 1, false}, {limit + 100, false}} {
				p := m.path(fmt.Sprint(c.n))
				write(t, p, pattern(c.n, c.n))
				if got := m.inline(p); got != c.inline {
					t.Errorf("%d bytes: inline %v, want %v", c.n, got, c.inline)
				}
				if got := read(t, p); got != pattern(c.n, c.n) {
					t.Errorf("%d bytes read back as %d", c.n, len(got))
				}
			}
			shrinkAndGrow(t, m, limit)
			must(t, os.Mkdir(m.path("d"), 0o755))
			for k := range 3 {
				write(t, m.path("d", fmt.Sprint(k)), "")
			}
			if st := stat(t, m.path("d")); st.Size != int64(limit) && st.Size != 60 || !m.inline(m.path("d")) {
				t.Errorf("directory of 3 names: size %d inline %v", st.Size, m.inline(m.path("d")))
			}
			m.unmount()
			out := testimage.Debugfs(t, m.c.img, false, "stat /shrunk", "stat /d")
			if n := bytes.Count([]byte(out), []byte("Size of inline data: ")); n != 2 {
				t.Errorf("debugfs sees %d of 2 inline inodes:\n%s", n, out)
			}
		})
	}
}

// shrinkAndGrow truncates and preallocates inline files.
func shrinkAndGrow(t *testing.T, m *mounted, limit int) {
	t.Helper()
	state := func(p string, inline bool, content string) {
		t.Helper()
		if got := m.inline(p); got != inline {
			t.Errorf("%s: inline %v, want %v", filepath.Base(p), got, inline)
		}
		if got := read(t, p); got != content {
			t.Errorf("%s: %d bytes, want %d: %.80q", filepath.Base(p), len(got), len(content), got)
		}
	}
	p := m.path("shrunk")
	full := pattern(limit, 9)
	write(t, p, full)
	must(t, os.Truncate(p, 10))
	state(p, true, full[:10])
	must(t, os.Truncate(p, 40))
	state(p, true, full[:10]+string(make([]byte, 30)))
	must(t, os.Truncate(p, 0))
	state(p, true, "")
	p = m.path("grown")
	write(t, p, full)
	must(t, os.Truncate(p, 100000))
	state(p, false, full+string(make([]byte, 100000-limit)))
	p = m.path("allocated")
	write(t, p, full)
	must(t, fallocate(p, 0, 0, 8192))
	state(p, false, full+string(make([]byte, 8192-limit)))
	if st := stat(t, p); st.Blocks != 16 {
		t.Errorf("8192 bytes allocated: %d sectors", st.Blocks)
	}
	p = m.path("appended")
	f, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	must(t, err)
	var all string
	for k := range limit/64 + 2 {
		_, err := f.WriteString(pattern(64, k))
		must(t, err)
		all += pattern(64, k)
		state(p, len(all) <= limit, all)
	}
	must(t, f.Close())
	p = m.path("hole")
	f, err = os.Create(p)
	must(t, err)
	_, err = f.WriteAt([]byte("end"), int64(limit)-3)
	must(t, err)
	state(p, true, string(make([]byte, limit-3))+"end")
	must(t, f.Close())
}

// TestXattrTakesInlineRoom: an attribute in the inode leaves less of it to the content.
func TestXattrTakesInlineRoom(t *testing.T) {
	m := mount(t, plain(), Options{})
	write(t, m.path("f"), pattern(100, 1))
	must(t, unix.Setxattr(m.path("f"), "user.a", []byte(pattern(40, 2)), 0))
	if got := read(t, m.path("f")); got != pattern(100, 1) {
		t.Errorf("content %q", got)
	}
	f, err := os.OpenFile(m.path("f"), os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer f.Close()
	want := pattern(100, 1)
	for k := range 20 {
		_, err := f.WriteString(pattern(7, k))
		must(t, err)
		want += pattern(7, k)
		if got := read(t, m.path("f")); got != want {
			t.Fatalf("after %d bytes: %q", len(want), got)
		}
	}
	if got, err := getXattr(m.path("f"), "user.a"); got != pattern(40, 2) {
		t.Errorf("attribute %q, %v", got, err)
	}
}

func TestSparseBeyond4GiB(t *testing.T) {
	m := mount(t, plain(), Options{})
	f, err := os.Create(m.path("big"))
	must(t, err)
	defer f.Close()
	offs := []int64{0, 1<<32 - 2, 1<<32 + 5, 1 << 40, 1<<44 - 4096 - 4}
	for k, off := range offs {
		if _, err := f.WriteAt([]byte(pattern(4, k)), off); err != nil {
			t.Fatalf("write at %d: %v", off, err)
		}
	}
	for k, off := range offs {
		b := make([]byte, 4)
		if _, err := f.ReadAt(b, off); err != nil && err != io.EOF || string(b) != pattern(4, k) {
			t.Errorf("at %d: %q, %v", off, b, err)
		}
	}
	if st := stat(t, m.path("big")); st.Size != 1<<44-4096 || st.Blocks > 100 {
		t.Errorf("size %d, %d sectors", st.Size, st.Blocks)
	}
	_, err = f.WriteAt([]byte("x"), 1<<44)
	want(t, "write past the largest offset", err, syscall.EFBIG)
	want(t, "truncate past it", f.Truncate(1<<44+1), syscall.EFBIG)
	must(t, f.Truncate(1<<32))
	if st := stat(t, m.path("big")); st.Size != 1<<32 {
		t.Errorf("size %d", st.Size)
	}
	must(t, f.Truncate(0))
	if st := stat(t, m.path("big")); st.Blocks != 0 {
		t.Errorf("%d sectors in an empty file", st.Blocks)
	}
}

func TestSeek(t *testing.T) {
	m := mount(t, plain(), Options{})
	f, err := os.Create(m.path("f"))
	must(t, err)
	defer f.Close()
	fd := int(f.Fd())
	seek := func(off int64, whence int, to int64, no syscall.Errno) {
		t.Helper()
		got, err := unix.Seek(fd, off, whence)
		if want(t, fmt.Sprintf("seek %d from %d", whence, off), err, no); no == 0 && got != to {
			t.Errorf("seek %d from %d: %d, want %d", whence, off, got, to)
		}
	}
	_, err = f.Write([]byte("0123456789")) // inline: data up to the end
	must(t, err)
	must(t, f.Truncate(50))
	seek(10, unix.SEEK_DATA, 10, 0)
	seek(10, unix.SEEK_HOLE, 50, 0)
	seek(50, unix.SEEK_DATA, 0, syscall.ENXIO)
	must(t, f.Truncate(0))
	for _, off := range []int64{8192, 40960} {
		_, err := f.WriteAt([]byte(pattern(4096, 1)), off)
		must(t, err)
	}
	must(t, f.Truncate(100000))
	seek(0, unix.SEEK_DATA, 8192, 0)
	seek(0, unix.SEEK_HOLE, 0, 0)
	seek(9000, unix.SEEK_DATA, 9000, 0)
	seek(9000, unix.SEEK_HOLE, 12288, 0)
	seek(12288, unix.SEEK_DATA, 40960, 0)
	seek(45056, unix.SEEK_DATA, 0, syscall.ENXIO)
	seek(45056, unix.SEEK_HOLE, 45056, 0)
	seek(100000, unix.SEEK_HOLE, 0, syscall.ENXIO)
}

func TestFallocate(t *testing.T) {
	m := mount(t, plain(), Options{})
	const keep, punch, zero = unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE
	f, err := os.Create(m.path("f"))
	must(t, err)
	defer f.Close()
	fd := int(f.Fd())
	model := []byte(pattern(50000, 4))
	_, err = f.Write(model)
	must(t, err)
	same := func(what string) {
		t.Helper()
		if got := read(t, m.path("f")); got != string(model) {
			n := 0
			for n < len(got) && n < len(model) && got[n] == model[n] {
				n++
			}
			t.Fatalf("%s: %d bytes, want %d, first difference at %d", what, len(got), len(model), n)
		}
	}
	blank := func(off, end int) {
		if end > len(model) {
			model = append(model, make([]byte, end-len(model))...)
		}
		clear(model[off:end])
	}
	want(t, "punch", unix.Fallocate(fd, punch|keep, 5000, 20000), 0)
	blank(5000, 25000)
	same("punch")
	sectors := stat(t, m.path("f")).Blocks
	want(t, "punch within a block", unix.Fallocate(fd, punch|keep, 30000, 10), 0)
	blank(30000, 30010)
	same("punch within a block")
	want(t, "zero", unix.Fallocate(fd, zero, 20000, 15000), 0)
	blank(20000, 35000)
	same("zero")
	want(t, "zero past the end", unix.Fallocate(fd, zero, 45000, 20000), 0)
	blank(45000, 65000)
	same("zero past the end")
	want(t, "zero past the end, size kept", unix.Fallocate(fd, zero|keep, 64000, 20000), 0)
	blank(64000, 65000)
	same("zero, size kept")
	want(t, "allocate, size kept", unix.Fallocate(fd, keep, 0, 200000), 0)
	same("allocate, size kept")
	if st := stat(t, m.path("f")); st.Blocks < 49*8 || st.Blocks > 50*8 {
		t.Errorf("%d sectors, want %d and at most one block for the tree (%d after the punch)", st.Blocks, 49*8, sectors)
	}
	want(t, "allocate", unix.Fallocate(fd, 0, 60000, 10000), 0)
	blank(65000, 70000)
	same("allocate")
	_, err = f.WriteAt([]byte("Z"), 100000)
	must(t, err)
	blank(70000, 100001)
	model[100000] = 'Z'
	same("write into preallocated blocks")
	want(t, "punch to the end", unix.Fallocate(fd, punch|keep, 4096, 1<<30), 0)
	blank(4096, len(model))
	same("punch to the end")
	want(t, "punch without keep", unix.Fallocate(fd, punch, 0, 10), syscall.EOPNOTSUPP)
	want(t, "collapse", unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096), syscall.EOPNOTSUPP)
	want(t, "insert", unix.Fallocate(fd, unix.FALLOC_FL_INSERT_RANGE, 0, 4096), syscall.EOPNOTSUPP)
	want(t, "no length", unix.Fallocate(fd, 0, 0, 0), syscall.EINVAL)
	must(t, f.Truncate(3))
	model = model[:3]
	same("truncate")
	if st := stat(t, m.path("f")); st.Blocks < 8 || st.Blocks > 16 {
		t.Errorf("%d sectors after the truncate", st.Blocks)
	}
	m.unmountWith(f)
	if got := read(t, remount(t, m.c.img).path("f")); got != string(model) {
		t.Errorf("after a remount: %q", got)
	}
}

// unmountWith closes a file and unmounts.
func (m *mounted) unmountWith(f *os.File) {
	m.t.Helper()
	if err := f.Close(); err != nil {
		m.t.Error(err)
	}
	m.unmount()
}

func TestTruncateZeroesTheTail(t *testing.T) {
	m := mount(t, plain(), Options{})
	for _, n := range []int{50, 100, 200, 4096, 5000, 12288} {
		p := m.path(fmt.Sprint(n))
		write(t, p, pattern(n, 1))
		cut := n * 2 / 3
		must(t, os.Truncate(p, int64(cut)))
		must(t, os.Truncate(p, int64(n)+5000))
		want := pattern(n, 1)[:cut] + string(make([]byte, n+5000-cut))
		if got := read(t, p); got != want {
			t.Errorf("%d bytes cut at %d and grown: differs", n, cut)
		}
	}
	want(t, "truncate of a directory", os.Truncate(m.dir, 0), syscall.EISDIR)
}

func TestNoSpace(t *testing.T) {
	o := plain()
	o.SizeMiB, o.Extended = 8, "root_owner=0:0"
	m := mount(t, o, Options{})
	keepers := map[string]string{}
	for k := range 10 {
		name := fmt.Sprintf("keep%d", k)
		keepers[name] = pattern(k*12, k)
		write(t, m.path(name), keepers[name])
	}
	fill, err := os.Create(m.path("fill"))
	must(t, err)
	chunk := []byte(pattern(64<<10, 1))
	var total int64
	for {
		n, err := fill.Write(chunk)
		total += int64(n)
		if err != nil {
			want(t, "filling", err, syscall.ENOSPC)
			break
		}
		if total > 16<<20 {
			t.Fatal("the image takes more than it is large")
		}
	}
	must(t, fill.Close())
	if free := statfs(t, m.dir).Bfree; free > 16 {
		t.Errorf("%d blocks free on a full image", free)
	}
	for name, content := range keepers {
		f, err := os.OpenFile(m.path(name), os.O_RDWR|os.O_APPEND, 0)
		must(t, err)
		if statfs(t, m.dir).Bfree == 0 {
			_, err = f.WriteString(pattern(300, 2))
			want(t, "append to "+name, err, syscall.ENOSPC)
			want(t, "fallocate of "+name, unix.Fallocate(int(f.Fd()), 0, 0, 8192), syscall.ENOSPC)
			if got := read(t, m.path(name)); got != content || content != "" && !m.inline(m.path(name)) {
				t.Errorf("%s after ENOSPC: %q inline %v", name, got, m.inline(m.path(name)))
			}
		}
		must(t, f.Close())
	}
	if st := stat(t, m.path("fill")); st.Size != total {
		t.Errorf("size %d, written %d", st.Size, total)
	}
	must(t, os.Remove(m.path("fill")))
	for name, content := range keepers {
		f, err := os.OpenFile(m.path(name), os.O_RDWR|os.O_APPEND, 0)
		must(t, err)
		_, err = f.WriteString(pattern(300, 2))
		want(t, "append to "+name+" with room again", err, 0)
		must(t, f.Close())
		if got := read(t, m.path(name)); got != content+pattern(300, 2) {
			t.Errorf("%s: %d bytes", name, len(got))
		}
	}
}

func TestNoInodes(t *testing.T) {
	o := plain()
	o.Inodes = 32
	m := mount(t, o, Options{})
	made := 0
	for ; made < 100; made++ {
		if err := os.WriteFile(m.path(fmt.Sprint(made)), []byte("x"), 0o600); err != nil {
			want(t, "create", err, syscall.ENOSPC)
			break
		}
	}
	if made == 100 {
		t.Fatal("100 files in 32 inodes")
	}
	want(t, "mkdir", os.Mkdir(m.path("d"), 0o700), syscall.ENOSPC)
	must(t, os.Remove(m.path("0")))
	// The kernel tells of the deletion a little later than unlink(2) returns; the mount waits for it, but not for ever.
	soon(t, func() error { return os.Mkdir(m.path("d"), 0o700) })
}
