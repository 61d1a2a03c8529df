package check

import (
	"fmt"

	"inlinefs/ondisk"
)

// note enters a mapped run; the caller has claimed it. Runs come in logical order.
func (in *inode) note(r run) {
	if r.lblk > in.next {
		in.holes = true
	}
	in.next = r.lblk + r.n
	in.end = max(in.end, in.next)
	if !r.uninit {
		in.init = max(in.init, in.next)
	}
	if !in.keep && !in.raw.IsLnk() {
		return
	}
	if k := len(in.runs) - 1; k >= 0 {
		p := &in.runs[k]
		if p.lblk+p.n == r.lblk && p.pblk+p.n == r.pblk && p.uninit == r.uninit {
			p.n += r.n
			return
		}
	}
	in.runs = append(in.runs, r)
}

// overfull says, once, that the inode claims more blocks than there are: it maps the same ones again and again.
func (c *checker) overfull(in *inode) bool {
	if in.count <= c.geo.blocks {
		return false
	}
	if !in.bad {
		in.bad = true
		c.addIno(ClassBlockShared, in.ino, "maps more than the %d blocks of the file system", c.geo.blocks)
	}
	return true
}

// mapExtents follows the extent tree.
func (c *checker) mapExtents(in *inode) {
	root := ondisk.ExtentNode(in.raw.Block())
	if err := root.Check(in.what, -1); err != nil {
		c.addIno(ClassExtent, in.ino, "%s", textOf(err))
		in.bad = true
		return
	}
	c.extentNode(in, in.what, root, 0, 1<<32)
}

// extentNode follows one node, which may cover logical blocks lo to hi-1. The depth falls with each level, so does not exceed 5.
func (c *checker) extentNode(in *inode, where string, n ondisk.ExtentNode, lo, hi uint64) {
	if n.Depth() == 0 {
		c.extentLeaf(in, where, n, lo, hi)
		return
	}
	for i := range n.Entries() {
		if c.full() || c.overfull(in) {
			return
		}
		logical, child := n.Index(i)
		from, to := uint64(logical), hi
		if i+1 < n.Entries() {
			next, _ := n.Index(i + 1)
			to = uint64(next)
		}
		if from < lo || from >= to || to > hi {
			c.addIno(ClassExtent, in.ino, "%s: index entry %d covers blocks %d to %d, want a rising part of %d to %d", where, i, from,
				int64(to)-1, lo, int64(hi)-1)
			in.bad = true
			return
		}
		if !c.claim(in, "extent tree node", child, 1) {
			in.bad = true
			continue
		}
		if in.keep {
			in.meta = append(in.meta, child)
		}
		b := c.block(child)
		if b == nil {
			in.bad = true
			continue
		}
		sub, at := ondisk.ExtentNode(b), fmt.Sprintf("extent block %d", child)
		if err := sub.Check(at, n.Depth()-1); err != nil {
			c.addInoBlock(ClassExtent, in.ino, child, "%s", textOf(err))
			in.bad = true
			continue
		}
		if c.csum {
			if err := sub.VerifyChecksum(at, in.seed); err != nil {
				c.addInoBlock(ClassExtentCsum, in.ino, child, "%s", textOf(err))
			}
		}
		if sub.Depth() == 0 && sub.Entries() == 0 {
			c.addInoBlock(ClassExtent, in.ino, child, "empty extent leaf")
		} else if first := uint64(le32(sub, ondisk.ExtentSize)); first != from {
			c.addInoBlock(ClassExtent, in.ino, child, "starts at logical block %d, want %d as in its parent", first, from)
		}
		c.extentNode(in, at, sub, from, to)
	}
}

func (c *checker) extentLeaf(in *inode, where string, n ondisk.ExtentNode, lo, hi uint64) {
	for i := range n.Entries() {
		if c.full() || c.overfull(in) {
			return
		}
		e := n.Leaf(i)
		l, k := uint64(e.Logical), uint64(e.Len)
		switch {
		case k == 0:
			c.addIno(ClassExtent, in.ino, "%s: extent %d is empty", where, i)
			in.bad = true
			continue
		case l < lo || l+k > hi || l+k > ondisk.MaxLogical:
			c.addIno(ClassExtent, in.ino, "%s: extent %d covers blocks %d to %d, want a part of %d to %d", where, i, l, l+k-1, lo, int64(hi)-1)
			in.bad = true
			continue
		case l < in.next:
			c.addIno(ClassExtent, in.ino, "%s: extent %d starts at block %d, want at least %d: out of order or overlapping", where, i, l, in.next)
			in.bad = true
			continue
		}
		if !c.claim(in, fmt.Sprintf("extent at logical block %d", l), e.Physical, k) && (e.Physical >= c.geo.blocks || k > c.geo.blocks-e.Physical) {
			in.bad = true
			continue
		}
		in.note(run{lblk: l, pblk: e.Physical, n: k, uninit: e.Uninit})
	}
}

// mapIndirect follows direct, indirect, double and triple indirect pointers.
func (c *checker) mapIndirect(in *inode) {
	for i := range ondisk.NDirect {
		c.indirectData(in, uint64(i), uint64(in.raw.BlockPtr(i)))
	}
	per := uint64(c.geo.bs / 4)
	first, span := uint64(ondisk.NDirect), per
	for depth := 1; depth <= 3; depth++ {
		if p := in.raw.BlockPtr(ondisk.NDirect + depth - 1); p != 0 {
			c.indirectNode(in, first, uint64(p), depth)
		}
		first += span
		span *= per
	}
}

func (c *checker) indirectData(in *inode, lblk, pblk uint64) {
	if pblk == 0 {
		return
	}
	if lblk >= ondisk.MaxLogical {
		c.addIno(ClassIndirect, in.ino, "logical block %d, want less than %d", lblk, uint64(ondisk.MaxLogical))
		in.bad = true
		return
	}
	if !c.claim(in, fmt.Sprintf("logical block %d", lblk), pblk, 1) && (pblk >= c.geo.blocks || pblk < c.geo.first) {
		in.bad = true
		return
	}
	in.note(run{lblk: lblk, pblk: pblk, n: 1})
}

// indirectNode follows the pointer block at blk, depth levels above the data, that covers logical blocks from lblk on.
func (c *checker) indirectNode(in *inode, lblk, blk uint64, depth int) {
	if c.full() || c.overfull(in) {
		return
	}
	if !c.claim(in, fmt.Sprintf("indirect block of level %d", depth), blk, 1) {
		in.bad = true
		return
	}
	if in.keep {
		in.meta = append(in.meta, blk)
	}
	b := c.block(blk)
	if b == nil {
		in.bad = true
		return
	}
	step := uint64(1)
	for range depth - 1 {
		step *= uint64(c.geo.bs / 4)
	}
	for i := range c.geo.bs / 4 {
		p := uint64(le32(b, 4*i))
		if p == 0 {
			continue
		}
		if c.full() || c.overfull(in) {
			return
		}
		at := lblk + uint64(i)*step
		if depth == 1 {
			c.indirectData(in, at, p)
		} else {
			c.indirectNode(in, at, p, depth-1)
		}
	}
}
