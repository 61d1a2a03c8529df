package check

import (
	"inlinefs/ondisk"
)

// Reserved inode numbers besides ondisk's.
const (
	badBlocksIno = 1
	resizeIno    = 7
)

// flEOFBlocks is the old EXT4_EOFBLOCKS_FL: blocks beyond i_size are meant.
const flEOFBlocks = 0x400000

// inode is one inode under examination.
type inode struct {
	ino   uint32
	raw   ondisk.Inode
	seed  uint32 // checksum seed of its blocks
	what  string // "inode 12"
	keep  bool   // collect runs and meta
	runs  []run
	meta  []uint64 // blocks of the tree itself
	count uint64   // blocks claimed: data and tree
	next  uint64   // logical blocks below are mapped or passed
	end   uint64   // one past the last mapped logical block
	init  uint64   // one past the last mapped logical block that is not uninitialized
	holes bool     // there is a hole before end
	bad   bool     // the map was not followed to its end
}

// run maps n logical blocks from lblk to pblk on.
type run struct {
	lblk, pblk, n uint64
	uninit        bool
}

// tableChunk is how much of an inode table is read at once, in blocks.
const tableChunk = 32

// scanned is how many inodes of group n have to be looked at: the rest of the table was never used.
func (c *checker) scanned(n uint32) uint64 {
	d := c.desc(n)
	if !c.gcsum {
		return c.geo.ipg
	}
	if d.Flags()&ondisk.BGInodeUninit != 0 {
		return 0
	}
	return c.geo.ipg - min(uint64(d.ItableUnused()), c.geo.ipg)
}

// scanInodes looks at every inode in use.
func (c *checker) scanInodes() {
	for n := range c.geo.groups {
		table, todo := c.desc(n).InodeTable(), c.scanned(n)
		per := uint64(tableChunk * c.geo.bs / c.geo.isize)
		for at := uint64(0); at < todo; at += per {
			if c.full() {
				return
			}
			k := min(per, todo-at)
			blk := table + at*uint64(c.geo.isize)/uint64(c.geo.bs)
			b := c.read(blk, int((k*uint64(c.geo.isize)+uint64(c.geo.bs)-1)/uint64(c.geo.bs))*c.geo.bs)
			if b == nil {
				continue
			}
			for i := range k {
				ino := uint32(uint64(n)*c.geo.ipg + at + i + 1)
				raw := b[int(i)*c.geo.isize : (int(i)+1)*c.geo.isize]
				c.scanInode(ino, ondisk.Inode(raw))
				if c.full() {
					return
				}
			}
		}
	}
	if r := c.inodes[ondisk.RootIno]; r.ft != ondisk.FtDir {
		c.addIno(ClassInodeMode, ondisk.RootIno, "the root directory is not a directory")
	}
}

// special says whether no directory has to name ino.
func (c *checker) special(ino uint32) bool {
	s := c.sb
	if ino < s.FirstIno() && ino != ondisk.RootIno || c.fileOf != 0 && ino == c.fileOf {
		return true
	}
	if s.Compat(ondisk.CompatHasJournal) && ino == s.JournalInum() {
		return true
	}
	return s.ROCompat(ondisk.ROCompatQuota) && (ino == le32(s, 0x240) || ino == le32(s, 0x244) || ino == le32(s, 0x26C))
}

// scanInode judges one inode and claims its blocks.
func (c *checker) scanInode(ino uint32, raw ondisk.Inode) {
	r := &c.inodes[ino]
	if c.special(ino) {
		r.flags |= recSpecial
	}
	if c.orphan[ino] {
		r.flags |= recOrphan
	}
	if raw.Links() == 0 && raw.Mode() == 0 && r.flags&recOrphan == 0 {
		return
	}
	if raw.Links() == 0 && r.flags&(recSpecial|recOrphan) == 0 {
		return
	}
	in := &inode{ino: ino, raw: raw, seed: ondisk.InodeSeed(c.seed, ino, raw.Generation()), what: "inode " + utoa(ino), keep: c.keep}
	r.flags |= recLive
	r.links = raw.Links()
	r.ft = ondisk.FtOfMode(raw.Mode())
	if raw.Has(ondisk.FlEAInode) {
		r.flags |= recEA
	}
	c.rep.Inodes++
	if c.csum {
		if err := raw.VerifyChecksum(c.seed, ino); err != nil {
			c.addIno(ClassInodeCsum, ino, "%s", textOf(err))
		}
	}
	switch {
	case ino == resizeIno:
		return // checkResizeInode reads it
	case ino == badBlocksIno:
		c.mapIndirect(in)
		return
	}
	if r.ft == ondisk.FtUnknown {
		c.addIno(ClassInodeMode, ino, "mode 0%o has no file type", raw.Mode())
		return
	}
	c.checkInodeFields(in)
	xattrs := c.checkIbody(in)
	c.checkContent(in, xattrs)
	c.noteXattrBlock(in)
	c.checkIBlocks(in)
	if r.ft == ondisk.FtDir {
		c.noteDir(in)
	}
}

// checkInodeFields judges the fields that need nothing else.
func (c *checker) checkInodeFields(in *inode) {
	raw := in.raw
	if x := raw.ExtraIsize(); x%4 != 0 || x > c.geo.isize-ondisk.GoodOldInode {
		c.addIno(ClassInodeExtra, in.ino, "extra size %d, want a multiple of 4 up to %d", x, c.geo.isize-ondisk.GoodOldInode)
	}
	if raw.Links() > 0 && raw.Dtime() != 0 && !c.orphan[in.ino] && c.inodes[in.ino].flags&recEA == 0 {
		c.addIno(ClassInodeDtime, in.ino, "in use with deletion time %d", raw.Dtime())
	}
	fl := raw.Flags()
	mapped := raw.IsDir() || raw.IsReg() || raw.IsLnk()
	if !mapped && fl&(ondisk.FlExtents|ondisk.FlInlineData|ondisk.FlIndex) != 0 {
		c.addIno(ClassInodeFlags, in.ino, "flags 0x%x on a device node, pipe or socket (mode 0%o)", fl, raw.Mode())
	}
	if fl&ondisk.FlExtents != 0 && !c.sb.Incompat(ondisk.IncompatExtents) {
		c.addIno(ClassInodeFlags, in.ino, "has extents in a file system without the feature")
	}
	if fl&ondisk.FlIndex != 0 && (!raw.IsDir() || !c.sb.Compat(ondisk.CompatDirIndex)) {
		c.addIno(ClassInodeFlags, in.ino, "index flag, want it on directories of a file system with dir_index only")
	}
	if fl&ondisk.FlEAInode != 0 && !c.sb.Incompat(ondisk.IncompatEAInode) {
		c.addIno(ClassInodeFlags, in.ino, "attribute value flag in a file system without ea_inode")
	}
}

// checkContent follows what i_block means for this inode.
func (c *checker) checkContent(in *inode, xattrs []xattrEntry) {
	raw := in.raw
	inline := raw.Has(ondisk.FlInlineData)
	if inline {
		c.rep.InlineInodes++
		c.checkInline(in, xattrs)
		return
	}
	if e := findXattr(xattrs, ondiskXattrSystem, "data"); e != nil {
		c.addIno(ClassInlineStale, in.ino, "system.data of %d bytes without the inline flag", len(e.value))
	}
	switch {
	case raw.IsLnk() && c.fastSymlink(raw):
		c.checkFastSymlink(in)
	case raw.IsDir() || raw.IsReg() || raw.IsLnk():
		if raw.IsDir() {
			in.keep = true
		}
		c.mapInode(in)
		c.checkSize(in)
		if raw.IsLnk() && !in.bad && in.count > 0 {
			c.checkLongSymlink(in)
		}
	}
}

// mapInode follows the extent tree or the block pointers.
func (c *checker) mapInode(in *inode) {
	if in.raw.Has(ondisk.FlExtents) {
		c.mapExtents(in)
	} else {
		c.mapIndirect(in)
	}
}

// fastSymlink says whether the target is in i_block (ext4_inode_is_fast_symlink).
func (c *checker) fastSymlink(raw ondisk.Inode) bool {
	blocks := raw.Sectors(c.sb.ROCompat(ondisk.ROCompatHugeFile), c.geo.bs)
	if raw.FileACL() != 0 {
		blocks -= min(blocks, uint64(c.geo.bs/512))
	}
	return blocks == 0 && raw.Size() < ondisk.BlockArea
}

func (c *checker) checkFastSymlink(in *inode) {
	b, size := in.raw.Block(), in.raw.Size()
	n := uint64(indexZero(b))
	if n != size || size == 0 {
		c.addIno(ClassSymlink, in.ino, "target of %d bytes, want i_size %d", n, size)
	}
	if in.raw.Has(ondisk.FlExtents) {
		c.addIno(ClassInodeFlags, in.ino, "extents flag on a symlink with its target in the inode")
	}
}

func (c *checker) checkLongSymlink(in *inode) {
	blk, ok := in.lookup(0)
	if !ok {
		c.addIno(ClassSymlink, in.ino, "first block is a hole")
		return
	}
	b := c.block(blk)
	if b == nil {
		return
	}
	if n := indexZero(b); uint64(n) != in.raw.Size() {
		c.addInoBlock(ClassSymlink, in.ino, blk, "target of %d bytes, want i_size %d", n, in.raw.Size())
	}
}

// checkIBlocks compares i_blocks with the blocks claimed.
func (c *checker) checkIBlocks(in *inode) {
	if in.bad {
		return
	}
	want := in.count * uint64(c.geo.bs/512)
	if in.raw.FileACL() != 0 {
		want += uint64(c.geo.bs / 512)
	}
	got := in.raw.Sectors(c.sb.ROCompat(ondisk.ROCompatHugeFile), c.geo.bs)
	if got == want {
		return
	}
	class := ClassIBlocks
	if in.raw.Has(ondisk.FlInlineData) {
		class = ClassInlineBlocks
	}
	c.addIno(class, in.ino, "i_blocks %d, want %d sectors", got, want)
}

// checkSize compares i_size with the mapping and with what the format can address.
func (c *checker) checkSize(in *inode) {
	size, bs := in.raw.Size(), uint64(c.geo.bs)
	if limit := c.sizeLimit(in); size > limit {
		c.addIno(ClassISize, in.ino, "i_size %d, want at most %d", size, limit)
		return
	}
	if in.bad {
		return
	}
	blocks := (size + bs - 1) / bs
	switch {
	case in.raw.IsDir():
		if size == 0 || size%bs != 0 || in.end != size/bs {
			c.addIno(ClassISize, in.ino, "i_size %d of a directory, want %d: it has %d blocks of %d bytes", size, in.end*bs, in.end, bs)
		}
		if in.holes {
			c.addIno(ClassDir, in.ino, "directory with a hole")
		}
	case in.raw.IsLnk():
		if size == 0 || size >= bs || in.end != 1 {
			c.addIno(ClassISize, in.ino, "symlink of %d bytes in %d blocks, want one block and less than %d bytes", size, in.end, bs)
		}
	case in.raw.Has(ondisk.FlVerity|flEOFBlocks|ondisk.FlEAInode) || c.orphan[in.ino]:
	case in.init > blocks:
		c.addIno(ClassISize, in.ino, "i_size %d, want more than %d: logical block %d is mapped and initialized", size, (in.init-1)*bs, in.init-1)
	}
}

// sizeLimit is the largest i_size of the inode's kind of map, in bytes.
func (c *checker) sizeLimit(in *inode) uint64 {
	bs := uint64(c.geo.bs)
	limit := uint64(1<<32-1) * bs
	if !in.raw.Has(ondisk.FlExtents) {
		p := bs / 4
		limit = min(limit, (ondisk.NDirect+p+p*p+p*p*p)*bs)
		if !c.sb.ROCompat(ondisk.ROCompatHugeFile) {
			limit = min(limit, (1<<32-1)*512)
		}
	}
	if in.raw.IsDir() && !c.sb.Incompat(ondisk.IncompatLargedir) {
		limit = min(limit, 1<<32-1)
	}
	return limit
}

// claim marks n data blocks at blk as used by the inode; false when they are not its own.
func (c *checker) claim(in *inode, what string, blk, n uint64) bool {
	if blk <= c.geo.first || blk >= c.geo.blocks || n > c.geo.blocks-blk {
		c.addInoBlock(ClassBlockRange, in.ino, blk, "%s of %d blocks is outside blocks %d to %d", what, n, c.geo.first+1, c.geo.blocks-1)
		return false
	}
	in.count += n
	if c.quiet {
		return true
	}
	at, taken := c.used.firstIn(blk, n)
	c.used.setRange(blk, n)
	if !taken {
		return true
	}
	if c.fixed.has(at) {
		c.addInoBlock(ClassBlockShared, in.ino, at, "%s holds metadata of the file system", what)
	} else {
		c.addInoBlock(ClassBlockShared, in.ino, at, "%s belongs to something else as well", what)
	}
	return false
}

// lookup is the physical block of a logical one; in.runs must have been kept.
func (in *inode) lookup(lblk uint64) (uint64, bool) {
	lo, hi := 0, len(in.runs)
	for lo < hi {
		m := int(uint(lo+hi) / 2)
		if r := in.runs[m]; r.lblk+r.n <= lblk {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo == len(in.runs) || in.runs[lo].lblk > lblk {
		return 0, false
	}
	return in.runs[lo].pblk + lblk - in.runs[lo].lblk, true
}
