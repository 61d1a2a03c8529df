package super

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"sync/atomic"

	"inlinefs/internal/lock"
	"inlinefs/ondisk"
)

// Group is one block group.
type Group struct {
	No uint32 // immutable
	Mu lock.Mutex
	// Desc is the group descriptor; guarded by Mu.
	Desc ondisk.GroupDesc
	// BlocksChecked and InodesChecked say that the bitmap was verified against the descriptor; guarded by Mu.
	BlocksChecked, InodesChecked bool
	// BlocksCorrupt and InodesCorrupt forbid allocation here; guarded by Mu.
	BlocksCorrupt, InodesCorrupt bool
	// Hint is where the last allocation ended, in blocks from the group's start; guarded by Mu.
	Hint uint32
	// LargestFree bounds the longest free run, ^0 for unknown; guarded by Mu.
	LargestFree uint32
	// Busy holds freed runs that a transaction has not committed yet, and runs held for a conversion; guarded by Mu.
	Busy     []Run
	returned *atomic.Uint64 // immutable; FS.returned, nil for a group without a file system
}

// Run is a run of blocks within a group.
type Run struct{ Start, Len uint32 }

// span is a run of blocks that belongs to the file system itself.
type span struct{ start, end uint64 }

func (f *FS) geometry() error {
	s := f.SB
	f.BlockSize = s.BlockSize()
	switch {
	case f.BlockSize == 0:
		return refuse("s_log_block_size %d, want at most 6", s.LogBlockSize())
	case f.BlockSize > 4096*16:
		return refuse("block size %d, want at most 65536", f.BlockSize)
	}
	f.BlockBits = uint(bits.TrailingZeros(uint(f.BlockSize)))
	f.InodeSize = s.InodeSize()
	if !ondisk.IsPowerOfTwo(f.InodeSize) || f.InodeSize < ondisk.GoodOldInode || f.InodeSize > f.BlockSize {
		return refuse("inode size %d, want a power of two from 128 to the block size %d", f.InodeSize, f.BlockSize)
	}
	f.DescSize = s.DescSize()
	if f.DescSize < 32 || s.Is64Bit() && f.DescSize < 64 || f.DescSize > 1024 || !ondisk.IsPowerOfTwo(f.DescSize) {
		return refuse("group descriptor size %d, want a power of two from 64 to 1024 (32 without 64bit)", f.DescSize)
	}
	if s.LogClusterSize() != s.LogBlockSize() {
		return refuse("s_log_cluster_size %d with s_log_block_size %d: clusters (bigalloc) are not supported", s.LogClusterSize(), s.LogBlockSize())
	}
	f.Blocks, f.Inodes = s.BlocksCount(), s.InodesCount()
	f.BlocksPerGroup, f.InodesPerGroup = s.BlocksPerGroup(), s.InodesPerGroup()
	f.InodesPerBlock = uint32(f.BlockSize / f.InodeSize)
	f.FirstData = uint64(s.FirstDataBlock())
	maxBits := uint32(f.BlockSize * 8)
	switch {
	case f.BlocksPerGroup == 0 || f.BlocksPerGroup > maxBits || f.BlocksPerGroup%8 != 0:
		return refuse("s_blocks_per_group %d, want a multiple of 8 from 8 to %d", f.BlocksPerGroup, maxBits)
	case f.InodesPerGroup < f.InodesPerBlock || f.InodesPerGroup > maxBits:
		return refuse("s_inodes_per_group %d, want from %d to %d", f.InodesPerGroup, f.InodesPerBlock, maxBits)
	case f.FirstData != uint64(b2i(f.BlockSize == 1024)):
		return refuse("s_first_data_block %d with block size %d", f.FirstData, f.BlockSize)
	case f.Blocks <= f.FirstData:
		return refuse("s_blocks_count %d, want more than %d", f.Blocks, f.FirstData)
	case f.Blocks > uint64(f.Dev.Size())/uint64(f.BlockSize):
		return refuse("the file system has %d blocks of %d bytes, the device only %d", f.Blocks, f.BlockSize, f.Dev.Size()/int64(f.BlockSize))
	}
	n := (f.Blocks - f.FirstData + uint64(f.BlocksPerGroup) - 1) / uint64(f.BlocksPerGroup)
	if n*uint64(f.InodesPerGroup) != uint64(f.Inodes) {
		return refuse("s_inodes_count %d, want %d (%d groups of %d)", f.Inodes, n*uint64(f.InodesPerGroup), n, f.InodesPerGroup)
	}
	if n > 1<<24 {
		return refuse("%d block groups, want at most %d", n, 1<<24)
	}
	if fi := s.FirstIno(); fi < ondisk.GoodOldFirstIno || fi > f.Inodes {
		return refuse("s_first_ino %d, want from %d to %d", fi, ondisk.GoodOldFirstIno, f.Inodes)
	}
	f.GroupsPerFlex = 1
	if l := s.LogGroupsPerFlex(); s.Incompat(ondisk.IncompatFlexBG) && l > 0 && l < 31 {
		f.GroupsPerFlex = 1 << l
	}
	f.Csum, f.Seed = s.HasMetadataCsum(), s.CsumSeed()
	f.InlineData = s.HasInlineData()
	f.HugeFile = s.ROCompat(ondisk.ROCompatHugeFile)
	f.Reserved = s.ReservedBlocks()
	f.groups = make([]*Group, n)
	return nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Groups is the number of block groups.
func (f *FS) Groups() uint32 { return uint32(len(f.groups)) }

// Group returns group n, which must be below Groups.
func (f *FS) Group(n uint32) *Group { return f.groups[n] }

// GroupFirst is the first block of group n.
func (f *FS) GroupFirst(n uint32) uint64 { return f.FirstData + uint64(n)*uint64(f.BlocksPerGroup) }

// GroupLen is the number of blocks in group n; the last one may be short.
func (f *FS) GroupLen(n uint32) uint32 {
	if n == f.Groups()-1 {
		return uint32(f.Blocks - f.GroupFirst(n))
	}
	return f.BlocksPerGroup
}

// GroupOf is the group of block blk and the block's index in it.
func (f *FS) GroupOf(blk uint64) (group, index uint32) {
	blk -= f.FirstData
	return uint32(blk / uint64(f.BlocksPerGroup)), uint32(blk % uint64(f.BlocksPerGroup))
}

// HasSuper says whether group n has a copy of the superblock (ext4_bg_has_super).
func (f *FS) HasSuper(n uint32) bool {
	switch {
	case n == 0:
		return true
	case f.SB.Compat(ondisk.CompatSparseSuper2):
		b := f.SB.BackupBGs()
		return n == b[0] || n == b[1]
	case n == 1 || !f.SB.ROCompat(ondisk.ROCompatSparseSuper):
		return true
	case n&1 == 0:
		return false
	}
	for _, base := range []uint64{3, 5, 7} {
		for p := base; p <= uint64(n); p *= base {
			if p == uint64(n) {
				return true
			}
		}
	}
	return false
}

func (f *FS) descsPerBlock() uint32 { return uint32(f.BlockSize / f.DescSize) }

// descBlock is where descriptor block i lives (descriptor_loc).
func (f *FS) descBlock(i uint32) uint64 {
	if f.SB.Incompat(ondisk.IncompatMetaBG) && i >= f.SB.FirstMetaBG() {
		g := i * f.descsPerBlock()
		return f.GroupFirst(g) + uint64(b2i(f.HasSuper(g)))
	}
	return f.FirstData + 1 + uint64(i)
}

// gdtBlocks is how many blocks of descriptors group n holds besides the superblock copy (ext4_bg_num_gdb), reserved ones included.
func (f *FS) gdtBlocks(n uint32) uint64 {
	dpb := f.descsPerBlock()
	total := (f.Groups() + dpb - 1) / dpb
	if f.SB.Incompat(ondisk.IncompatMetaBG) && n/dpb >= f.SB.FirstMetaBG() {
		r := n % dpb
		return uint64(b2i(r == 0 || r == 1 || r == dpb-1))
	}
	if !f.HasSuper(n) {
		return 0
	}
	if f.SB.Incompat(ondisk.IncompatMetaBG) {
		total = min(total, f.SB.FirstMetaBG())
	}
	return uint64(total) + uint64(f.SB.ReservedGdtBlocks())
}

// BaseMeta is the number of blocks at the start of group n that hold the superblock copy and the descriptors.
func (f *FS) BaseMeta(n uint32) uint64 { return uint64(b2i(f.HasSuper(n))) + f.gdtBlocks(n) }

// InodeTableBlocks is the length of a group's inode table.
func (f *FS) InodeTableBlocks() uint32 {
	return (f.InodesPerGroup + f.InodesPerBlock - 1) / f.InodesPerBlock
}

// loadGroups reads and checks every descriptor (ext4_check_descriptors).
func (f *FS) loadGroups() error {
	dpb := f.descsPerBlock()
	var free, inodes int64
	for i := uint32(0); i*dpb < f.Groups(); i++ {
		blk := f.descBlock(i)
		if blk >= f.Blocks {
			return refuse("descriptor block %d lies at block %d, beyond %d", i, blk, f.Blocks)
		}
		b, err := f.Bufs.Read(blk)
		if err != nil {
			return fmt.Errorf("group descriptors: %w", err)
		}
		for n := i * dpb; n < min((i+1)*dpb, f.Groups()); n++ {
			off := int(n-i*dpb) * f.DescSize
			d := append(ondisk.GroupDesc(nil), b.Data()[off:off+f.DescSize]...)
			if err := f.checkDesc(n, d); err != nil {
				b.Release()
				return fmt.Errorf("%w: %w", ErrRefused, err)
			}
			f.groups[n] = &Group{No: n, Desc: d, LargestFree: ^uint32(0), returned: &f.returned}
			lock.NameMutex(&f.groups[n].Mu, lock.GroupLock, uint64(n))
			free += int64(d.FreeBlocks())
			inodes += int64(d.FreeInodes())
		}
		b.Release()
	}
	f.freeBlocks.Store(free)
	f.freeInodes.Store(inodes)
	f.systemZone()
	return nil
}

func (f *FS) checkDesc(n uint32, d ondisk.GroupDesc) error {
	where := fmt.Sprintf("group %d", n)
	if got, want := d.Checksum(f.SB, f.Seed, n), d.StoredChecksum(); got != want && !f.Opts.Lenient && (f.Csum || f.SB.ROCompat(ondisk.ROCompatGdtCsum)) {
		return ondisk.BadChecksum(where, "group descriptor", uint32(got), uint32(want))
	}
	lo, hi := f.FirstData+1, f.Blocks
	if !f.SB.Incompat(ondisk.IncompatFlexBG) {
		lo, hi = f.GroupFirst(n), f.GroupFirst(n)+uint64(f.GroupLen(n))
	}
	for _, x := range []struct {
		name string
		at   uint64
		len  uint64
	}{{"block bitmap", d.BlockBitmap(), 1}, {"inode bitmap", d.InodeBitmap(), 1}, {"inode table", d.InodeTable(), uint64(f.InodeTableBlocks())}} {
		if x.at < lo || x.at+x.len > hi || x.at+x.len < x.at {
			return ondisk.Corrupt(where, "%s at block %d (%d blocks), want from %d to %d", x.name, x.at, x.len, lo, hi-1)
		}
	}
	return nil
}

// systemZone collects the blocks that hold the file system's own metadata (ext4_setup_system_zone).
func (f *FS) systemZone() {
	var z []span
	add := func(start, n uint64) { z = append(z, span{start, start + n}) }
	for _, g := range f.groups {
		if n := f.BaseMeta(g.No); n > 0 {
			add(f.GroupFirst(g.No), n)
		}
		add(g.Desc.BlockBitmap(), 1)
		add(g.Desc.InodeBitmap(), 1)
		add(g.Desc.InodeTable(), uint64(f.InodeTableBlocks()))
		f.overhead += f.BaseMeta(g.No) + 2 + uint64(f.InodeTableBlocks())
	}
	f.overhead += f.FirstData
	if o := f.SB.OverheadBlocks(); o != 0 && uint64(o) < f.Blocks {
		f.overhead = uint64(o)
	}
	slices.SortFunc(z, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	for _, s := range z {
		if n := len(f.system); n > 0 && s.start <= f.system[n-1].end {
			f.system[n-1].end = max(f.system[n-1].end, s.end)
			continue
		}
		f.system = append(f.system, s)
	}
}

// ValidBlocks says whether n blocks from blk lie on the device and outside the file system's own metadata
// (ext4_inode_block_valid).
func (f *FS) ValidBlocks(blk, n uint64) bool {
	if blk <= f.FirstData || n == 0 || blk+n < blk || blk+n > f.Blocks {
		return false
	}
	i, _ := slices.BinarySearchFunc(f.system, blk, func(s span, b uint64) int {
		if s.end <= b {
			return -1
		}
		return 1
	})
	return i == len(f.system) || f.system[i].start >= blk+n
}

// Overhead is the number of blocks that hold metadata laid out by mkfs, for statfs.
func (f *FS) Overhead() uint64 { return f.overhead }

// EachSystem calls fn with every run of metadata blocks laid out by mkfs.
func (f *FS) EachSystem(fn func(start, end uint64)) {
	for _, s := range f.system {
		fn(s.start, s.end)
	}
}
