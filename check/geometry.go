package check

import (
	"fmt"

	"inlinefs/ondisk"
)

// geometry is the part of the superblock that everything else is computed from, checked against the device.
type geometry struct {
	bs          int    // block size in bytes
	blocks      uint64 // blocks of the file system
	first       uint64 // first data block
	bpg         uint64 // blocks per group
	ipg         uint64 // inodes per group
	isize       int    // inode size in bytes
	inodes      uint32
	groups      uint32
	descSize    int
	descPerBlk  uint64
	itableBlks  uint64 // blocks of one group's inode table
	descBlks    uint64 // blocks of descriptors, all groups
	oldDescBlks uint64 // of these, the ones right after each superblock (all without meta_bg)
}

// Features whose layout this package knows.
const (
	knownIncompat = ondisk.IncompatFiletype | ondisk.IncompatRecover | ondisk.IncompatMetaBG | ondisk.IncompatExtents |
		ondisk.Incompat64Bit | ondisk.IncompatMMP | ondisk.IncompatFlexBG | ondisk.IncompatEAInode | ondisk.IncompatCsumSeed |
		ondisk.IncompatLargedir | ondisk.IncompatInlineData
	knownROCompat = ondisk.ROCompatSparseSuper | ondisk.ROCompatLargeFile | ondisk.ROCompatBtreeDir | ondisk.ROCompatHugeFile |
		ondisk.ROCompatGdtCsum | ondisk.ROCompatDirNlink | ondisk.ROCompatExtraIsize | ondisk.ROCompatQuota |
		ondisk.ROCompatMetadataCsum | ondisk.ROCompatReadonly | ondisk.ROCompatProject | ondisk.ROCompatVerity |
		ondisk.ROCompatOrphanPresent
)

// readSuper reads the primary superblock without judging it.
func (c *checker) readSuper() error {
	b := make([]byte, ondisk.SuperSize)
	if _, err := c.dev.ReadAt(b, ondisk.SuperOffset); err != nil {
		return fmt.Errorf("read the superblock at byte %d: %w", ondisk.SuperOffset, err)
	}
	c.sb = ondisk.Super(b)
	return nil
}

// checkSuper judges the superblock; false when nothing else can be judged by it.
func (c *checker) checkSuper() bool {
	s := c.sb
	if m := s.Magic(); m != ondisk.SuperMagic {
		c.addFS(ClassSuper, "superblock: magic number 0x%04x, want 0x%04x", m, ondisk.SuperMagic)
		return false
	}
	if _, err := ondisk.NewSuper(s); err != nil {
		c.addFS(ClassSuperCsum, "%v", err)
	}
	if !c.checkFeatures() || !c.setGeometry() {
		return false
	}
	c.seed = s.CsumSeed()
	c.csum = s.HasMetadataCsum()
	c.gcsum = c.csum || s.ROCompat(ondisk.ROCompatGdtCsum)
	if s.Incompat(ondisk.IncompatRecover) {
		c.addFS(ClassNeedsRecovery, "superblock: needs_recovery is set: the journal has not been replayed")
	}
	if s.State()&ondisk.StateError != 0 {
		c.addFS(ClassState, "superblock: s_state 0x%x says that errors were detected (s_error_count %d)", s.State(), s.ErrorCount())
	}
	if s.State()&ondisk.StateValid == 0 {
		c.addFS(ClassState, "superblock: s_state 0x%x says that it was not cleanly unmounted", s.State())
	}
	if r := s.RevLevel(); r > 1 {
		c.addFS(ClassSuper, "superblock: revision %d, want 0 or 1", r)
	}
	if f := s.FirstIno(); f < ondisk.GoodOldFirstIno || f > c.geo.inodes {
		c.addFS(ClassSuper, "superblock: first inode %d, want %d to %d", f, ondisk.GoodOldFirstIno, c.geo.inodes)
		return false
	}
	if n := s.ReservedBlocks(); n > c.geo.blocks {
		c.addFS(ClassSuper, "superblock: %d reserved blocks of %d", n, c.geo.blocks)
	}
	if v := s.DefHashVersion(); v > 2 {
		c.addFS(ClassSuper, "superblock: default hash version %d, want 0 to 2", v)
	}
	return true
}

func (c *checker) checkFeatures() bool {
	s := c.sb
	if s.ROCompat(ondisk.ROCompatBigalloc) {
		c.addFS(ClassFeature, "superblock: bigalloc is not supported")
		return false
	}
	if x := s.FeatureIncompat() &^ knownIncompat; x != 0 {
		c.addFS(ClassFeature, "superblock: feature %s is not supported", ondisk.IncompatNames(x))
		return false
	}
	if x := s.FeatureROCompat() &^ knownROCompat; x != 0 {
		c.addFS(ClassFeature, "superblock: feature %s is not supported", ondisk.ROCompatNames(x))
		return false
	}
	if s.HasMetadataCsum() && s.ROCompat(ondisk.ROCompatGdtCsum) {
		c.addFS(ClassSuper, "superblock: metadata_csum and uninit_bg are both set")
	}
	if s.Incompat(ondisk.IncompatMetaBG) && s.Compat(ondisk.CompatResizeInode) {
		c.addFS(ClassSuper, "superblock: meta_bg and resize_inode are both set")
	}
	if s.HasInlineData() && s.InodeSize() <= ondisk.GoodOldInode {
		c.addFS(ClassSuper, "superblock: inline_data with inodes of %d bytes", s.InodeSize())
	}
	return true
}

// setGeometry computes c.geo; false, and a finding, when a size cannot be true.
func (c *checker) setGeometry() bool {
	s := c.sb
	bad := func(format string, a ...any) bool {
		c.addFS(ClassGeometry, "superblock: "+format, a...)
		return false
	}
	g := &c.geo
	g.bs, g.isize, g.blocks, g.inodes = s.BlockSize(), s.InodeSize(), s.BlocksCount(), s.InodesCount()
	if g.bs == 0 {
		return bad("log block size %d, want at most 6", s.LogBlockSize())
	}
	size := uint64(max(c.dev.Size(), 0))
	g.first, g.bpg, g.ipg = uint64(s.FirstDataBlock()), uint64(s.BlocksPerGroup()), uint64(s.InodesPerGroup())
	bits := uint64(g.bs) * 8
	var wantFirst uint64
	if g.bs == 1024 {
		wantFirst = 1
	}
	switch {
	case s.LogClusterSize() != s.LogBlockSize() && s.RevLevel() > 0 && s.LogClusterSize() != 0:
		return bad("log cluster size %d, want the log block size %d", s.LogClusterSize(), s.LogBlockSize())
	case g.first != wantFirst:
		return bad("first data block %d, want %d with blocks of %d bytes", g.first, wantFirst, g.bs)
	case g.blocks > size/uint64(g.bs):
		return bad("%d blocks of %d bytes on a device of %d bytes", g.blocks, g.bs, size)
	case g.blocks <= g.first+1:
		return bad("%d blocks", g.blocks)
	case g.bpg == 0 || g.bpg > bits || g.bpg%8 != 0:
		return bad("%d blocks per group, want a multiple of 8 up to %d", g.bpg, bits)
	case g.ipg == 0 || g.ipg > bits:
		return bad("%d inodes per group, want 1 to %d", g.ipg, bits)
	case !ondisk.IsPowerOfTwo(g.isize) || g.isize < ondisk.GoodOldInode || g.isize > g.bs:
		return bad("inode size %d, want a power of two from %d to %d", g.isize, ondisk.GoodOldInode, g.bs)
	}
	g.descSize = s.DescSize()
	least := 32
	if s.Is64Bit() {
		least = 64
	}
	if !ondisk.IsPowerOfTwo(g.descSize) || g.descSize < least || g.descSize > 1024 {
		return bad("descriptor size %d, want a power of two from %d to 1024", g.descSize, least)
	}
	groups := (g.blocks - g.first + g.bpg - 1) / g.bpg
	if groups*g.ipg != uint64(g.inodes) {
		return bad("%d inodes, want %d: %d groups of %d", g.inodes, groups*g.ipg, groups, g.ipg)
	}
	if uint64(g.inodes)*uint64(g.isize) > size || groups*uint64(g.descSize) > size {
		return bad("%d inodes of %d bytes in %d groups on a device of %d bytes", g.inodes, g.isize, groups, size)
	}
	g.groups = uint32(groups)
	g.descPerBlk = uint64(g.bs / g.descSize)
	g.itableBlks = (g.ipg*uint64(g.isize) + uint64(g.bs) - 1) / uint64(g.bs)
	g.descBlks = (groups + g.descPerBlk - 1) / g.descPerBlk
	g.oldDescBlks = g.descBlks
	if s.Incompat(ondisk.IncompatMetaBG) {
		g.oldDescBlks = min(uint64(s.FirstMetaBG()), g.descBlks)
	}
	if rsv := uint64(s.ReservedGdtBlocks()); g.oldDescBlks+rsv+1 > g.bpg {
		return bad("%d descriptor and %d reserved blocks in groups of %d blocks", g.oldDescBlks, rsv, g.bpg)
	}
	return true
}

// start is the first block of group n.
func (g *geometry) start(n uint32) uint64 { return g.first + uint64(n)*g.bpg }

// length is the number of blocks of group n.
func (g *geometry) length(n uint32) uint64 { return min(g.bpg, g.blocks-g.start(n)) }

// hasSuper says whether group n holds a copy of the superblock (ext4_bg_has_super).
func (c *checker) hasSuper(n uint32) bool {
	switch {
	case n == 0:
		return true
	case c.sb.Compat(ondisk.CompatSparseSuper2):
		b := c.sb.BackupBGs()
		return n == b[0] || n == b[1]
	case n == 1 || !c.sb.ROCompat(ondisk.ROCompatSparseSuper):
		return true
	case n%2 == 0:
		return false
	}
	for _, base := range []uint64{3, 5, 7} {
		p := base
		for p < uint64(n) {
			p *= base
		}
		if p == uint64(n) {
			return true
		}
	}
	return false
}

// oldLayout says whether the descriptor block that covers group n lies right after the superblocks.
func (c *checker) oldLayout(n uint32) bool {
	return !c.sb.Incompat(ondisk.IncompatMetaBG) || uint64(n)/c.geo.descPerBlk < c.geo.oldDescBlks
}

// metaDesc says whether group n holds the descriptor block of its meta group, and where (ext4_bg_num_gdb_meta).
func (c *checker) metaDesc(n uint32) (uint64, bool) {
	if c.oldLayout(n) {
		return 0, false
	}
	at := uint64(n) % c.geo.descPerBlk
	if at != 0 && at != 1 && at != c.geo.descPerBlk-1 {
		return 0, false
	}
	blk := c.geo.start(n)
	if c.hasSuper(n) {
		blk++
	}
	return blk, blk < c.geo.blocks
}

// descBlock is where descriptor block i is kept for use (not its backups).
func (c *checker) descBlock(i uint64) uint64 {
	if i < c.geo.oldDescBlks {
		return c.geo.first + 1 + i
	}
	n := uint32(i * c.geo.descPerBlk)
	blk := c.geo.start(n)
	if c.hasSuper(n) {
		blk++
	}
	return blk
}
