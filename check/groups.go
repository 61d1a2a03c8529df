package check

import (
	"fmt"

	"inlinefs/ondisk"
)

// desc is the descriptor of group n.
func (c *checker) desc(n uint32) ondisk.GroupDesc {
	return ondisk.GroupDesc(c.gdt[int(n)*c.geo.descSize : (int(n)+1)*c.geo.descSize])
}

// readGroups reads all descriptors; false when a block of them cannot be read.
func (c *checker) readGroups() bool {
	for i := range c.geo.descBlks {
		b := c.block(c.descBlock(i))
		if b == nil {
			return false
		}
		c.gdt = append(c.gdt, b...)
	}
	c.used, c.fixed, c.rsvGDT = newBitset(c.geo.blocks), newBitset(c.geo.blocks), newBitset(c.geo.blocks)
	c.inodes = make([]inoRec, uint64(c.geo.inodes)+1)
	c.byIno, c.xblk = map[uint32]*dirRec{}, map[uint64]*xattrBlock{}
	c.orphan, c.eaRefs = map[uint32]bool{}, map[uint32]bool{}
	return true
}

// checkGroups judges each descriptor and claims the blocks that belong to no file.
func (c *checker) checkGroups() {
	for n := range c.geo.groups {
		c.claimSuperArea(n)
	}
	for n := range c.geo.groups {
		if c.full() {
			return
		}
		d := c.desc(n)
		if c.gcsum {
			if got, want := d.Checksum(c.sb, c.seed, n), d.StoredChecksum(); got != want {
				c.addGroup(ClassGroupCsum, n, "descriptor checksum 0x%04x, want 0x%04x", want, got)
			}
		} else if f := d.Flags() & (ondisk.BGBlockUninit | ondisk.BGInodeUninit); f != 0 {
			c.addGroup(ClassGroupUninit, n, "flags 0x%x in a file system without group checksums", d.Flags())
		}
		if u := uint64(d.ItableUnused()); c.gcsum && u > c.geo.ipg {
			c.addGroup(ClassItableUnused, n, "%d unused inodes of %d", u, c.geo.ipg)
		}
		if uint64(d.UsedDirs()) > c.geo.ipg {
			c.addGroup(ClassUsedDirs, n, "%d directories with %d inodes", d.UsedDirs(), c.geo.ipg)
		}
		c.claimGroup(n, "block bitmap", d.BlockBitmap(), 1)
		c.claimGroup(n, "inode bitmap", d.InodeBitmap(), 1)
		c.claimGroup(n, "inode table", d.InodeTable(), c.geo.itableBlks)
	}
	if c.sb.Incompat(ondisk.IncompatMMP) {
		if b := le64(c.sb, 0x168); b > c.geo.first && b < c.geo.blocks {
			c.setFixed("mmp block", b, 1)
		} else {
			c.addFS(ClassSuper, "superblock: mmp block %d is outside blocks %d to %d", b, c.geo.first+1, c.geo.blocks-1)
		}
	}
}

// claimSuperArea claims group n's copies of superblock and descriptors.
func (c *checker) claimSuperArea(n uint32) {
	at := c.geo.start(n)
	end := at + c.geo.length(n)
	take := func(k uint64) uint64 {
		k = min(k, end-at)
		c.used.setRange(at, k)
		c.fixed.setRange(at, k)
		at += k
		return k
	}
	super := c.hasSuper(n)
	if super {
		take(1)
	}
	if blk, ok := c.metaDesc(n); ok {
		at = blk
		take(1)
	}
	// The group before which meta_bg starts does not matter: backups of the old table are in every group with a superblock.
	if super && c.oldLayout(n) {
		take(c.geo.oldDescBlks)
		from := at
		c.rsvGDT.setRange(from, take(uint64(c.sb.ReservedGdtBlocks())))
	}
}

// claimGroup claims a bitmap or table of group n after checking where it is.
func (c *checker) claimGroup(n uint32, what string, blk, k uint64) {
	if blk <= c.geo.first || blk >= c.geo.blocks || c.geo.blocks-blk < k {
		c.addGroup(ClassGroupLocation, n, "%s at block %d, want %d blocks between %d and %d", what, blk, k, c.geo.first+1, c.geo.blocks)
		return
	}
	s := c.geo.start(n)
	if !c.sb.Incompat(ondisk.IncompatFlexBG) && (blk < s || blk+k > s+c.geo.length(n)) {
		c.addGroup(ClassGroupLocation, n, "%s at block %d, want it in the group's blocks %d to %d", what, blk, s, s+c.geo.length(n)-1)
	}
	c.setFixed(fmt.Sprintf("%s of group %d", what, n), blk, k)
}

func (c *checker) setFixed(what string, blk, k uint64) {
	if at, taken := c.used.firstIn(blk, k); taken {
		c.add(Finding{Class: ClassBlockShared, Group: NoGroup, Block: at,
			Text: fmt.Sprintf("block %d: %s lies on other metadata", at, what)})
	}
	c.used.setRange(blk, k)
	c.fixed.setRange(blk, k)
}

// Runtime changes that the backups of the superblock do not get.
const (
	volatileCompat   = ondisk.CompatExtAttr | ondisk.CompatFastCommit
	volatileIncompat = ondisk.IncompatRecover
	volatileROCompat = ondisk.ROCompatLargeFile | ondisk.ROCompatOrphanPresent | ondisk.ROCompatDirNlink
)

// checkBackups compares each backup of the superblock and of the descriptors with the ones in use, in what never changes.
func (c *checker) checkBackups() {
	for n := uint32(1); n < c.geo.groups && !c.full(); n++ {
		if c.hasSuper(n) {
			c.checkBackupSuper(n)
			if c.oldLayout(n) {
				for i := range c.geo.oldDescBlks {
					c.checkBackupDesc(n, i, c.geo.start(n)+1+i)
				}
			}
		}
		if blk, ok := c.metaDesc(n); ok && uint64(n)%c.geo.descPerBlk != 0 {
			c.checkBackupDesc(n, uint64(n)/c.geo.descPerBlk, blk)
		}
	}
}

func (c *checker) checkBackupSuper(n uint32) {
	blk := c.geo.start(n)
	b := c.block(blk)
	if b == nil {
		return
	}
	s, p := ondisk.Super(b[:ondisk.SuperSize]), c.sb
	if s.Magic() != ondisk.SuperMagic {
		c.addGroup(ClassBackup, n, "backup superblock: magic number 0x%04x, want 0x%04x", s.Magic(), ondisk.SuperMagic)
		return
	}
	if _, err := ondisk.NewSuper(s); err != nil {
		c.addGroup(ClassBackup, n, "backup %v", err)
	}
	type field struct {
		name      string
		got, want uint64
	}
	su, pu := s.UUID(), p.UUID()
	for _, f := range []field{
		{"block count", s.BlocksCount(), p.BlocksCount()},
		{"inode count", uint64(s.InodesCount()), uint64(p.InodesCount())},
		{"first data block", uint64(s.FirstDataBlock()), uint64(p.FirstDataBlock())},
		{"log block size", uint64(s.LogBlockSize()), uint64(p.LogBlockSize())},
		{"blocks per group", uint64(s.BlocksPerGroup()), uint64(p.BlocksPerGroup())},
		{"inodes per group", uint64(s.InodesPerGroup()), uint64(p.InodesPerGroup())},
		{"inode size", uint64(s.InodeSize()), uint64(p.InodeSize())},
		{"descriptor size", uint64(s.DescSize()), uint64(p.DescSize())},
		{"group number", uint64(le16(s, 0x5A)), uint64(uint16(n))},
		{"compatible features", uint64(s.FeatureCompat() &^ volatileCompat), uint64(p.FeatureCompat() &^ volatileCompat)},
		{"incompatible features", uint64(s.FeatureIncompat() &^ volatileIncompat), uint64(p.FeatureIncompat() &^ volatileIncompat)},
		{"read-only features", uint64(s.FeatureROCompat() &^ volatileROCompat), uint64(p.FeatureROCompat() &^ volatileROCompat)},
		{"first half of the UUID", le64(su[:], 0), le64(pu[:], 0)},
		{"second half of the UUID", le64(su[:], 8), le64(pu[:], 8)},
	} {
		if f.got != f.want {
			c.addGroup(ClassBackup, n, "backup superblock: %s 0x%x, want 0x%x", f.name, f.got, f.want)
		}
	}
}

// checkBackupDesc compares the locations in a backup of descriptor block i at blk.
func (c *checker) checkBackupDesc(n uint32, i, blk uint64) {
	b := c.block(blk)
	if b == nil {
		return
	}
	for k := range c.geo.descPerBlk {
		g := i*c.geo.descPerBlk + k
		if g >= uint64(c.geo.groups) {
			return
		}
		d, p := ondisk.GroupDesc(b[int(k)*c.geo.descSize:(int(k)+1)*c.geo.descSize]), c.desc(uint32(g))
		if d.BlockBitmap() != p.BlockBitmap() || d.InodeBitmap() != p.InodeBitmap() || d.InodeTable() != p.InodeTable() {
			c.addGroup(ClassBackup, n, "backup descriptor of group %d in block %d: bitmaps and table at %d, %d, %d, want %d, %d, %d", g, blk,
				d.BlockBitmap(), d.InodeBitmap(), d.InodeTable(), p.BlockBitmap(), p.InodeBitmap(), p.InodeTable())
			return
		}
	}
}
