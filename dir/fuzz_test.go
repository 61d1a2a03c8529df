package dir

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"inlinefs/extent"
	"inlinefs/inode"
	"inlinefs/internal/testimage"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// FuzzDamage overwrites bytes of an inline, a linear or an indexed directory and uses it: whatever is there, nothing may panic, hang or
// read without end.
func FuzzDamage(f *testing.F) {
	img := testimage.Make(f, testimage.Options{SizeMiB: 2, BlockSize: 1024, InodeSize: 256, Inodes: 32,
		Features: "^has_journal,inline_data,^metadata_csum,large_dir"})
	pristine, err := os.ReadFile(img)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(0), uint16(4), []byte{1, 0, 0, 0, 8, 0, 1, 1})
	f.Add(uint8(1), uint16(28), []byte{0, 0})
	f.Add(uint8(2), uint16(36), []byte{7, 0, 0, 0})
	f.Add(uint8(3), uint16(4), []byte{255, 255, 255, 0})
	f.Fuzz(func(t *testing.T, where uint8, off uint16, data []byte) {
		e := openMem(t, slices.Clone(pristine))
		defer e.close()
		file := e.mkfile("file")
		defer e.cache.Put(file)
		d := e.mkdir("dir")
		defer e.cache.Put(d)
		for i := range []int{3, 20, 120, 120}[where%4] {
			if err := e.add(d, fmt.Sprintf("entry-%d", i), file.Ino); err != nil {
				t.Fatal(err)
			}
		}
		overwrite(t, d, uint32(where/4), int(off), data)
		use(t, e, d, file.Ino)
	})
}

// overwrite puts data in block lblk of d, or in the inode of an inline one, behind the back of the file system.
func overwrite(t *testing.T, d *inode.Inode, lblk uint32, off int, data []byte) {
	t.Helper()
	if d.HasInline() {
		d.Mu.Lock()
		defer d.Mu.Unlock()
		if lblk%2 == 0 {
			off %= ondisk.BlockArea
			copy(d.Raw.Block()[off:], data)
		} else if start, end := ondisk.IbodyArea(d.Raw); start < end {
			copy(d.Raw[start+off%(end-start):end], data)
		}
		return
	}
	b, err := extent.GetBlock(d, lblk%uint32(d.Size()/1024))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	b.Lock()
	copy(b.Data()[off%len(b.Data()):], data)
	b.Unlock()
}

// use does everything with a directory; errors are welcome, endless reading is not.
func use(t *testing.T, e *env, d *inode.Inode, ino uint32) {
	t.Helper()
	for _, from := range []uint64{0, 1, 2, 36, 1 << 40, 1 << 62} {
		cookie, n := from, 0
		for more := true; more; {
			more = false
			got := 0
			_ = Read(d, cookie, func(en Entry) bool {
				if got == 5 {
					more = true
					return false
				}
				got++
				cookie = en.Cookie
				return true
			})
			if n += got; n > 5000 {
				t.Fatalf("reading from cookie %d does not end", from)
			}
		}
	}
	for i := range 130 {
		name := fmt.Sprintf("entry-%d", i)
		_, _, _ = Lookup(d, []byte(name))
		if i%3 == 0 {
			_ = e.remove(d, name, ino)
		}
		_ = e.replace(d, name, ino)
		_ = e.add(d, fmt.Sprintf("other-%d", i*i), ino)
	}
	_, _ = Empty(d)
	_, _ = DotDot(d)
	if err := e.with(4, func(h *journal.Handle) error { return SetDotDot(h, d, e.root.Ino) }); err != nil {
		t.Logf("parent: %v", err)
	}
}
