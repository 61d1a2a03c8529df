package check

import (
	"inlinefs/ondisk"
)

// Layout of index blocks.
const (
	dxInfo      = 24 // of the root: after "." and ".."
	dxRootCount = 32 // where the root's count and limit, and then its entries, are
	dxNodeCount = 8  // the same of other nodes
	dxEntry     = 8
)

// hashRange is what a part of the index may hold: hashes from lo on and below hi, and equal to it when bit 0 of hi says that hashes
// collide across the border.
type hashRange struct {
	lo, hi uint32
	open   bool // there is no hi
}

func (r hashRange) has(h uint32) bool {
	if h < r.lo&^1 {
		return false
	}
	return r.open || h < r.hi&^1 || h == r.hi&^1 && r.hi&1 != 0
}

// htree is the walk through one index.
type htree struct {
	c       *checker
	d       *dirRec
	version uint8
	hashed  bool // version is known: hashes can be judged
	seen    map[uint64]bool
}

// checkIndexedDir reads a directory through its index, and then what the index does not name.
func (c *checker) checkIndexedDir(d *dirRec) {
	t := &htree{c: c, d: d, seen: map[uint64]bool{0: true}}
	blk, b := c.blockOf(d, 0)
	if b == nil {
		c.addIno(ClassDirDots, d.ino, "directory without a first block")
		return
	}
	c.dots(d, blk, b)
	if levels, ok := t.root(blk, b); ok {
		t.node(blk, b, dxRootCount, levels, hashRange{open: true})
	}
	t.rest()
}

func (t *htree) bad(blk uint64, format string, a ...any) {
	t.c.addInoBlock(ClassHtree, t.d.ino, blk, format, a...)
}

// root judges the head of the index and returns how many levels of index blocks are below it.
func (t *htree) root(blk uint64, b []byte) (int, bool) {
	if l := ondisk.Dirent(b[12:]).RecLen(); l != len(b)-12 {
		t.bad(blk, "\"..\" of an index root is %d bytes long, want %d", l, len(b)-12)
		return 0, false
	}
	if le32(b, dxInfo) != 0 || b[dxInfo+5] != 8 {
		t.bad(blk, "index head of %d bytes with reserved field 0x%x, want 8 bytes and 0", b[dxInfo+5], le32(b, dxInfo))
		return 0, false
	}
	t.version = b[dxInfo+4]
	t.hashed = t.version <= 2
	if !t.hashed {
		t.bad(blk, "hash version %d, want 0 to 2", t.version)
	}
	t.version = t.c.sb.HashVersion(t.version)
	levels, most := int(b[dxInfo+6]), 1
	if t.c.sb.Incompat(ondisk.IncompatLargedir) {
		most = 2
	}
	if levels > most {
		t.bad(blk, "%d levels of index blocks, want at most %d", levels, most)
		return 0, false
	}
	return levels, true
}

// node follows the index block b, whose count is at byte at, with levels more index blocks between it and the leaves.
func (t *htree) node(blk uint64, b []byte, at, levels int, r hashRange) {
	room := len(b) - at
	if t.c.csum {
		room -= 8
	}
	limit, count := int(le16(b, at)), int(le16(b, at+2))
	if limit != room/dxEntry {
		t.bad(blk, "index limit %d, want %d", limit, room/dxEntry)
		return
	}
	if count == 0 || count > limit {
		t.bad(blk, "index count %d, want 1 to %d", count, limit)
		return
	}
	if t.c.csum {
		t.checksum(blk, b, at, limit, count)
	}
	lo := r.lo
	for i := range count {
		if t.c.full() {
			return
		}
		e := b[at+i*dxEntry:]
		if i > 0 {
			if h := le32(e, 0); h < lo || !r.open && h > r.hi {
				t.bad(blk, "index entry %d has hash 0x%08x, want it from 0x%08x to 0x%08x: out of order", i, h, lo, r.hi)
				return
			}
			lo = le32(e, 0)
		}
		sub := hashRange{lo: lo, hi: r.hi, open: r.open}
		if i+1 < count {
			sub.hi, sub.open = le32(e, dxEntry), false
		}
		t.child(blk, i, uint64(le32(e, 4)&0x0fffffff), levels, sub)
	}
}

// child follows entry i of the index block at parent to logical block lblk.
func (t *htree) child(parent uint64, i int, lblk uint64, levels int, r hashRange) {
	if t.seen[lblk] {
		t.bad(parent, "index entry %d names logical block %d, which the index names already", i, lblk)
		return
	}
	blk, b := t.c.blockOf(t.d, lblk)
	if b == nil {
		t.bad(parent, "index entry %d names logical block %d, which is not mapped", i, lblk)
		return
	}
	t.seen[lblk] = true
	if levels > 0 {
		if le32(b, 0) != 0 || ondisk.Dirent(b).RecLen() != len(b) {
			t.bad(blk, "index block does not start with one empty entry of %d bytes", len(b))
			return
		}
		t.node(blk, b, dxNodeCount, levels-1, r)
		return
	}
	t.leaf(blk, b, r)
}

// leaf reads a block of entries, all of whose hashes must be in r.
func (t *htree) leaf(blk uint64, b []byte, r hashRange) {
	told := false
	t.c.leaf(t.d, blk, t.c.dirArea(t.d, blk, b), func(e ondisk.Dirent) {
		if !t.hashed || told {
			return
		}
		h := t.hash(e.Name())
		if !r.has(h) {
			told = true
			t.bad(blk, "entry %q has hash 0x%08x, want it from 0x%08x to 0x%08x (end of the index: %v)", e.Name(), h, r.lo, r.hi, r.open)
		}
	})
}

// checksum judges an index block's checksum (ext4_dx_csum_verify).
func (t *htree) checksum(blk uint64, b []byte, at, limit, count int) {
	tail := at + limit*dxEntry
	s := ondisk.CRC32C(t.d.in.seed, b[:at+count*dxEntry])
	s = ondisk.CRC32C(s, b[tail:tail+4])
	s = ondisk.CRC32C(s, make([]byte, 4))
	if want := le32(b, tail+4); s != want {
		t.c.addInoBlock(ClassHtreeCsum, t.d.ino, blk, "index block checksum 0x%08x, want 0x%08x", want, s)
	}
}

// rest reads the blocks that the index does not name, so that their entries count as links all the same.
func (t *htree) rest() {
	told := false
	for _, r := range t.d.in.runs {
		for i := range r.n {
			if t.c.full() {
				return
			}
			if t.seen[r.lblk+i] {
				continue
			}
			if !told {
				told = true
				t.bad(r.pblk+i, "logical block %d is not named by the index", r.lblk+i)
			}
			b := t.c.block(r.pblk + i)
			if b == nil || le32(b, 0) == 0 && ondisk.Dirent(b).RecLen() == len(b) {
				continue
			}
			t.leaf(r.pblk+i, b, hashRange{open: true})
		}
	}
}

// hash is the major hash of a name.
func (t *htree) hash(name []byte) uint32 {
	seed := t.c.sb.HashSeed()
	h, _, _ := ondisk.DirHash(t.version, &seed, name)
	return h
}
