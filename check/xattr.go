package check

import (
	"bytes"
	"fmt"
	"slices"

	"inlinefs/ondisk"
)

// Attribute layout. The numbers are repeated here: this is the second opinion.
const (
	xattrMagic        = 0xEA020000
	xattrHead         = 32 // bytes before the entries of an attribute block
	xattrEntrySize    = 16
	ondiskXattrSystem = 7
	xattrMaxRefs      = 1024
)

// xattrEntry is one attribute; value is nil when it is kept in inode inum.
type xattrEntry struct {
	index uint8
	name  []byte
	value []byte
	inum  uint32
	size  uint32
	hash  uint32
	off   int // of the value in the area
}

// xattrBlock is an attribute block and how many inodes use it.
type xattrBlock struct {
	refs uint32
	ino  uint32 // the first of them
}

func findXattr(all []xattrEntry, index uint8, name string) *xattrEntry {
	for i := range all {
		if all[i].index == index && string(all[i].name) == name {
			return &all[i]
		}
	}
	return nil
}

// parseXattrs reads the entries of area from start on; value offsets count from base. What it could read comes back with the error.
func parseXattrs(area []byte, start, base int) ([]xattrEntry, error) {
	var all []xattrEntry
	at := start
	for {
		if at+4 > len(area) {
			return all, fmt.Errorf("entries run to byte %d, want an end before %d", at, len(area))
		}
		if le32(area, at) == 0 {
			at += 4
			break
		}
		if at+xattrEntrySize > len(area) {
			return all, fmt.Errorf("entry at byte %d is cut off", at)
		}
		n := int(area[at])
		if at+xattrEntrySize+n > len(area) {
			return all, fmt.Errorf("entry at byte %d: name of %d bytes is cut off", at, n)
		}
		e := xattrEntry{index: area[at+1], name: area[at+xattrEntrySize : at+xattrEntrySize+n], inum: le32(area, at+4), size: le32(area, at+8),
			hash: le32(area, at+12), off: base + int(le16(area, at+2))}
		all = append(all, e)
		at = (at + xattrEntrySize + n + 3) &^ 3
	}
	for i := range all {
		e := &all[i]
		if e.inum != 0 {
			continue
		}
		if e.size == 0 {
			e.value = []byte{}
			continue
		}
		if e.off < at || e.size > uint32(len(area)) || e.off+int(e.size) > len(area) {
			return all, fmt.Errorf("attribute %s: %d bytes at %d, want them between %d and %d", e, e.size, e.off, at, len(area))
		}
		e.value = area[e.off : e.off+int(e.size)]
	}
	return all, nil
}

// String is the attribute's full name, quoted.
func (e xattrEntry) String() string { return fmt.Sprintf("%q", e.fullName()) }

var xattrPrefix = map[uint8]string{1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security.",
	ondiskXattrSystem: "system.", 8: "system.richacl"}

func (e xattrEntry) fullName() string {
	p, ok := xattrPrefix[e.index]
	if !ok {
		p = fmt.Sprintf("index%d.", e.index)
	}
	return p + string(e.name)
}

// checkXattrList judges what attributes in the inode and in a block have in common.
func (c *checker) checkXattrList(all []xattrEntry, bad func(format string, a ...any)) {
	seen := map[string]bool{}
	byOff := make([]xattrEntry, 0, len(all))
	for _, e := range all {
		if seen[e.fullName()] {
			bad("attribute %s is there twice", e)
		}
		seen[e.fullName()] = true
		if _, known := xattrPrefix[e.index]; !known {
			bad("attribute %s: unknown name index %d", e, e.index)
		}
		if len(e.name) == 0 && e.index != 2 && e.index != 3 && e.index != 8 {
			bad("attribute %s: empty name", e)
		}
		if bytes.IndexByte(e.name, 0) >= 0 {
			bad("attribute %s: zero byte in the name", e)
		}
		switch {
		case e.inum != 0 && (!c.sb.Incompat(ondisk.IncompatEAInode) || e.inum > c.geo.inodes):
			bad("attribute %s: value in inode %d", e, e.inum)
		case e.inum != 0:
			c.eaRefs[e.inum] = true
		case e.size > 0:
			byOff = append(byOff, e)
		}
	}
	slices.SortFunc(byOff, func(a, b xattrEntry) int { return a.off - b.off })
	for i := 1; i < len(byOff); i++ {
		if p := byOff[i-1]; p.off+len(p.value) > byOff[i].off {
			bad("the values of %s and %s overlap", p, byOff[i])
		}
	}
}

// ibodyArea is the attribute area of an inode, nil when there is none; ok is false when i_extra_isize is impossible.
func ibodyArea(raw ondisk.Inode) (area []byte, ok bool) {
	x := raw.ExtraIsize()
	if x == 0 {
		return nil, true
	}
	if x%4 != 0 || ondisk.GoodOldInode+x > len(raw) {
		return nil, false
	}
	if ondisk.GoodOldInode+x+8 > len(raw) {
		return nil, true
	}
	return raw[ondisk.GoodOldInode+x:], true
}

// checkIbody judges the attributes in the inode and returns those that could be read.
func (c *checker) checkIbody(in *inode) []xattrEntry {
	area, _ := ibodyArea(in.raw)
	if area == nil {
		return nil
	}
	bad := func(format string, a ...any) { c.addIno(ClassXattrIbody, in.ino, format, a...) }
	switch m := le32(area, 0); m {
	case 0:
		return nil
	case xattrMagic:
	default:
		bad("attribute magic 0x%08x in the inode, want 0x%08x or 0", m, uint32(xattrMagic))
		return nil
	}
	all, err := parseXattrs(area, 4, 4)
	if err != nil {
		bad("%v", err)
		return nil
	}
	c.checkXattrList(all, bad)
	for _, e := range all {
		if e.inum == 0 && e.hash != 0 && !hashMatches(e) {
			bad("attribute %s: hash 0x%08x, want 0 or 0x%08x", e, e.hash, entryHash(e, false))
		}
	}
	return all
}

// noteXattrBlock claims the inode's attribute block, or counts one more user of it.
func (c *checker) noteXattrBlock(in *inode) {
	blk := in.raw.FileACL()
	if blk == 0 {
		return
	}
	if x := c.xblk[blk]; x != nil {
		x.refs++
		return
	}
	if blk <= c.geo.first || blk >= c.geo.blocks {
		c.addInoBlock(ClassBlockRange, in.ino, blk, "attribute block is outside blocks %d to %d", c.geo.first+1, c.geo.blocks-1)
		return
	}
	if c.used.has(blk) {
		c.addInoBlock(ClassBlockShared, in.ino, blk, "attribute block belongs to something else as well")
	}
	c.used.set(blk)
	c.xblk[blk] = &xattrBlock{refs: 1, ino: in.ino}
}

// checkXattrBlocks judges each attribute block.
func (c *checker) checkXattrBlocks() {
	blocks := make([]uint64, 0, len(c.xblk))
	for b := range c.xblk {
		blocks = append(blocks, b)
	}
	slices.Sort(blocks)
	for _, b := range blocks {
		if c.full() {
			return
		}
		c.checkXattrBlock(b, c.xblk[b])
	}
}

func (c *checker) checkXattrBlock(blk uint64, x *xattrBlock) {
	b := c.block(blk)
	if b == nil {
		return
	}
	bad := func(format string, a ...any) { c.addInoBlock(ClassXattr, x.ino, blk, format, a...) }
	if m := le32(b, 0); m != xattrMagic {
		bad("attribute block magic 0x%08x, want 0x%08x", m, uint32(xattrMagic))
		return
	}
	if c.csum {
		if got, want := c.xattrBlockSum(blk, b), le32(b, 16); got != want {
			c.addInoBlock(ClassXattrCsum, x.ino, blk, "attribute block checksum 0x%08x, want 0x%08x", want, got)
		}
	}
	if n := le32(b, 8); n != 1 {
		bad("attribute set of %d blocks, want 1", n)
	}
	if n := le32(b, 4); n != x.refs {
		c.addInoBlock(ClassXattrRefcount, x.ino, blk, "reference count %d, want %d (at most %d)", n, x.refs, xattrMaxRefs)
	}
	all, err := parseXattrs(b, xattrHead, 0)
	if err != nil {
		bad("%v", err)
		return
	}
	if len(all) == 0 {
		bad("attribute block without attributes")
		return
	}
	c.checkXattrList(all, bad)
	c.checkXattrOrder(blk, x, b, all)
}

// checkXattrOrder judges what only an attribute block has: order and hashes.
func (c *checker) checkXattrOrder(blk uint64, x *xattrBlock, b []byte, all []xattrEntry) {
	whole, usable := uint32(0), true
	for i, e := range all {
		if i > 0 && xattrLess(e, all[i-1]) {
			c.addInoBlock(ClassXattr, x.ino, blk, "attribute %s comes after %s: out of order", e, all[i-1])
		}
		if e.index == ondiskXattrSystem && string(e.name) == "data" {
			c.addInoBlock(ClassXattr, x.ino, blk, "system.data outside the inode")
		}
		if e.inum == 0 && !hashMatches(e) {
			c.addInoBlock(ClassXattrHash, x.ino, blk, "attribute %s: hash 0x%08x, want 0x%08x", e, e.hash, entryHash(e, false))
		}
		usable = usable && e.hash != 0
		whole = whole<<16 ^ whole>>16 ^ e.hash
	}
	if !usable {
		whole = 0
	}
	// 0 stands for a block that is not to be shared; e2fsprogs never computes it.
	if h := le32(b, 12); h != whole && h != 0 {
		c.addInoBlock(ClassXattrHash, x.ino, blk, "hash of the block 0x%08x, want 0x%08x", h, whole)
	}
}

// xattrBlockSum is the checksum of an attribute block (ext4_xattr_block_csum).
func (c *checker) xattrBlockSum(blk uint64, b []byte) uint32 {
	s := ondisk.CRC32C32(ondisk.CRC32C32(c.seed, uint32(blk)), uint32(blk>>32))
	s = ondisk.CRC32C(s, b[:16])
	s = ondisk.CRC32C(s, make([]byte, 4))
	return ondisk.CRC32C(s, b[20:])
}

func xattrLess(a, b xattrEntry) bool {
	if a.index != b.index {
		return a.index < b.index
	}
	if len(a.name) != len(b.name) {
		return len(a.name) < len(b.name)
	}
	return bytes.Compare(a.name, b.name) < 0
}

// entryHash is the hash of an attribute's name and value; machines disagreed over the sign of the name's bytes, both are valid.
func entryHash(e xattrEntry, signed bool) uint32 {
	h := uint32(0)
	for _, ch := range e.name {
		v := uint32(ch)
		if signed {
			v = uint32(int32(int8(ch)))
		}
		h = h<<5 ^ h>>27 ^ v
	}
	for i := 0; i < len(e.value); i += 4 {
		var w [4]byte
		copy(w[:], e.value[i:])
		h = h<<16 ^ h>>16 ^ le32(w[:], 0)
	}
	return h
}

func hashMatches(e xattrEntry) bool {
	return e.hash == entryHash(e, false) || e.hash == entryHash(e, true)
}
