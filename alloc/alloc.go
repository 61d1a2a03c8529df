// Package alloc takes and frees blocks and inodes: the bitmaps, their checksums, the descriptors' counts, and where things go.
package alloc

import (
	"errors"
	"fmt"
	"math/bits"

	"inlinefs/buffer"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// Credits that one allocation or one freed run in one group needs: bitmap and descriptor.
const Credits = 2

// blockBitmap returns group g's block bitmap, verified. The caller holds g.Mu. A bitmap that disagrees with its descriptor marks
// the group corrupt. Errors: a CorruptError for a wrong checksum, once; I/O; else fserr.NoSpace for a corrupt group.
func blockBitmap(f *super.FS, g *super.Group) (*buffer.Head, error) {
	if g.BlocksCorrupt {
		return nil, outOfUse(g)
	}
	blk := g.Desc.BlockBitmap()
	b := f.Bufs.Get(blk)
	if g.Desc.Flags()&ondisk.BGBlockUninit != 0 && !b.Verified() {
		b.Lock()
		initBlockBitmap(f, g, b.Data())
		b.SetUptodate()
		b.SetVerified()
		b.Unlock()
	}
	defer b.Release() // not before the read: a bitmap made here is not dirty yet and must not be evicted
	b, err := f.Bufs.Read(blk)
	if err != nil {
		return nil, f.GroupError(g, false, "ext4_read_block_bitmap", err)
	}
	if g.BlocksChecked {
		return b, nil
	}
	if err := verifyBlocks(f, g, b.Data()); err != nil {
		b.Release()
		return nil, condemn(f, g, err)
	}
	g.BlocksChecked = true
	return b, nil
}

// condemn takes g out of use because its bitmap failed verifyBlocks, and returns what who found it is told. As in the kernel that is the
// checksum (ext4_validate_block_bitmap), but not a wrong count: ext4_mb_generate_buddy reports the group and has no answer, so that its finder
// goes on to the other groups and hears no more than those who come after him.
func condemn(f *super.FS, g *super.Group, err error) error {
	var c *ondisk.CorruptError
	if errors.As(err, &c) && c.Checksum {
		return f.GroupError(g, false, "ext4_validate_block_bitmap", err)
	}
	f.GroupError(g, false, "ext4_mb_generate_buddy", err)
	return outOfUse(g)
}

func outOfUse(g *super.Group) error {
	return fmt.Errorf("group %d: block bitmap is corrupt: %w", g.No, fserr.NoSpace)
}

// worse is the error to return for several groups: the first that is more than a want of space.
func worse(first, err error) error {
	if first == nil || err != nil && errors.Is(first, fserr.NoSpace) {
		return err
	}
	return first
}

func verifyBlocks(f *super.FS, g *super.Group, bm []byte) error {
	where := fmt.Sprintf("group %d", g.No)
	uninit := g.Desc.Flags()&ondisk.BGBlockUninit != 0
	if f.Csum && !uninit {
		got := ondisk.CRC32C(f.Seed, bm[:f.BlocksPerGroup/8]) & g.Desc.BitmapCsumMask()
		if want := g.Desc.BlockBitmapCsum(); got != want {
			return ondisk.BadChecksum(where, "block bitmap", got, want)
		}
	}
	n := f.GroupLen(g.No)
	free := n - countBits(bm, n)
	if free != g.Desc.FreeBlocks() {
		return ondisk.Corrupt(where, "block bitmap and bg descriptor inconsistent: %d vs %d free clusters", free, g.Desc.FreeBlocks())
	}
	return nil
}

// initBlockBitmap is the bitmap that BLOCK_UNINIT stands for: only metadata laid out by mkfs is in use.
func initBlockBitmap(f *super.FS, g *super.Group, bm []byte) {
	clear(bm)
	first, n := f.GroupFirst(g.No), uint64(f.GroupLen(g.No))
	f.EachSystem(func(s, e uint64) {
		s, e = max(s, first), min(e, first+n)
		for ; s < e; s++ {
			setBit(bm, uint32(s-first))
		}
	})
	for i := uint32(n); i < uint32(len(bm)*8); i++ {
		setBit(bm, i)
	}
}

func setBit(b []byte, i uint32)       { b[i>>3] |= 1 << (i & 7) }
func clearBit(b []byte, i uint32)     { b[i>>3] &^= 1 << (i & 7) }
func testBit(b []byte, i uint32) bool { return b[i>>3]&(1<<(i&7)) != 0 }

// countBits counts the set bits among the first n.
func countBits(b []byte, n uint32) (c uint32) {
	for i := uint32(0); i < n/8; i++ {
		c += uint32(bits.OnesCount8(b[i]))
	}
	for i := n &^ 7; i < n; i++ {
		if testBit(b, i) {
			c++
		}
	}
	return c
}

// nextZero is the first clear bit from i on, n if there is none.
func nextZero(b []byte, i, n uint32) uint32 {
	for i < n {
		if i&7 == 0 && b[i>>3] == 0xFF {
			i += 8
			continue
		}
		if !testBit(b, i) {
			return i
		}
		i++
	}
	return n
}

// runLen is the number of clear bits from i on, at most limit and not beyond n.
func runLen(b []byte, i, n, limit uint32) uint32 {
	end := min(n, i+limit)
	j := i
	for j < end {
		if j&7 == 0 && b[j>>3] == 0 && j+8 <= end {
			j += 8
			continue
		}
		if testBit(b, j) {
			break
		}
		j++
	}
	return j - i
}

// putBlocks stores bitmap checksum and descriptor after a change of bm under h. The caller holds g.Mu.
func putBlocks(f *super.FS, h *journal.Handle, g *super.Group, b *buffer.Head) error {
	if f.Csum {
		g.Desc.SetBlockBitmapCsum(ondisk.CRC32C(f.Seed, b.Data()[:f.BlocksPerGroup/8]))
	}
	g.Desc.SetFlags(g.Desc.Flags() &^ ondisk.BGBlockUninit)
	if err := h.DirtyMetadata(b); err != nil {
		return err
	}
	return f.PutGroupDesc(h, g)
}
