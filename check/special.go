package check

import "inlinefs/ondisk"

// readInode reads one inode of the table; nil when it cannot be read.
func (c *checker) readInode(ino uint32) ondisk.Inode {
	n, i := uint64(ino-1)/c.geo.ipg, uint64(ino-1)%c.geo.ipg
	off := i * uint64(c.geo.isize)
	b := c.block(c.desc(uint32(n)).InodeTable() + off/uint64(c.geo.bs))
	if b == nil {
		return nil
	}
	at := int(off % uint64(c.geo.bs))
	return ondisk.Inode(b[at : at+c.geo.isize])
}

// readOrphans follows the orphan list and reads the orphan file.
func (c *checker) readOrphans() {
	if c.sb.Compat(ondisk.CompatOrphanFile) {
		c.readOrphanFile()
	}
	last := uint32(0)
	for ino := c.sb.LastOrphan(); ino != 0; {
		if ino < c.sb.FirstIno() || ino > c.geo.inodes {
			c.addIno(ClassOrphanList, last, "names inode %d as the next orphan, want %d to %d", ino, c.sb.FirstIno(), c.geo.inodes)
			return
		}
		if c.orphan[ino] {
			c.addIno(ClassOrphanList, ino, "is on the orphan list twice")
			return
		}
		raw := c.readInode(ino)
		if raw == nil || c.full() {
			return
		}
		c.noteOrphan(ino, raw, "list")
		last, ino = ino, raw.Dtime()
	}
}

func (c *checker) noteOrphan(ino uint32, raw ondisk.Inode, where string) {
	c.orphan[ino] = true
	if raw.Mode() == 0 {
		c.addIno(ClassOrphanList, ino, "is on the orphan %s but not in use", where)
		return
	}
	if raw.Links() == 0 {
		c.addIno(ClassOrphan, ino, "is on the orphan %s: to be deleted", where)
	} else {
		c.addIno(ClassOrphan, ino, "is on the orphan %s: to be truncated to %d bytes", where, raw.Size())
	}
}

// readOrphanFile reads the inode numbers in the orphan file. Its blocks are claimed with the other inodes'.
func (c *checker) readOrphanFile() {
	ino := c.sb.OrphanFileIno()
	if ino < c.sb.FirstIno() || ino > c.geo.inodes {
		c.addFS(ClassOrphanList, "superblock: orphan file is inode %d, want %d to %d", ino, c.sb.FirstIno(), c.geo.inodes)
		return
	}
	c.fileOf = ino
	raw := c.readInode(ino)
	if raw == nil {
		return
	}
	in, ok := c.quietMap(ino, raw)
	if !ok || !raw.IsReg() {
		c.addIno(ClassOrphanList, ino, "the orphan file cannot be read")
		return
	}
	for lblk := range in.end {
		blk, ok := in.lookup(lblk)
		if !ok {
			c.addIno(ClassOrphanList, ino, "the orphan file has a hole at block %d", lblk)
			continue
		}
		b := c.block(blk)
		if b == nil || c.full() {
			return
		}
		c.readOrphanBlock(ino, blk, b)
	}
}

// orphanBlockMagic ends each block of the orphan file, before its checksum.
const orphanBlockMagic = 0x0b10ca04

func (c *checker) readOrphanBlock(ino uint32, blk uint64, b []byte) {
	t := len(b) - 8
	if m := le32(b, t); m != orphanBlockMagic {
		c.addInoBlock(ClassOrphanList, ino, blk, "orphan block magic 0x%08x, want 0x%08x", m, uint32(orphanBlockMagic))
		return
	}
	for off := 0; off < t; off += 4 {
		o := le32(b, off)
		switch {
		case o == 0:
		case o < c.sb.FirstIno() || o > c.geo.inodes:
			c.addInoBlock(ClassOrphanList, ino, blk, "entry %d names inode %d, want %d to %d", off/4, o, c.sb.FirstIno(), c.geo.inodes)
		case c.orphan[o]:
			c.addIno(ClassOrphanList, o, "is on the orphan list twice")
		default:
			if raw := c.readInode(o); raw != nil {
				c.noteOrphan(o, raw, "file")
			}
		}
		if c.full() {
			return
		}
	}
}

// quietMap maps an inode without claiming or reporting anything; false when its map is broken.
func (c *checker) quietMap(ino uint32, raw ondisk.Inode) (*inode, bool) {
	in := &inode{ino: ino, raw: raw, seed: ondisk.InodeSeed(c.seed, ino, raw.Generation()), what: "inode " + utoa(ino), keep: true}
	was := c.quiet
	c.quiet = true
	c.mapInode(in)
	c.quiet = was
	return in, !in.bad
}

// checkResizeInode judges the inode that owns the blocks reserved for descriptors: its double indirect block points to the reserved
// blocks of group 0, each of which points to its copies in the groups with a superblock.
func (c *checker) checkResizeInode() {
	raw := c.readInode(resizeIno)
	if raw == nil || c.inodes[resizeIno].flags&recLive == 0 {
		if c.sb.Compat(ondisk.CompatResizeInode) && raw != nil && c.sb.ReservedGdtBlocks() > 0 {
			c.addIno(ClassResize, resizeIno, "the resize inode is not in use")
		}
		return
	}
	dind := uint64(raw.BlockPtr(13))
	if dind == 0 {
		return
	}
	in := &inode{ino: resizeIno, raw: raw}
	if !c.claim(in, "double indirect block", dind, 1) {
		return
	}
	b := c.block(dind)
	if b == nil {
		return
	}
	for i := range c.geo.bs / 4 {
		p := uint64(le32(b, 4*i))
		if p == 0 {
			continue
		}
		if c.full() || !c.reserved(p, dind) {
			return
		}
		in.count++
		sub := c.block(p)
		if sub == nil {
			return
		}
		for k := range c.geo.bs / 4 {
			if q := uint64(le32(sub, 4*k)); q != 0 {
				if c.full() || !c.reserved(q, p) {
					return
				}
				in.count++
			}
		}
	}
	c.checkIBlocks(in)
}

// reserved says whether blk, which parent points to, is reserved for descriptors.
func (c *checker) reserved(blk, parent uint64) bool {
	if blk < c.geo.blocks && c.rsvGDT.has(blk) {
		return true
	}
	c.addInoBlock(ClassResize, resizeIno, parent, "points to block %d, want one reserved for descriptors", blk)
	return false
}

// jbd2Magic starts each block of the journal that is not data.
const jbd2Magic = 0xC03B3998

// checkJournal judges the journal's inode and superblock.
func (c *checker) checkJournal() {
	if !c.sb.Compat(ondisk.CompatHasJournal) {
		if c.sb.Incompat(ondisk.IncompatRecover) {
			c.addFS(ClassJournal, "superblock: needs_recovery without a journal")
		}
		if ino, dev := c.sb.JournalInum(), c.sb.JournalDev(); ino != 0 || dev != 0 {
			c.addFS(ClassJournal, "superblock: journal inode %d and device 0x%x in a file system without has_journal", ino, dev)
		}
		return
	}
	ino := c.sb.JournalInum()
	if ino == 0 {
		if c.sb.JournalDev() == 0 {
			c.addFS(ClassJournal, "superblock: has_journal with neither an inode nor a device")
		}
		return
	}
	if ino > c.geo.inodes || c.inodes[ino].flags&recLive == 0 {
		c.addIno(ClassJournal, ino, "the journal's inode is not in use")
		return
	}
	raw := c.readInode(ino)
	if raw == nil {
		return
	}
	in, ok := c.quietMap(ino, raw)
	if blocks := raw.Size() / uint64(c.geo.bs); !ok || !raw.IsReg() || blocks < 1024 || in.holes || in.end < blocks {
		c.addIno(ClassJournal, ino, "journal of %d bytes with %d blocks mapped, want a regular file of 1024 blocks or more without holes",
			raw.Size(), in.end)
		return
	}
	blk, _ := in.lookup(0)
	b := c.block(blk)
	if b == nil {
		return
	}
	if m, typ := be32(b, 0), be32(b, 4); m != jbd2Magic || typ != 3 && typ != 4 {
		c.addInoBlock(ClassJournal, ino, blk, "journal superblock magic 0x%08x and type %d, want 0x%08x and 3 or 4", m, typ, uint32(jbd2Magic))
		return
	}
	if bs := be32(b, 12); bs != uint32(c.geo.bs) {
		c.addInoBlock(ClassJournal, ino, blk, "journal block size %d, want %d", bs, c.geo.bs)
	}
	if n := be32(b, 16); uint64(n) > in.end {
		c.addInoBlock(ClassJournal, ino, blk, "journal of %d blocks, want at most %d", n, in.end)
	}
	if start := be32(b, 28); start != 0 && !c.sb.Incompat(ondisk.IncompatRecover) {
		c.addInoBlock(ClassJournal, ino, blk, "journal starts at block %d, want 0: needs_recovery is not set", start)
	}
	if e := be32(b, 32); e != 0 {
		c.addInoBlock(ClassJournal, ino, blk, "journal records error %d", int32(e))
	}
}
