package dir

import (
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// makeIndex turns a directory of one full block into an index root and a leaf, and makes the entry in the latter (make_indexed_dir).
func makeIndex(h *journal.Handle, d *inode.Inode, name []byte, ino uint32, ft uint8) error {
	l, err := readAny(d, 0)
	if err != nil {
		return err
	}
	defer l.b.Release()
	if _, err := checkDots(d, l.b); err != nil {
		return err
	}
	// The area of a scanned block is sound; its first two entries are the dots.
	list := live(l.area, nil)[2:]
	leaf, err := appendBlock(h, d, 1, 0, func(_, area []byte) { pack(area, l.area, list) })
	if err != nil {
		return err
	}
	leaf.Release()
	err = update(h, d, l.b, ondisk.DxRootOff, func(data []byte) error {
		ondisk.InitDxRoot(data, d.FS.SB.DefHashVersion(), 1, d.FS.Csum)
		return nil
	})
	if err != nil {
		return err
	}
	d.ChangeFlags(ondisk.FlIndex, 0)
	if err := d.MarkDirty(h); err != nil {
		return err
	}
	return dxAdd(h, d, name, ino, ft)
}

// dxAdd makes an entry in the leaf of its hash, splitting that and the index above it as needed (ext4_dx_add_entry). Errors:
// fserr.Exist, fserr.NoSpace (no block, or the index is full), badIndexError (nothing has changed then).
func dxAdd(h *journal.Handle, d *inode.Inode, name []byte, ino uint32, ft uint8) error {
	// Every round but the last gives one level of the index room.
	for range maxFrames + 1 {
		done, err := dxAddOnce(h, d, name, ino, ft)
		if done || err != nil {
			return err
		}
	}
	return errFull(d, maxFrames)
}

// dxAddOnce adds, or makes room in the index and wants to be called again.
func dxAddOnce(h *journal.Handle, d *inode.Inode, name []byte, ino uint32, ft uint8) (bool, error) {
	var p dxPath
	defer p.release()
	if err := p.open(d); err != nil {
		return false, err
	}
	hash := p.hash(name)
	if err := p.descend(d, hash); err != nil {
		return false, err
	}
	if p.continues(hash) {
		at, err := dxFind(d, name)
		if err == nil {
			at.b.Release()
			return false, fserr.Exist
		}
		if err != fserr.NotExist {
			return false, err
		}
	}
	l, err := p.leaf(d)
	if err != nil {
		return false, err
	}
	defer l.b.Release()
	need := ondisk.DirentLen(len(name))
	s, err := l.scan(d, name, need)
	switch {
	case err != nil:
		return false, err
	case s.off >= 0:
		return false, fserr.Exist
	case s.slot >= 0:
		return true, update(h, d, l.b, 0, func([]byte) error {
			insert(l.area, s.slot, name, ino, ft)
			return nil
		})
	case s.live+need <= len(l.area):
		return true, update(h, d, l.b, 0, func([]byte) error {
			compact(l.area, name, ino, ft)
			return nil
		})
	}
	if last := &p.f[p.n-1]; last.e.Count() == last.e.Limit() {
		return false, p.splitIndex(h, d)
	}
	return true, p.splitLeaf(h, d, l, hash, name, ino, ft)
}

// compact closes the gaps of an area and appends an entry, for which there must be room then. Cookies of indexed directories are hashes,
// so that entries may move.
func compact(area []byte, name []byte, ino uint32, ft uint8) {
	old := append([]byte(nil), area...)
	list := live(old, nil)
	pack(area, old, list)
	slot := 0
	for _, e := range list {
		slot += e.size
	}
	if n := len(list); n > 0 {
		slot -= list[n-1].size
	}
	insert(area, slot, name, ino, ft)
}

// splitLeaf moves the upper half of the hashes in a leaf to a new one and makes the entry in the half where it belongs (do_split). The
// index block above must have room.
func (p *dxPath) splitLeaf(h *journal.Handle, d *inode.Inode, l block, hash uint32, name []byte, ino uint32, ft uint8) error {
	old := append([]byte(nil), l.area...)
	list := live(old, nil)
	for i := range list {
		list[i].hash = p.hash(ondisk.Dirent(old[list[i].off:]).Name())
	}
	if len(list) < 2 {
		return corrupt(d, l.b.Block(), "do_split", ondisk.Corrupt(where(d, l.lblk), "%d entries fill the block", len(list)))
	}
	at := halve(list, len(old))
	start := list[at].hash
	mine := hash >= start
	if start == list[at-1].hash {
		start |= 1 // names of that hash begin in the lower leaf
	}
	add := func(area []byte, part []ent) {
		pack(area, old, part)
		if mine == (part[0] == list[at]) {
			insert(area, lastOff(part), name, ino, ft)
		}
	}
	lblk, err := blocks(d)
	if err != nil {
		return err
	}
	b, err := appendBlock(h, d, lblk, 0, func(_, area []byte) { add(area, list[at:]) })
	if err != nil {
		return err
	}
	b.Release()
	err = update(h, d, l.b, 0, func([]byte) error {
		add(l.area, list[:at])
		return nil
	})
	if err != nil {
		return err
	}
	return p.insert(h, d, p.n-1, start, lblk)
}

// lastOff is where pack puts the last of the entries.
func lastOff(part []ent) (off int) {
	for _, e := range part[:len(part)-1] {
		off += e.size
	}
	return off
}

// insert puts an entry after the current one of frame i (dx_insert_block).
func (p *dxPath) insert(h *journal.Handle, d *inode.Inode, i int, hash, lblk uint32) error {
	f := &p.f[i]
	return update(h, d, f.b, f.off(i), func([]byte) error {
		f.e.Insert(f.at+1, hash, lblk)
		return nil
	})
}

// off is where the index entries of frame i begin in its block.
func (f *frame) off(i int) int {
	if i == 0 {
		return ondisk.DxRootOff
	}
	return ondisk.DxNodeOff
}

// splitIndex makes room in the full index block above the leaf, or in the lowest one above it that has to have room first: it halves an
// index block, or puts a new level under the root. Errors: fserr.NoSpace.
func (p *dxPath) splitIndex(h *journal.Handle, d *inode.Inode) error {
	full := p.n - 1
	for full > 0 && p.f[full-1].e.Count() == p.f[full-1].e.Limit() {
		full--
	}
	if full == 0 && p.n-1 >= maxIndirect(d) {
		return errFull(d, p.n)
	}
	lblk, err := blocks(d)
	if err != nil {
		return err
	}
	f := &p.f[full]
	from := 0
	if full > 0 {
		from = f.e.Count() / 2
	}
	start := f.e.Hash(from)
	// The new block is filled from a copy, so that nothing has changed when there is none to be had.
	lower := append(ondisk.DxEntries(nil), f.e...)
	b, err := appendBlock(h, d, lblk, ondisk.DxNodeOff, func(data, _ []byte) {
		ondisk.InitDxNode(data, 0, d.FS.Csum)
		lower.MoveTail(from, ondisk.DxEntriesOf(data, ondisk.DxNodeOff))
	})
	if err != nil {
		return err
	}
	b.Release()
	err = update(h, d, f.b, f.off(full), func(data []byte) error {
		if full > 0 {
			copy(f.e, lower)
			return nil
		}
		f.e.SetCount(1)
		f.e.SetBlock(0, lblk)
		clear(f.e[ondisk.DxEntrySize : f.e.Limit()*ondisk.DxEntrySize])
		ondisk.SetDxIndirect(data, p.n)
		return nil
	})
	if err != nil || full == 0 {
		return err
	}
	return p.insert(h, d, full-1, start, lblk)
}
