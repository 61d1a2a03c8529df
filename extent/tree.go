// Package extent maps logical blocks of a file to physical blocks, by extent tree or by the indirect blocks of ext2 and ext3, and
// reads and writes file data through that map. File data goes straight to the device: one request for each contiguous run.
package extent

import (
	"fmt"

	"inlinefs/alloc"
	"inlinefs/buffer"
	"inlinefs/inode"
	"inlinefs/internal/lock"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// level is one node on the way from the root to a leaf.
type level struct {
	node ondisk.ExtentNode
	head *buffer.Head // nil for the root
	idx  int          // the entry that covers the block searched, or the one before it; -1 when all are later
}

// path is the way to a leaf; path[0] is the root. release must be called.
type path struct {
	root [ondisk.BlockArea]byte
	lv   []level
	lv0  [ondisk.ExtentMaxDepth + 1]level
}

func (p *path) release() {
	for i := range p.lv {
		if p.lv[i].head != nil {
			p.lv[i].head.Release()
		}
	}
	p.lv = nil
}

func (p *path) leaf() *level { return &p.lv[len(p.lv)-1] }

// find walks to the leaf for logical block lblk. The caller holds DataSem.
func (p *path) find(i *inode.Inode, lblk uint32) error {
	p.release()
	lock.Reading(&i.Mu)
	lock.Touching(&i.Mu, lock.RawMap)
	i.Mu.Lock()
	copy(p.root[:], i.Raw.Block())
	i.Mu.Unlock()
	p.lv = append(p.lv0[:0], level{node: p.root[:]})
	if err := p.lv[0].node.Check(i.Name(), -1); err != nil {
		p.lv = nil
		return i.FS.Corrupted(i.Ino, 0, "ext4_find_extent", err)
	}
	for d := p.lv[0].node.Depth(); ; d-- {
		l := p.leaf()
		l.idx = search(l.node, lblk)
		if d == 0 {
			return nil
		}
		_, child := l.node.Index(max(l.idx, 0))
		if l.node.Entries() == 0 {
			p.release()
			return i.FS.Corrupted(i.Ino, 0, "ext4_find_extent", ondisk.Corrupt(i.Name(), "extent index without entries"))
		}
		l.idx = max(l.idx, 0)
		h, err := readNode(i, child, d-1)
		if err != nil {
			p.release()
			return err
		}
		p.lv = append(p.lv, level{node: h.Data(), head: h})
	}
}

// search finds the last entry whose first logical block is at most lblk, -1 for none.
func search(n ondisk.ExtentNode, lblk uint32) int {
	lo, hi := 0, n.Entries()
	for lo < hi {
		m := (lo + hi) / 2
		if n.Leaf(m).Logical <= lblk { // leaf and index entries both begin with the logical block
			lo = m + 1
		} else {
			hi = m
		}
	}
	return lo - 1
}

// readNode reads an extent block and verifies it once (ext4_ext_check).
func readNode(i *inode.Inode, blk uint64, depth int) (*buffer.Head, error) {
	f := i.FS
	if !f.ValidBlocks(blk, 1) {
		return nil, f.Corrupted(i.Ino, blk, "ext4_find_extent", ondisk.Corrupt(i.Name(), "extent block %d is not a data block", blk))
	}
	h, err := f.Bufs.Read(blk)
	if err != nil {
		return nil, f.Corrupted(i.Ino, blk, "ext4_find_extent", err)
	}
	n := ondisk.ExtentNode(h.Data())
	where := fmt.Sprintf("%s, extent block %d", i.Name(), blk)
	err = n.Check(where, depth)
	if err == nil && !h.Verified() {
		if err = checkNode(i, where, n); err == nil {
			h.SetVerified()
		}
	}
	if err != nil {
		h.Release()
		return nil, f.Corrupted(i.Ino, blk, "ext4_ext_check", err)
	}
	return h, nil
}

func checkNode(i *inode.Inode, where string, n ondisk.ExtentNode) error {
	if i.FS.Csum {
		if err := n.VerifyChecksum(where, i.Seed()); err != nil {
			return err
		}
	}
	return checkEntries(i, where, n)
}

// checkEntries wants entries in order, without overlap, on data blocks.
func checkEntries(i *inode.Inode, where string, n ondisk.ExtentNode) error {
	var next uint64
	for k := 0; k < n.Entries(); k++ {
		if n.Depth() > 0 {
			l, c := n.Index(k)
			if k > 0 && uint64(l) < next || !i.FS.ValidBlocks(c, 1) {
				return ondisk.Corrupt(where, "index entry %d: logical %d, block %d", k, l, c)
			}
			next = uint64(l) + 1
			continue
		}
		e := n.Leaf(k)
		if e.Len == 0 || uint64(e.Logical) < next || e.End() > ondisk.MaxLogical+1 || !i.FS.ValidBlocks(e.Physical, uint64(e.Len)) {
			return ondisk.Corrupt(where, "extent %d: logical %d, length %d, physical %d", k, e.Logical, e.Len, e.Physical)
		}
		next = e.End()
	}
	return nil
}

// change runs fn on a node of the path with access taken, and stores the node. The caller holds DataSem exclusively.
func (p *path) change(h *journal.Handle, i *inode.Inode, at int, fn func(ondisk.ExtentNode)) error {
	l := &p.lv[at]
	if l.head == nil {
		fn(l.node)
		lock.Touching(&i.Mu, lock.RawMap)
		i.Mu.Lock()
		copy(i.Raw.Block(), l.node)
		i.Mu.Unlock()
		return nil
	}
	if err := h.GetWriteAccess(l.head); err != nil {
		return err
	}
	l.head.Lock()
	fn(l.node)
	if i.FS.Csum {
		l.node.UpdateChecksum(i.Seed())
	}
	l.head.Unlock()
	return h.DirtyMetadata(l.head)
}

// fixKeys makes the index entries above level at name the first block of their subtrees (ext4_ext_correct_indexes).
func (p *path) fixKeys(h *journal.Handle, i *inode.Inode, at int) error {
	for ; at > 0; at-- {
		n := p.lv[at].node
		if n.Entries() == 0 {
			return nil
		}
		key, up := n.Leaf(0).Logical, p.lv[at-1]
		if have, _ := up.node.Index(up.idx); have == key {
			return nil
		}
		err := p.change(h, i, at-1, func(n ondisk.ExtentNode) {
			_, child := n.Index(up.idx)
			n.SetIndex(up.idx, key, child)
		})
		if err != nil {
			return err
		}
		if up.idx != 0 {
			return nil
		}
	}
	return nil
}

// makeRoom splits nodes until the leaf for lblk has room for n more entries. Every step leaves a valid tree, so that running out of
// space is harmless. The path is found anew.
func (p *path) makeRoom(h *journal.Handle, i *inode.Inode, lblk uint32, n int) error {
	for {
		if l := p.leaf().node; l.Entries()+n <= l.Max() {
			return nil
		}
		at := len(p.lv) - 1
		for at > 0 && p.lv[at-1].node.Entries() >= p.lv[at-1].node.Max() {
			at--
		}
		var err error
		if at == 0 {
			err = p.growRoot(h, i)
		} else {
			err = p.split(h, i, at, lblk)
		}
		if err != nil {
			return err
		}
		if err := p.find(i, lblk); err != nil {
			return err
		}
	}
}

// newNode allocates and initialises an extent block; fill writes its entries.
func (p *path) newNode(h *journal.Handle, i *inode.Inode, depth int, fill func(ondisk.ExtentNode)) (uint64, error) {
	goal := i.Goal
	if l := p.leaf(); l.head != nil {
		goal = l.head.Block() + 1
	}
	if err := h.EnsureCredits(alloc.Credits + 6); err != nil {
		return 0, err
	}
	blk, err := alloc.NewBlock(h, i, goal)
	if err != nil {
		return 0, err
	}
	if err := i.AddSectors(int64(i.FS.BlockSize / 512)); err != nil {
		return 0, err
	}
	b := i.FS.Bufs.Get(blk)
	defer b.Release()
	b.Lock()
	if err := h.GetCreateAccess(b); err != nil {
		b.Unlock()
		return 0, err
	}
	clear(b.Data())
	// The checksum tail takes 4 bytes; the kernel's capacity leaves them over by rounding.
	n := ondisk.ExtentNode(b.Data())
	n.Init(depth)
	fill(n)
	if i.FS.Csum {
		n.UpdateChecksum(i.Seed())
	}
	b.SetUptodate()
	b.SetVerified()
	b.Unlock()
	return blk, h.DirtyMetadata(b)
}

// growRoot moves the root's entries to a new block (ext4_ext_grow_indepth).
func (p *path) growRoot(h *journal.Handle, i *inode.Inode) error {
	root := p.lv[0].node
	d := root.Depth()
	if d >= ondisk.ExtentMaxDepth {
		return ondisk.Corrupt(i.Name(), "extent tree would be deeper than %d", ondisk.ExtentMaxDepth)
	}
	c := root.Entries()
	blk, err := p.newNode(h, i, d, func(n ondisk.ExtentNode) {
		copy(n[ondisk.ExtentSize:], root[ondisk.ExtentSize:ondisk.ExtentSize*(c+1)])
		n.SetEntries(c)
	})
	if err != nil {
		return err
	}
	return p.change(h, i, 0, func(n ondisk.ExtentNode) {
		key := n.Leaf(0).Logical
		if c == 0 {
			key = 0
		}
		n.Init(d + 1)
		n.SetEntries(1)
		n.SetIndex(0, key, blk)
	})
}

// split moves the upper entries of the full node at level at to a new block; its parent has room.
func (p *path) split(h *journal.Handle, i *inode.Inode, at int, lblk uint32) error {
	old := p.lv[at].node
	c := old.Entries()
	cut := c / 2
	if lblk > old.Leaf(c-1).Logical {
		cut = c - 1 // appending: keep the old node full
	}
	key := old.Leaf(cut).Logical
	blk, err := p.newNode(h, i, old.Depth(), func(n ondisk.ExtentNode) {
		copy(n[ondisk.ExtentSize:], old[ondisk.ExtentSize*(cut+1):ondisk.ExtentSize*(c+1)])
		n.SetEntries(c - cut)
	})
	if err != nil {
		return err
	}
	err = p.change(h, i, at-1, func(n ondisk.ExtentNode) {
		k := p.lv[at-1].idx + 1
		n.InsertAt(k)
		n.SetIndex(k, key, blk)
	})
	if err != nil {
		return err
	}
	return p.change(h, i, at, func(n ondisk.ExtentNode) {
		clear(n[ondisk.ExtentSize*(cut+1) : ondisk.ExtentSize*(c+1)])
		n.SetEntries(cut)
	})
}

// insert adds e where nothing is mapped, merging it with its neighbours in the leaf.
func insert(h *journal.Handle, i *inode.Inode, e ondisk.Extent) error {
	var p path
	defer p.release()
	if err := p.find(i, e.Logical); err != nil {
		return err
	}
	l := p.leaf()
	if l.idx >= 0 {
		if left := l.node.Leaf(l.idx); joins(left, e) {
			left.Len += e.Len
			if l.idx+1 < l.node.Entries() {
				if right := l.node.Leaf(l.idx + 1); joins(left, right) {
					left.Len += right.Len
					return p.change(h, i, len(p.lv)-1, func(n ondisk.ExtentNode) {
						n.SetLeaf(l.idx, left)
						n.RemoveAt(l.idx + 1)
					})
				}
			}
			return p.change(h, i, len(p.lv)-1, func(n ondisk.ExtentNode) { n.SetLeaf(l.idx, left) })
		}
	}
	if l.idx+1 < l.node.Entries() {
		if right := l.node.Leaf(l.idx + 1); joins(e, right) {
			e.Len += right.Len
			if err := p.change(h, i, len(p.lv)-1, func(n ondisk.ExtentNode) { n.SetLeaf(l.idx+1, e) }); err != nil {
				return err
			}
			if l.idx+1 == 0 {
				return p.fixKeys(h, i, len(p.lv)-1)
			}
			return nil
		}
	}
	if err := p.makeRoom(h, i, e.Logical, 1); err != nil {
		return err
	}
	l = p.leaf()
	k := l.idx + 1
	err := p.change(h, i, len(p.lv)-1, func(n ondisk.ExtentNode) {
		n.InsertAt(k)
		n.SetLeaf(k, e)
	})
	if err != nil || k > 0 {
		return err
	}
	return p.fixKeys(h, i, len(p.lv)-1)
}

// joins says whether b continues a.
func joins(a, b ondisk.Extent) bool {
	limit := uint32(ondisk.ExtentInitMax)
	if a.Uninit {
		limit--
	}
	return a.Uninit == b.Uninit && a.End() == uint64(b.Logical) && a.Physical+uint64(a.Len) == b.Physical && a.Len+b.Len <= limit
}

// replace puts new entries (at most 3, covering the same blocks as entry idx of the leaf or fewer) in the place of the extent that
// holds lblk. Room is made first, so that failing leaves the map as it was.
func replace(h *journal.Handle, i *inode.Inode, p *path, lblk uint32, with []ondisk.Extent) error {
	if err := p.makeRoom(h, i, lblk, len(with)-1); err != nil {
		return err
	}
	l := p.leaf()
	err := p.change(h, i, len(p.lv)-1, func(n ondisk.ExtentNode) {
		n.SetLeaf(l.idx, with[0])
		for k, e := range with[1:] {
			n.InsertAt(l.idx + 1 + k)
			n.SetLeaf(l.idx+1+k, e)
		}
	})
	if err != nil || l.idx > 0 {
		return err
	}
	return p.fixKeys(h, i, len(p.lv)-1)
}

// dropEntry removes the leaf entry at the end of p, and nodes that become empty with it.
func dropEntry(h *journal.Handle, i *inode.Inode, p *path) error {
	at := len(p.lv) - 1
	if err := p.change(h, i, at, func(n ondisk.ExtentNode) { n.RemoveAt(p.lv[at].idx) }); err != nil {
		return err
	}
	for ; at > 0 && p.lv[at].node.Entries() == 0; at-- {
		blk := p.lv[at].head.Block()
		if err := alloc.FreeBlocks(h, i, blk, 1, true); err != nil {
			return err
		}
		if err := i.AddSectors(-int64(i.FS.BlockSize / 512)); err != nil {
			return err
		}
		if err := p.change(h, i, at-1, func(n ondisk.ExtentNode) { n.RemoveAt(p.lv[at-1].idx) }); err != nil {
			return err
		}
	}
	if at == 0 && p.lv[0].node.Entries() == 0 && p.lv[0].node.Depth() > 0 {
		return p.change(h, i, 0, func(n ondisk.ExtentNode) { n.Init(0) })
	}
	if p.lv[at].idx == 0 {
		return p.fixKeys(h, i, at)
	}
	return nil
}
