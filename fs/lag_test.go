package fs

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// lateNotifier tells the client's kernel of a size when wait is closed.
type lateNotifier struct {
	Notifier
	came chan struct{} // closed when there is something to tell
	wait chan struct{}
}

func newLateNotifier(n Notifier) *lateNotifier {
	return &lateNotifier{Notifier: n, came: make(chan struct{}), wait: make(chan struct{})}
}

func (l *lateNotifier) InodeNotifyStoreCache(node uint64, off int64, data []byte) fuse.Status {
	close(l.came)
	<-l.wait
	return l.Notifier.InodeNotifyStoreCache(node, off, data)
}

// appendUnknown makes file f of 42 bytes, which client c maps, longer by 8 of which the kernel knows no more than the mount tells it.
func appendUnknown(t *testing.T, m *mounted) (path string, c *client, node uint64, grow func()) {
	t.Helper()
	path = m.path("f")
	write(t, path, strings.Repeat("o", 42))
	c = newClient(t)
	c.ok("open "+path, "announce", "map 4096")
	node = stat(t, path).Ino
	return path, c, node, func() {
		in := &fuse.WriteIn{InHeader: fuse.InHeader{NodeId: node}, Fh: fhObserved, Offset: 42, Size: 8}
		if n, st := m.f.Write(nil, in, []byte("appended")); st != fuse.OK || n != 8 {
			t.Errorf("the write behind the kernel's back: %d, %v", n, st)
		}
	}
}

// fileIs reads what the mount has, past the page cache.
func fileIs(t *testing.T, path, want string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	b := make([]byte, len(want)+1)
	if n, _ := f.ReadAt(b, 0); string(b[:n]) != want {
		t.Errorf("the file has %q, want %q", b[:n], want)
	}
}

// TestSizeLags: a fault is filled with the new bytes before the kernel knows the new size, and a write-back of that page ends at the old one,
// after the kernel has zeroed what is behind it in its page (iomap_writeback_handle_eof). When the page is written back by the new size, those
// zeros are no stores, and the mapping shows the bytes in the end. The write is one that the kernel does not know of, so that it does not drop the page.
func TestSizeLags(t *testing.T) {
	m := observe(t, "flip_folio", config{})
	late := newLateNotifier(m.server)
	m.f.SetNotifier(late)
	p, c, _, grow := appendUnknown(t, m)
	written := make(chan struct{})
	go func() { grow(); close(written) }()
	<-late.came
	c.ok("store 0 120 8")
	if got := c.do("load 42 8"); got != fmt.Sprintf("ok %x", "appended") {
		t.Errorf("the page was filled with %s", got)
	}
	c.ok("msync", "store 8 121 8")
	close(late.wait)
	<-written
	c.ok("msync")
	for n := 0; c.do("load 42 8") != fmt.Sprintf("ok %x", "appended"); n++ {
		if n == 3000 {
			t.Fatal("the mapping never shows what was appended")
		}
		time.Sleep(time.Millisecond)
	}
	c.ok("store 16 122 8", "msync", "unmap", "close")
	fileIs(t, p, "xxxxxxxxyyyyyyyyzzzzzzzz"+strings.Repeat("o", 18)+"appended")
}

// TestSizeIsTold: the kernel knows the new size before it hears that its write is done. A store behind the old one, in the same page, is
// written back; under the old size it would be zeroed and cut off.
func TestSizeIsTold(t *testing.T) {
	m := observe(t, "flip_folio", config{})
	p, c, _, grow := appendUnknown(t, m)
	grow()
	c.ok("store 44 120 4", "msync", "unmap", "close")
	fileIs(t, p, strings.Repeat("o", 42)+"apxxxxed")
}

// TestSizeRaisedInWriteback: a page is filled with the new bytes before the kernel knows the new size, its write-back begins by the old size
// (the page is zeroed behind it) and is sent by the new one, so that the zeros come with the request. They are no stores. A truncate to the
// new size holds the write-back in between.
func TestSizeRaisedInWriteback(t *testing.T) {
	m := observe(t, "flip_folio", config{})
	late := newLateNotifier(m.server)
	m.f.SetNotifier(late)
	p, c, ino, grow := appendUnknown(t, m)
	written, cut := make(chan struct{}), make(chan error, 1)
	go func() { grow(); close(written) }()
	<-late.came
	c.ok("store 0 120 8")
	i, err := m.f.get(ino)
	must(t, err)
	i.Rw.Lock()
	go func() { cut <- os.Truncate(p, 50) }()
	m.waitTask("setattr")
	c.send("unmap") // writes back, without i_rwsem (fuse_vma_close)
	c.waitSleep()
	i.Rw.Unlock()
	m.f.put(i)
	must(t, <-cut)
	if got := c.answer(); got != "ok" {
		t.Errorf("munmap: %s", got)
	}
	close(late.wait)
	<-written
	c.ok("close")
	fileIs(t, p, "xxxxxxxx"+strings.Repeat("o", 34)+"appended")
}

// waitTask waits until the mount is at work on a request of the named kind.
func (m *mounted) waitTask(op string) {
	m.t.Helper()
	for range 3000 {
		m.f.watch.mu.Lock()
		for task := range m.f.watch.active {
			if task.Op == op {
				m.f.watch.mu.Unlock()
				return
			}
		}
		m.f.watch.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	m.t.Fatalf("no %s comes", op)
}

// waitSleep waits until a thread of the client sleeps in the kernel where no signal wakes it: for write-back, in these tests.
func (c *client) waitSleep() {
	c.t.Helper()
	for range 3000 {
		stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", c.cmd.Process.Pid))
		must(c.t, err)
		for _, name := range stats {
			b, err := os.ReadFile(name)
			if _, rest, ok := strings.Cut(string(b), ") "); err == nil && ok && strings.HasPrefix(rest, "D") {
				return
			}
		}
		time.Sleep(time.Millisecond)
	}
	c.t.Fatal("the client does not wait in the kernel")
}

// TestAppendBesideMapping: what is appended while others store through mappings of the last page and unmap them is there afterwards. The kernel's
// page cache would lose it (docs/fuse-append.md).
func TestAppendBesideMapping(t *testing.T) {
	for _, c := range []struct {
		mode MmapMode
		size int
	}{{MmapObserve, 42}, {MmapDirect, 42}, {MmapDirect, 3000}} {
		t.Run(fmt.Sprintf("%s, %d bytes", c.mode, c.size), func(t *testing.T) {
			m := observe(t, "flip_folio", config{fs: Options{Mmap: c.mode}})
			p := m.path("f")
			write(t, p, strings.Repeat("o", c.size))
			mapper := newClient(t)
			mapper.ok("open " + p)
			mapper.send("rounds 200 4096")
			f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			for range 100 {
				_, err := f.WriteString("appended")
				must(t, err)
			}
			must(t, f.Close())
			if got := mapper.answer(); got != "ok" {
				t.Errorf("the mapper: %s", got)
			}
			mapper.ok("close")
			fileIs(t, p, read(t, p)[:1]+strings.Repeat("o", c.size-1)+strings.Repeat("appended", 100))
		})
	}
}

// TestReaderSeesWhole: who reads through the page cache while others append sees all of a piece or nothing of it. Nothing may be zeros: the reader may
// have had the page from before the write in its hands when i_size was raised, as with any file that is written past the page cache.
func TestReaderSeesWhole(t *testing.T) {
	m := observe(t, "flip_folio", config{})
	p := m.path("f")
	write(t, p, "begin")
	w, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer w.Close()
	r, err := os.Open(p)
	must(t, err)
	defer r.Close()
	const piece, pieces = "appended", 400
	done := make(chan error, 1)
	go func() {
		for range pieces {
			if _, err := w.WriteString(piece); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	buf := make([]byte, len("begin")+pieces*len(piece))
	for n, running := 0, true; running; {
		select {
		case err := <-done: // once more, with all that was written
			must(t, err)
			running = false
		default:
		}
		if n, err = r.ReadAt(buf, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		for k := len("begin"); k < n; k += len(piece) {
			if got := string(buf[k:min(k+len(piece), n)]); got != piece && got != strings.Repeat("\x00", len(piece)) {
				t.Fatalf("at %d of %d bytes: %q", k, n, got)
			}
		}
		if !running && n != len(buf) {
			t.Errorf("%d bytes in the end, want %d", n, len(buf))
		}
	}
}
