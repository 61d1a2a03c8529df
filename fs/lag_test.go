package fs

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// TestSizeLags: between the answer to a write that grows the file and the moment in which the kernel takes note of the size, a fault is filled
// with the new bytes, and a write-back of that page ends at the old size, after the kernel has zeroed what is beyond it in its page
// (iomap_writeback_handle_eof). When the page is written back by the new size, those zeros are no stores. The moment is drawn out here by a
// write that the kernel does not know of.
func TestSizeLags(t *testing.T) {
	m := observe(t, "flip_folio", config{})
	p := m.path("f")
	write(t, p, strings.Repeat("o", 42))
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	c := newClient(t)
	c.ok("open "+p, "announce", "map 4096")
	ino := stat(t, p).Ino
	in := &fuse.WriteIn{InHeader: fuse.InHeader{NodeId: ino}, Fh: fhObserved, Offset: 42, Size: 8}
	if n, st := m.f.Write(nil, in, []byte("appended")); st != fuse.OK || n != 8 {
		t.Fatalf("the write behind the kernel's back: %d, %v", n, st)
	}
	c.ok("store 0 120 8")
	if got := c.do("load 42 8"); got != fmt.Sprintf("ok %x", "appended") {
		t.Fatalf("the page was filled with %s", got)
	}
	c.ok("msync")
	if st := m.server.InodeNotify(ino, -1, 0); st != fuse.OK {
		t.Fatal(st)
	}
	if st := stat(t, p); st.Size != 50 {
		t.Fatalf("size %d, want 50", st.Size)
	}
	c.ok("store 8 121 8", "msync")
	// The page that lacks the bytes is dropped, some time.
	for n := 0; c.do("load 42 8") != fmt.Sprintf("ok %x", "appended"); n++ {
		if n == 3000 {
			t.Fatal("the mapping never shows what was appended")
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.ok("store 16 122 8", "msync", "unmap", "close")
	b := make([]byte, 50)
	_, err = f.ReadAt(b, 0)
	must(t, err)
	if want := "xxxxxxxxyyyyyyyyzzzzzzzz" + strings.Repeat("o", 18) + "appended"; string(b) != want {
		t.Errorf("the file has %q, want %q", b, want)
	}
}
