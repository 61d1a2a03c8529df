package check_test

import (
	"inlinefs/check"
	"inlinefs/ondisk"
)

func superDefects() []defect {
	super := func(name, class string, edit func(s ondisk.Super)) defect {
		return defect{"super " + name, class, func(d *disk) { d.super(edit) }}
	}
	return []defect{
		super("magic", check.ClassSuper, func(s ondisk.Super) { s[0x38]++ }),
		{"super checksum", check.ClassSuperCsum, func(d *disk) { d.sb[0x3FC] ^= 1 }},
		super("blocks beyond the device", check.ClassGeometry, func(s ondisk.Super) { le32put(s, 4, 1<<30) }),
		super("inode count", check.ClassGeometry, func(s ondisk.Super) { le32put(s, 0, s.InodesCount()-1) }),
		super("blocks per group", check.ClassGeometry, func(s ondisk.Super) { le32put(s, 0x20, 0) }),
		super("inode size", check.ClassGeometry, func(s ondisk.Super) { le16put(s, 0x58, 100) }),
		super("block size", check.ClassGeometry, func(s ondisk.Super) { le32put(s, 0x18, 77) }),
		super("descriptor size", check.ClassGeometry, func(s ondisk.Super) { le16put(s, 0xFE, 48) }),
		super("bigalloc", check.ClassFeature, func(s ondisk.Super) { le32put(s, 0x64, s.FeatureROCompat()|ondisk.ROCompatBigalloc) }),
		super("unknown feature", check.ClassFeature, func(s ondisk.Super) { s.SetFeatureIncompat(s.FeatureIncompat() | 1<<30) }),
		super("needs_recovery", check.ClassNeedsRecovery, func(s ondisk.Super) { s.SetFeatureIncompat(s.FeatureIncompat() | ondisk.IncompatRecover) }),
		super("error state", check.ClassState, func(s ondisk.Super) { s.SetState(s.State() | ondisk.StateError) }),
		super("not unmounted", check.ClassState, func(s ondisk.Super) { s.SetState(0) }),
		super("orphan out of range", check.ClassOrphanList, func(s ondisk.Super) { s.SetLastOrphan(s.InodesCount() + 1) }),
		super("journal without the feature", check.ClassJournal, func(s ondisk.Super) { le32put(s, 0xE0, 9) }),
		super("no journal", check.ClassJournal, func(s ondisk.Super) { s.SetFeatureIncompat(s.FeatureIncompat() | ondisk.IncompatRecover) }),
		{"backup superblock", check.ClassBackup, func(d *disk) { d.block(8193)[0x68] ^= 1 }},
		{"backup descriptors", check.ClassBackup, func(d *disk) { d.block(8194)[0] ^= 1 }},
		{"orphan list", check.ClassOrphan, func(d *disk) {
			d.super(func(s ondisk.Super) { s.SetLastOrphan(d.inos["f129"]) })
			d.name("f129", func(raw ondisk.Inode) { raw.SetDtime(0) })
		}},
		{"orphan loop", check.ClassOrphanList, func(d *disk) {
			d.super(func(s ondisk.Super) { s.SetLastOrphan(d.inos["f129"]) })
			d.name("f129", func(raw ondisk.Inode) { raw.SetDtime(d.inos["f129"]) })
		}},
	}
}

func groupDefects() []defect {
	group := func(name, class string, edit func(g ondisk.GroupDesc)) defect {
		return defect{"group " + name, class, func(d *disk) { d.group(0, edit) }}
	}
	return []defect{
		{"group checksum", check.ClassGroupCsum, func(d *disk) { d.group(0, nil)[0x1E] ^= 1 }},
		group("block bitmap outside", check.ClassGroupLocation, func(g ondisk.GroupDesc) { le32put(g, 0, 1<<30) }),
		group("inode table on the bitmap", check.ClassBlockShared, func(g ondisk.GroupDesc) { le32put(g, 8, uint32(g.BlockBitmap())) }),
		group("free blocks", check.ClassFreeBlocks, func(g ondisk.GroupDesc) { g.SetFreeBlocks(g.FreeBlocks() + 1) }),
		group("free inodes", check.ClassFreeInodes, func(g ondisk.GroupDesc) { g.SetFreeInodes(g.FreeInodes() + 1) }),
		group("used directories", check.ClassUsedDirs, func(g ondisk.GroupDesc) { g.SetUsedDirs(g.UsedDirs() + 1) }),
		group("unused inodes", check.ClassItableUnused, func(g ondisk.GroupDesc) { g.SetItableUnused(g.ItableUnused() + 400) }),
		group("uninit", check.ClassGroupUninit, func(g ondisk.GroupDesc) { g.SetFlags(g.Flags() | ondisk.BGBlockUninit) }),
		{"block in use but free", check.ClassBlockFree, func(d *disk) {
			blk := d.firstBlock(d.inos["f70000"])
			d.bitmaps(func(block, _ []byte) { block[(blk-1)/8] &^= 1 << ((blk - 1) % 8) })
		}},
		{"block leaked", check.ClassBlockLeak, func(d *disk) { d.bitmaps(func(block, _ []byte) { block[1023] |= 0x80 }) }},
		{"inode in use but free", check.ClassInodeFree, func(d *disk) {
			i := d.inos["f129"] - 1
			d.bitmaps(func(_, inode []byte) { inode[i/8] &^= 1 << (i % 8) })
		}},
		{"block bitmap checksum", check.ClassBlockBitmapCsum, func(d *disk) { d.block(d.group(0, nil).BlockBitmap())[1023] ^= 0x80 }},
		{"inode bitmap checksum", check.ClassInodeBitmapCsum, func(d *disk) { d.block(d.group(0, nil).InodeBitmap())[63] ^= 0x80 }},
		{"inode bitmap padding", check.ClassBitmapPadding, func(d *disk) { d.block(d.group(0, nil).InodeBitmap())[1023] &^= 0x80 }},
		{"padding", check.ClassBitmapPadding, func(d *disk) { d.block(d.group(1, nil).BlockBitmap())[1023] &^= 0x80 }},
	}
}

// bitmaps edits group 0's bitmaps and their checksums.
func (d *disk) bitmaps(edit func(block, inode []byte)) {
	d.group(0, func(g ondisk.GroupDesc) {
		block, inode := d.block(g.BlockBitmap()), d.block(g.InodeBitmap())
		edit(block, inode)
		g.SetBlockBitmapCsum(ondisk.CRC32C(d.seed, block[:d.sb.BlocksPerGroup()/8]))
		g.SetInodeBitmapCsum(ondisk.CRC32C(d.seed, inode[:(d.sb.InodesPerGroup()+7)/8]))
	})
}

func inodeDefects() []defect {
	file := func(name, class, path string, edit func(raw ondisk.Inode)) defect {
		return defect{"inode " + name, class, func(d *disk) { d.name(path, edit) }}
	}
	return []defect{
		{"inode checksum", check.ClassInodeCsum, func(d *disk) { d.name("f60", nil)[8] ^= 1 }},
		file("mode", check.ClassInodeMode, "f4000", func(raw ondisk.Inode) { raw.SetMode(0xB000) }),
		file("extra size", check.ClassInodeExtra, "f4000", func(raw ondisk.Inode) { raw.SetExtraIsize(126) }),
		file("dtime", check.ClassInodeDtime, "f4000", func(raw ondisk.Inode) { raw.SetDtime(77) }),
		file("links", check.ClassLinks, "f4000", func(raw ondisk.Inode) { raw.SetLinks(2) }),
		file("directory links", check.ClassLinks, "sub", func(raw ondisk.Inode) { raw.SetLinks(3) }),
		file("index flag on a file", check.ClassInodeFlags, "f4000", func(raw ondisk.Inode) { raw.SetFlags(raw.Flags() | ondisk.FlIndex) }),
		file("extents flag on a pipe", check.ClassInodeFlags, "pipe", func(raw ondisk.Inode) { raw.SetFlags(raw.Flags() | ondisk.FlExtents) }),
		file("short size", check.ClassISize, "f70000", func(raw ondisk.Inode) { raw.SetSize(100) }),
		file("huge size", check.ClassISize, "f70000", func(raw ondisk.Inode) { raw.SetSize(1 << 62) }),
		file("directory size", check.ClassISize, "many", func(raw ondisk.Inode) { raw.SetSize(1000) }),
		file("sectors", check.ClassIBlocks, "f70000", func(raw ondisk.Inode) { raw.SetSectors(2, true, 1024) }),
		file("symlink size", check.ClassSymlink, "short", func(raw ondisk.Inode) { raw.SetSize(2) }),
		file("long symlink size", check.ClassSymlink, "s400", func(raw ondisk.Inode) { raw.SetSize(399) }),
		file("type changed", check.ClassDirType, "f1", func(raw ondisk.Inode) { raw.SetMode(ondisk.ModeLnk | 0o777) }),
	}
}

func mapDefects() []defect {
	root := func(name, class, path string, edit func(d *disk, n ondisk.ExtentNode)) defect {
		return defect{"map " + name, class, func(d *disk) {
			d.name(path, func(raw ondisk.Inode) { edit(d, ondisk.ExtentNode(raw.Block())) })
		}}
	}
	return []defect{
		root("magic", check.ClassExtent, "f70000", func(_ *disk, n ondisk.ExtentNode) { n[0]++ }),
		root("entries", check.ClassExtent, "f70000", func(_ *disk, n ondisk.ExtentNode) { n.SetEntries(9) }),
		root("depth", check.ClassExtent, "f70000", func(_ *disk, n ondisk.ExtentNode) { n.SetDepth(7) }),
		root("empty extent", check.ClassExtent, "f70000", func(_ *disk, n ondisk.ExtentNode) {
			e := n.Leaf(0)
			e.Len = 0
			n.SetLeaf(0, e)
		}),
		root("overlap", check.ClassExtent, "f70000", func(_ *disk, n ondisk.ExtentNode) {
			e := n.Leaf(0)
			n.SetEntries(2)
			n.SetLeaf(1, ondisk.Extent{Logical: e.Logical + e.Len - 1, Len: 1, Physical: 12000})
		}),
		root("outside", check.ClassBlockRange, "f70000", func(_ *disk, n ondisk.ExtentNode) {
			e := n.Leaf(0)
			e.Physical = 1 << 40
			n.SetLeaf(0, e)
		}),
		root("metadata", check.ClassBlockShared, "f4000", func(d *disk, n ondisk.ExtentNode) {
			e := n.Leaf(0)
			e.Physical = d.group(0, nil).InodeTable()
			n.SetLeaf(0, e)
		}),
		root("shared", check.ClassBlockShared, "f4000", func(d *disk, n ondisk.ExtentNode) {
			e := n.Leaf(0)
			e.Physical = d.firstBlock(d.inos["f70000"])
			n.SetLeaf(0, e)
		}),
		root("index block outside", check.ClassBlockRange, "f4000", func(_ *disk, n ondisk.ExtentNode) {
			n.SetDepth(1)
			n.SetIndex(0, 0, 1<<40)
		}),
		root("index block is no node", check.ClassExtent, "f4000", func(_ *disk, n ondisk.ExtentNode) {
			n.SetDepth(1)
			n.SetIndex(0, 0, 12000)
		}),
		{"map indirect outside", check.ClassBlockRange, func(d *disk) {
			d.name("f4000", func(raw ondisk.Inode) {
				raw.SetFlags(raw.Flags() &^ ondisk.FlExtents)
				clear(raw.Block())
				raw.SetBlockPtr(12, 1<<30)
			})
		}},
		{"map indirect into itself", check.ClassBlockShared, func(d *disk) {
			for i := range 256 {
				le32put(d.block(12000), 4*i, 12000)
			}
			d.name("f4000", func(raw ondisk.Inode) {
				raw.SetFlags(raw.Flags() &^ ondisk.FlExtents)
				clear(raw.Block())
				raw.SetBlockPtr(14, 12000)
			})
		}},
		{"map extent tree into itself", check.ClassBlockShared, func(d *disk) {
			n := ondisk.ExtentNode(d.block(12000))
			n.Init(4)
			n.SetEntries(80)
			for i := range 80 {
				n.SetIndex(i, uint32(i), 12000)
			}
			n.UpdateChecksum(d.iseed(d.inos["f4000"]))
			d.name("f4000", func(raw ondisk.Inode) {
				r := ondisk.ExtentNode(raw.Block())
				r.SetDepth(5)
				r.SetIndex(0, 0, 12000)
			})
		}},
	}
}
