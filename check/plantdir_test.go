package check_test

import (
	"encoding/binary"

	"inlinefs/check"
	"inlinefs/ondisk"
)

func dirDefects() []defect {
	root := func(name, class string, edit func(d *disk, b []byte)) defect {
		return defect{"dir " + name, class, func(d *disk) { d.dirBlock(ondisk.RootIno, func(b []byte) { edit(d, b) }) }}
	}
	dx := func(name, class string, edit func(b []byte)) defect {
		return defect{"htree " + name, class, func(d *disk) {
			ino := d.inos["many"]
			if !d.inode(ino, nil).Has(ondisk.FlIndex) {
				d.t.Skip("e2fsck -D made no index")
			}
			b := d.block(d.firstBlock(ino))
			edit(b)
			limit, count := int(binary.LittleEndian.Uint16(b[32:])), int(binary.LittleEndian.Uint16(b[34:]))
			if tail := 32 + 8*limit; tail+8 <= len(b) && count <= limit && class != check.ClassHtreeCsum {
				s := ondisk.CRC32C(d.iseed(ino), b[:32+8*count])
				s = ondisk.CRC32C(s, b[tail:tail+4])
				le32put(b, tail+4, ondisk.CRC32C(s, make([]byte, 4)))
			}
		}}
	}
	return []defect{
		{"dir checksum", check.ClassDirCsum, func(d *disk) { d.block(d.firstBlock(ondisk.RootIno))[30] ^= 1 }},
		root("dot", check.ClassDirDots, func(d *disk, b []byte) { ondisk.Dirent(b).SetIno(d.inos["sub"]) }),
		root("dotdot", check.ClassDirDots, func(d *disk, b []byte) { ondisk.Dirent(b[12:]).SetIno(d.inos["sub"]) }),
		root("no dot", check.ClassDirDots, func(_ *disk, b []byte) { b[8] = 'x' }),
		root("rec_len", check.ClassDirEntry, func(d *disk, b []byte) { d.find(b, "f60").SetRecLen(6) }),
		root("rec_len beyond", check.ClassDirEntry, func(d *disk, b []byte) { d.find(b, "f60").SetRecLen(4000) }),
		root("name_len", check.ClassDirEntry, func(d *disk, b []byte) { d.find(b, "f60").SetNameLen(255) }),
		root("slash", check.ClassDirEntry, func(d *disk, b []byte) { d.find(b, "f60").Name()[0] = '/' }),
		root("inode beyond", check.ClassDirEntry, func(d *disk, b []byte) { d.find(b, "f60").SetIno(1 << 30) }),
		root("unused inode", check.ClassDirEntry, func(d *disk, b []byte) { d.find(b, "f60").SetIno(1000) }),
		root("reserved inode", check.ClassDirEntry, func(d *disk, b []byte) { d.find(b, "f60").SetIno(7) }),
		root("type", check.ClassDirType, func(d *disk, b []byte) { d.find(b, "f60").SetType(ondisk.FtLnk) }),
		root("name twice", check.ClassDirTwice, func(d *disk, b []byte) { copy(d.find(b, "f60").Name(), "f61") }),
		root("entry gone", check.ClassUnreachable, func(d *disk, b []byte) { d.find(b, "f60").SetIno(0) }),
		root("directory gone", check.ClassUnreachable, func(d *disk, b []byte) { d.find(b, "a").SetIno(0) }),
		root("directory twice", check.ClassDirLinked, func(d *disk, b []byte) { d.find(b, "sub").SetIno(d.inos["few"]) }),
		dx("checksum", check.ClassHtreeCsum, func(b []byte) { b[len(b)-4] ^= 1 }),
		dx("limit", check.ClassHtree, func(b []byte) { le16put(b, 32, 3) }),
		dx("count", check.ClassHtree, func(b []byte) { le16put(b, 34, 0) }),
		dx("version", check.ClassHtree, func(b []byte) { b[28] = 9 }),
		dx("levels", check.ClassHtree, func(b []byte) { b[30] = 3 }),
		dx("order", check.ClassHtree, func(b []byte) { le32put(b, 40, 0xffffff00) }),
		dx("hash bound", check.ClassHtree, func(b []byte) { le32put(b, 40, 4) }),
		dx("unmapped block", check.ClassHtree, func(b []byte) { le32put(b, 44, 9999) }),
		dx("block twice", check.ClassHtree, func(b []byte) { copy(b[44:48], b[36:40]) }),
		{"dir block with a hole", check.ClassDir, func(d *disk) {
			d.name("lost+found", func(raw ondisk.Inode) {
				n := ondisk.ExtentNode(raw.Block())
				e := n.Leaf(0)
				n.SetEntries(2)
				n.SetLeaf(1, ondisk.Extent{Logical: 500, Len: 1, Physical: e.Physical + uint64(e.Len) - 1})
				e.Len--
				n.SetLeaf(0, e)
			})
		}},
	}
}

func inlineDefects() []defect {
	file := func(name, class, path string, edit func(d *disk, raw ondisk.Inode)) defect {
		return defect{"inline " + name, class, func(d *disk) {
			if !d.name(path, nil).Has(ondisk.FlInlineData) {
				d.t.Fatalf("%s is not inline", path)
			}
			d.name(path, func(raw ondisk.Inode) { edit(d, raw) })
		}}
	}
	return []defect{
		file("size beyond capacity", check.ClassInlineCapacity, "f100", func(_ *disk, raw ondisk.Inode) { raw.SetSize(101) }),
		file("huge size", check.ClassInlineCapacity, "f100", func(_ *disk, raw ondisk.Inode) { raw.SetSize(1 << 63) }),
		file("extents", check.ClassInlineExtents, "f100", func(_ *disk, raw ondisk.Inode) { raw.SetFlags(raw.Flags() | ondisk.FlExtents) }),
		file("attribute gone", check.ClassInlineNoData, "f100", func(_ *disk, raw ondisk.Inode) { clear(raw[ondisk.GoodOldInode+raw.ExtraIsize():]) }),
		file("attribute renamed", check.ClassInlineNoData, "f100", func(d *disk, raw ondisk.Inode) {
			e, _ := d.value(raw)
			e[1] = 1
		}),
		file("value in another inode", check.ClassInlineNoData, "f100", func(d *disk, raw ondisk.Inode) {
			e, _ := d.value(raw)
			le32put(e, 4, 12)
		}),
		file("value beyond", check.ClassXattrIbody, "f100", func(d *disk, raw ondisk.Inode) {
			e, _ := d.value(raw)
			le16put(e, 2, 250)
		}),
		file("bytes after the end in i_block", check.ClassInlineTail, "f59", func(_ *disk, raw ondisk.Inode) { raw.Block()[59] = 1 }),
		file("bytes after the end in the value", check.ClassInlineTail, "f100", func(_ *disk, raw ondisk.Inode) { raw.SetSize(99) }),
		file("blocks", check.ClassInlineBlocks, "f100", func(_ *disk, raw ondisk.Inode) { raw.SetSectors(2, true, 1024) }),
		file("flag lost", check.ClassInlineStale, "f100", func(_ *disk, raw ondisk.Inode) {
			raw.SetFlags(raw.Flags()&^ondisk.FlInlineData | ondisk.FlExtents)
			ondisk.ExtentNode(raw.Block()).Init(0)
		}),
		file("directory size", check.ClassInlineDir, "few", func(_ *disk, raw ondisk.Inode) { raw.SetSize(raw.Size() - 4) }),
		file("directory parent", check.ClassDirDots, "few", func(_ *disk, raw ondisk.Inode) { le32put(raw.Block(), 0, 12) }),
		file("directory parent 0", check.ClassDirDots, "few", func(_ *disk, raw ondisk.Inode) { le32put(raw.Block(), 0, 0) }),
		file("directory entry", check.ClassInlineDir, "few", func(_ *disk, raw ondisk.Inode) { le16put(raw.Block(), 8, 5) }),
		file("directory entry beyond", check.ClassInlineDir, "few", func(_ *disk, raw ondisk.Inode) { le16put(raw.Block(), 8, 60) }),
		{"inline feature", check.ClassInlineFeature, func(d *disk) {
			d.super(func(s ondisk.Super) { s.SetFeatureIncompat(s.FeatureIncompat() &^ ondisk.IncompatInlineData) })
		}},
	}
}

func xattrDefects() []defect {
	block := func(name, class string, edit func(b []byte)) defect {
		return defect{"xattr " + name, class, func(d *disk) {
			blk := d.name("f5000", nil).FileACL()
			if blk == 0 {
				d.t.Fatal("f5000 has no attribute block")
			}
			b := d.block(blk)
			edit(b)
			if class != check.ClassXattrCsum {
				le32put(b, 16, 0)
				s := ondisk.CRC32C32(ondisk.CRC32C32(d.seed, uint32(blk)), uint32(blk>>32))
				le32put(b, 16, ondisk.CRC32C(s, b))
			}
		}}
	}
	return []defect{
		block("checksum", check.ClassXattrCsum, func(b []byte) { b[16] ^= 1 }),
		block("magic", check.ClassXattr, func(b []byte) { b[0]++ }),
		block("refcount", check.ClassXattrRefcount, func(b []byte) { le32put(b, 4, 2) }),
		block("blocks", check.ClassXattr, func(b []byte) { le32put(b, 8, 2) }),
		block("hash", check.ClassXattrHash, func(b []byte) { b[12] = 1 }),
		block("entry hash", check.ClassXattrHash, func(b []byte) { b[len(b)-1] ^= 1 }),
		block("value beyond", check.ClassXattr, func(b []byte) { le16put(b, 34, 1000) }),
		block("unknown index", check.ClassXattr, func(b []byte) { b[33] = 77 }),
		block("no end", check.ClassXattr, func(b []byte) {
			for i := 32; i < len(b); i++ {
				b[i] = 4
			}
		}),
		{"xattr block outside", check.ClassBlockRange, func(d *disk) {
			d.name("f5000", func(raw ondisk.Inode) { raw.SetFileACL(1 << 40) })
		}},
		{"xattr ibody magic", check.ClassXattrIbody, func(d *disk) {
			d.name("f70000", func(raw ondisk.Inode) { raw[ondisk.GoodOldInode+raw.ExtraIsize()]++ })
		}},
		{"xattr ibody value", check.ClassXattrIbody, func(d *disk) {
			d.name("f70000", func(raw ondisk.Inode) { le32put(raw, ondisk.GoodOldInode+raw.ExtraIsize()+4+8, 500) })
		}},
	}
}
