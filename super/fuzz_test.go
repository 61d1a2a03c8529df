package super_test

import (
	"errors"
	"testing"

	"inlinefs/blockdev"
	"inlinefs/internal/testimage"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// FuzzOpen gives Open the first 64 KiB of an image, damaged: it refuses or returns a file system whose geometry is sound. The checksums
// are made right first when fix is set, so that what is behind them is reached.
func FuzzOpen(f *testing.F) {
	const head = 64 << 10
	o := plain()
	o.BlockSize, o.SizeMiB = 1024, 2
	var size int64
	for _, features := range []string{"inline_data,metadata_csum,64bit,^has_journal", "^metadata_csum,uninit_bg,^64bit,^has_journal", "none"} {
		o.Features = features
		img := load(f, o)
		size = int64(len(img))
		f.Add(img[:head], true)
		f.Add(img[:head], false)
		for _, x := range fields() {
			b := append([]byte(nil), img[:head]...)
			sb(b)[x.at] ^= 0xFF
			f.Add(b, true)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		img := make([]byte, size)
		copy(img, b[:min(len(b), head)])
		if fix {
			sb(img).UpdateChecksum()
		}
		fs, err := super.Open(blockdev.NewMem(img), super.Options{Log: quiet(), CacheSize: 1 << 20})
		if err != nil {
			var c *ondisk.CorruptError
			if !errors.Is(err, super.ErrRefused) && !errors.As(err, &c) && fs != nil {
				t.Errorf("both a file system and %v", err)
			}
			return
		}
		sound(t, fs, size)
	})
}

// sound checks what the packages above rely on.
func sound(t *testing.T, f *super.FS, size int64) {
	t.Helper()
	if f.Blocks*uint64(f.BlockSize) > uint64(size) || f.Groups() == 0 || f.InodesPerBlock == 0 || 1<<f.BlockBits != f.BlockSize {
		t.Fatalf("%d blocks of %d bytes in %d, %d groups", f.Blocks, f.BlockSize, size, f.Groups())
	}
	var sum uint64
	for n := range f.Groups() {
		g := f.Group(n)
		sum += uint64(f.GroupLen(n))
		for _, blk := range []uint64{g.Desc.BlockBitmap(), g.Desc.InodeBitmap(), g.Desc.InodeTable() + uint64(f.InodeTableBlocks()) - 1} {
			if blk >= f.Blocks || f.ValidBlocks(blk, 1) {
				t.Fatalf("group %d: block %d of %d is metadata, and data %v", n, blk, f.Blocks, f.ValidBlocks(blk, 1))
			}
		}
		if a, i := f.GroupOf(f.GroupFirst(n)); a != n || i != 0 {
			t.Fatalf("group %d begins at index %d of group %d", n, i, a)
		}
	}
	if sum != f.Blocks-f.FirstData {
		t.Fatalf("the groups have %d blocks, want %d", sum, f.Blocks-f.FirstData)
	}
	if f.ValidBlocks(0, 1) || f.ValidBlocks(f.Blocks, 1) || f.ValidBlocks(f.Blocks-1, 2) || f.ValidBlocks(5, ^uint64(0)) || f.ValidBlocks(f.Blocks-1, 0) {
		t.Fatal("blocks outside the device are data")
	}
}

// TestShapes: every image of the table has a sound geometry, and the counts of mke2fs.
func TestShapes(t *testing.T) {
	for _, s := range testimage.Shapes() {
		t.Run(s.Name, func(t *testing.T) {
			img := load(t, s.Options)
			f, err := open(t, img, super.Options{ReadOnly: true})
			if s.Name == "large-dir-ea-inode" && errors.Is(err, super.ErrRefused) {
				t.Skipf("%v", err)
			}
			must(t, err)
			sound(t, f, int64(len(img)))
			if f.FreeBlocks() != int64(f.SB.FreeBlocks()) || f.FreeInodes() != int64(f.SB.FreeInodes()) {
				t.Errorf("%d blocks and %d inodes are free, mke2fs says %d and %d", f.FreeBlocks(), f.FreeInodes(), f.SB.FreeBlocks(), f.SB.FreeInodes())
			}
			if f.InlineData != s.Inline {
				t.Errorf("inline data %v, want %v", f.InlineData, s.Inline)
			}
			var meta uint64
			f.EachSystem(func(a, b uint64) { meta += b - a })
			if meta == 0 || meta > f.Blocks-uint64(f.FreeBlocks()) {
				t.Errorf("%d blocks of metadata, %d in use", meta, f.Blocks-uint64(f.FreeBlocks()))
			}
			for n := range f.Groups() {
				copied := sbAt(img, int64(f.GroupFirst(n))*int64(f.BlockSize), n)
				if f.HasSuper(n) != copied {
					t.Errorf("group %d has a superblock copy: %v, want %v", n, f.HasSuper(n), copied)
				}
			}
		})
	}
}

// sbAt says whether a superblock copy of group n stands at byte off.
func sbAt(img []byte, off int64, n uint32) bool {
	if n == 0 {
		return true
	}
	s := ondisk.Super(img[off : off+1024])
	return s.Magic() == ondisk.SuperMagic && s.InodesCount() == sb(img).InodesCount()
}

// TestBusyRuns: freed blocks wait for the commit.
func TestBusyRuns(t *testing.T) {
	var g super.Group
	var commit []func()
	hold := func(r super.Run) { g.HoldBusy(r, func(f func()) { commit = append(commit, f) }) }
	g.Mu.Lock()
	hold(super.Run{Start: 10, Len: 5})
	hold(super.Run{Start: 30, Len: 1})
	for _, tc := range [][3]uint32{{0, 5, 5}, {0, 10, 10}, {0, 11, 10}, {9, 100, 1}, {10, 1, 0}, {14, 9, 0}, {15, 9, 9}, {15, 15, 15}, {15, 40, 15}, {31, 4, 4}} {
		if got := g.NotBusy(tc[0], tc[1]); got != tc[2] {
			t.Errorf("%d blocks from %d: %d may be used, want %d", tc[1], tc[0], got, tc[2])
		}
	}
	g.Mu.Unlock()
	for _, f := range commit {
		f()
	}
	g.Mu.Lock()
	defer g.Mu.Unlock()
	if n := g.NotBusy(0, 100); n != 100 || len(g.Busy) != 0 {
		t.Errorf("%d blocks may be used after the commit, %d runs are held", n, len(g.Busy))
	}
}
