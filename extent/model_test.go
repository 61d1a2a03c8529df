package extent_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"inlinefs/extent"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/testfs"
	"inlinefs/internal/testimage"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// layout is a kind of map on a block size.
type layout struct {
	name string
	o    testimage.Options
}

func layouts() []layout {
	mk := func(name string, block int, features string) layout {
		return layout{name, testimage.Options{BlockSize: block, InodeSize: 256, Inodes: 64, SizeMiB: 8, Features: "^has_journal," + features}}
	}
	return []layout{
		mk("extents-1024", 1024, "metadata_csum,64bit"),
		mk("extents-4096", 4096, "metadata_csum,64bit"),
		mk("extents-4096-no-csum", 4096, "^metadata_csum,^uninit_bg,^64bit"),
		mk("indirect-1024", 1024, "metadata_csum,^64bit,^extent"),
		mk("indirect-4096", 4096, "metadata_csum,^64bit,^extent"),
	}
}

func each(t *testing.T, fn func(t *testing.T, f *testfs.FS)) {
	for _, l := range layouts() {
		t.Run(l.name, func(t *testing.T) { fn(t, testfs.Make(t, l.o)) })
	}
}

// span is how many bytes of a file the model works on: a few dozen blocks, past the direct ones.
func span(f *testfs.FS) int { return 48 * f.BlockSize }

// file is a file with the bytes that it should hold and the blocks that it should have.
type file struct {
	f    *testfs.FS
	i    *inode.Inode
	data []byte // as long as the file
	// allocated says of each block whether it is in the map (1) or whether it holds data in the sense of SEEK_DATA (2).
	blocks []uint8
	seq    byte
}

const (
	hole = iota
	uninit
	data
)

func newFile(f *testfs.FS) *file {
	return &file{f: f, i: f.BlockFile(), blocks: make([]uint8, 4096)}
}

func (m *file) bs() int { return m.f.BlockSize }

func (m *file) extents() bool { return m.i.Flags()&ondisk.FlExtents != 0 }

func (m *file) grow(n int) {
	if n > len(m.data) {
		m.data = append(m.data, make([]byte, n-len(m.data))...)
	}
}

func (m *file) set(from, to int, state uint8) { // bytes; whole blocks touched
	for b := from / m.bs(); b < (to+m.bs()-1)/m.bs(); b++ {
		m.blocks[b] = state
	}
}

// write stores a pattern.
func (m *file) write(off, n int) error {
	p := make([]byte, n)
	for k := range p {
		m.seq++
		p[k] = m.seq | 1 // never zero
	}
	m.i.Rw.Lock()
	got, dirtied, err := extent.Write(m.f.Task, m.i, p, uint64(off))
	m.i.Rw.Unlock()
	if got > 0 {
		m.grow(off + got)
		copy(m.data[off:], p[:got])
		m.set(off, off+got, data)
	}
	if err == nil && got != n {
		return fmt.Errorf("%d of %d bytes without an error", got, n)
	}
	if e := m.finish(len(m.data)); err == nil {
		err = e
	}
	_ = dirtied
	return err
}

// finish stores i_size, as the callers of package extent do.
func (m *file) finish(size int) error {
	return m.f.With(m.f.Task, 2, func(h *journal.Handle) error {
		m.i.SetSize(uint64(size))
		m.i.Touch(time.Now(), ondisk.Mtime)
		return m.i.MarkDirty(h)
	})
}

// zeroEdges zeroes the blocks that [off, end) covers in part and returns the whole ones.
func (m *file) zeroEdges(off, end int) (lo, hi uint32, err error) {
	bs := m.bs()
	first, last := (off+bs-1)/bs*bs, end/bs*bs
	if first > last {
		return 0, 0, extent.ZeroIn(m.i, uint64(off), uint64(end))
	}
	err = errors.Join(extent.ZeroIn(m.i, uint64(off), uint64(first)), extent.ZeroIn(m.i, uint64(last), uint64(end)))
	return uint32(first / bs), uint32(last / bs), err
}

// punch makes a hole within the file.
func (m *file) punch(off, end int) error {
	lo, hi, err := m.zeroEdges(off, end)
	if err == nil && lo < hi {
		err = extent.Remove(m.f.Task, m.i, lo, hi)
	}
	if err == nil {
		clear(m.data[off:end])
		for b := lo; b < hi; b++ {
			m.blocks[b] = hole
		}
	}
	return err
}

// zero makes whole blocks read as zeros.
func (m *file) zero(lo, hi int) error {
	if err := extent.ZeroRange(m.f.Task, m.i, uint32(lo), uint32(hi)); err != nil {
		return err
	}
	for b := lo; b < hi; b++ {
		m.blocks[b] = uninit
	}
	if a, b := min(lo*m.bs(), len(m.data)), min(hi*m.bs(), len(m.data)); a < b {
		clear(m.data[a:b])
	}
	return nil
}

func (m *file) prealloc(lo, hi int) error {
	if err := extent.Prealloc(m.f.Task, m.i, uint32(lo), uint32(hi)); err != nil {
		return err
	}
	for b := lo; b < hi; b++ {
		if m.blocks[b] == hole {
			m.blocks[b] = uninit
		}
	}
	return nil
}

// truncate cuts or grows the file.
func (m *file) truncate(size int) error {
	bs := m.bs()
	if size < len(m.data) {
		if err := extent.ZeroIn(m.i, uint64(size), uint64((size+bs-1)/bs*bs)); err != nil {
			return err
		}
		m.data = m.data[:size:size]
	}
	if err := extent.Remove(m.f.Task, m.i, uint32((size+bs-1)/bs), uint32(extent.MaxBlocks(m.i))); err != nil {
		return err
	}
	clear(m.blocks[(size+bs-1)/bs:])
	m.grow(size)
	return m.finish(size)
}

// check compares all there is to see.
func (m *file) check() error {
	got := make([]byte, len(m.data))
	if err := extent.Read(m.i, got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, m.data) {
		for k := range got {
			if got[k] != m.data[k] {
				return fmt.Errorf("byte %d of %d is %d, want %d", k, len(got), got[k], m.data[k])
			}
		}
	}
	if s := m.i.Size(); s != uint64(len(m.data)) {
		return fmt.Errorf("i_size %d, want %d", s, len(m.data))
	}
	return errors.Join(m.checkMap(), m.checkSeek())
}

func (m *file) checkMap() error {
	for at := 0; at < 64; {
		r, err := extent.Map(m.i, uint32(at), uint32(64-at))
		if err != nil {
			return err
		}
		if r.Len == 0 {
			return fmt.Errorf("run of length 0 at block %d", at)
		}
		for k := range int(r.Len) {
			want := map[uint8]extent.State{hole: extent.Hole, uninit: extent.Uninit, data: extent.Mapped}[m.blocks[at+k]]
			if r.State != want {
				return fmt.Errorf("block %d is in state %d, want %d", at+k, r.State, want)
			}
		}
		at += int(r.Len)
	}
	return nil
}

func (m *file) checkSeek() error {
	size := len(m.data)
	for off := 0; off < size; off += max(m.bs()/2+1, size/24) {
		for _, wantHole := range []bool{false, true} {
			want := off
			for want < size && (m.blocks[want/m.bs()] == data) == wantHole {
				want = (want/m.bs() + 1) * m.bs()
			}
			want = min(want, size)
			got, err := extent.Seek(m.i, uint64(off), uint64(size), wantHole)
			if err != nil {
				return err
			}
			if min(got, uint64(size)) != uint64(want) {
				return fmt.Errorf("seek from %d, hole %v: %d, want %d of %d", off, wantHole, got, want, size)
			}
		}
	}
	return nil
}

// free gives everything back.
func (m *file) free() error {
	err := m.f.Unlink(m.i)
	m.f.Put(m.i)
	return err
}

// TestModel works on a file and on a slice of bytes alike.
func TestModel(t *testing.T) {
	each(t, func(t *testing.T, f *testfs.FS) {
		free := f.FreeBlocks()
		rapid.Check(t, func(t *rapid.T) {
			m := newFile(f)
			do := func(err error) {
				if err != nil {
					t.Fatal(err)
				}
			}
			where := func(name string, max int) int { return rapid.IntRange(0, max).Draw(t, name) }
			blocks := span(f) / f.BlockSize
			acts := map[string]func(*rapid.T){
				"": func(*rapid.T) { do(m.check()) },
				"write": func(t *rapid.T) {
					off := where("off", span(f)-1)
					do(m.write(off, rapid.IntRange(1, min(span(f)-off, 6*f.BlockSize)).Draw(t, "n")))
				},
				"block": func(*rapid.T) { do(m.write(where("block", blocks-1)*f.BlockSize, f.BlockSize)) },
				"punch": func(*rapid.T) {
					a, b := where("from", len(m.data)), where("to", len(m.data))
					do(m.punch(min(a, b), max(a, b)))
				},
				"truncate": func(*rapid.T) { do(m.truncate(where("size", span(f)))) },
			}
			if m.extents() {
				acts["zero"] = func(*rapid.T) {
					a, b := where("from", blocks), where("to", blocks)
					do(m.zero(min(a, b), max(a, b)))
				}
				acts["prealloc"] = func(*rapid.T) {
					a, b := where("from", blocks), where("to", blocks)
					do(m.prealloc(min(a, b), max(a, b)))
				}
			}
			t.Repeat(acts)
			do(m.free())
			if got := f.FreeBlocks(); got != free {
				t.Fatalf("%d blocks are free after all was given back, want %d", got, free)
			}
		})
	})
}

// TestIndirectRefusesPrealloc: ext3's map has no uninitialized state.
func TestIndirectRefusesPrealloc(t *testing.T) {
	f := testfs.Make(t, layouts()[3].o)
	m := newFile(f)
	defer f.Put(m.i)
	if err := m.prealloc(0, 1); !errors.Is(err, fserr.NotSupported) {
		t.Errorf("preallocation: %v, want %v", err, fserr.NotSupported)
	}
	if err := m.zero(0, 1); !errors.Is(err, fserr.NotSupported) {
		t.Errorf("zero range: %v, want %v", err, fserr.NotSupported)
	}
}
