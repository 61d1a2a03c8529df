package fs

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStoreWhatWasPunched stores the very bytes that were punched through a mapping that exists. A page that lies in the hole as a whole is
// filled anew by the kernel, so that nothing is mistaken; of one that lies there in part the daemon must hear that the kernel has zeroed it.
func TestStoreWhatWasPunched(t *testing.T) {
	const keep = unix.FALLOC_FL_KEEP_SIZE
	for _, tc := range []struct {
		name     string
		mode     uint32
		off, len int64
		hear     func(f *os.File) error
	}{
		{"whole page, punch", keep | unix.FALLOC_FL_PUNCH_HOLE, 0, 4096, nil},
		{"whole page, zero", keep | unix.FALLOC_FL_ZERO_RANGE, 0, 4096, nil},
		{"to the end of the file and beyond", keep | unix.FALLOC_FL_PUNCH_HOLE, 4096, 4096, nil},
		{"part, then fsync", keep | unix.FALLOC_FL_PUNCH_HOLE, 4096 + 8, 16, (*os.File).Sync},
		{"part, zero, then fsync", keep | unix.FALLOC_FL_ZERO_RANGE, 4096 + 8, 16, (*os.File).Sync},
		{"part, then truncate", keep | unix.FALLOC_FL_PUNCH_HOLE, 4096 + 8, 16, func(f *os.File) error { return f.Truncate(7000) }},
		{"part, then another punch", keep | unix.FALLOC_FL_PUNCH_HOLE, 4096 + 8, 16, func(f *os.File) error {
			return unix.Fallocate(int(f.Fd()), keep|unix.FALLOC_FL_PUNCH_HOLE, 4096+1000, 8)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := observe(t, "flip_folio", config{})
			p := m.path("f")
			write(t, p, strings.Repeat("o", 100))
			f, err := os.OpenFile(p, os.O_RDWR, 0) // not later: an open for direct I/O drops the pages
			must(t, err)
			defer f.Close()
			c := newClient(t)
			c.ok("open "+p, "pwrite 0 111 6000", "announce", "map 6000", "store 0 111 6000", "msync")
			must(t, unix.Fallocate(int(f.Fd()), tc.mode, tc.off, tc.len))
			if tc.hear != nil {
				must(t, tc.hear(f))
			}
			n := min(tc.len, 6000-tc.off)
			daemons := func() string { // not what is in the kernel's pages
				b := make([]byte, n)
				_, err := f.ReadAt(b, tc.off)
				must(t, err)
				return string(b)
			}
			if got := daemons(); strings.Trim(got, "\x00") != "" {
				t.Fatalf("the hole reads as %.40q", got)
			}
			if got := c.do("store %d 111 %d", tc.off, n); got != "ok" {
				t.Fatalf("store: %s", got)
			}
			c.ok("msync", "unmap", "close")
			if got := daemons(); got != strings.Repeat("o", int(n)) {
				t.Errorf("stored bytes read as %.40q", got)
			}
		})
	}
}
