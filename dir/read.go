package dir

import (
	"bytes"
	"cmp"
	"slices"

	"inlinefs/buffer"
	"inlinefs/inode"
	"inlinefs/ondisk"
)

// item is an entry on its way to emit.
type item struct {
	// pos is the entry's place in hash order: 0 for ".", 1 for "..", else 31 bits of major hash and 32 of minor, moved up past other
	// entries of the same hashes. The cookie after an entry is one more.
	pos  uint64
	name []byte
	ino  uint32
	ft   uint8
}

// firstPos is the lowest place of an entry that is not a dot.
const firstPos = 2

// Read calls emit for every entry from cookie on, "." and ".." included, until it returns false: that entry was not taken and will be
// the first of a Read from the cookie before it (ext4_readdir). 0 is the start. Errors: corruption, after the entries before it.
func Read(d *inode.Inode, cookie uint64, emit func(Entry) bool) error {
	if d.HasInline() {
		return inlineRead(d, cookie, emit)
	}
	if isIndexed(d) {
		var p dxPath
		defer p.release()
		err := p.open(d)
		if err == nil {
			err = p.descend(d, majorOf(cookie))
		}
		if err == nil {
			return p.read(d, cookie, emit)
		}
		if !isBadIndex(err) {
			return err
		}
	}
	n, err := blocks(d)
	if err != nil {
		return err
	}
	// A cookie beyond the end is one of hash order, from before the index was lost.
	if hashOrder(d) && (n == 1 || cookie > uint64(n)<<d.FS.BlockBits) {
		return readSorted(d, n, cookie, emit)
	}
	return readLinear(d, n, cookie, emit)
}

// hashOrder says whether a directory without an index is read as if it had one.
func hashOrder(d *inode.Inode) bool {
	return hasIndex(d) && defaultVersion(d) <= ondisk.HashTEAUnsigned
}

// majorOf is the major hash that a cookie of hash order stands in.
func majorOf(cookie uint64) uint32 { return uint32(cookie>>32) << 1 }

// checkName refuses names that can't be shown: the entry is in use and was checked with CheckDirent.
func checkName(where string, e ondisk.Dirent) error {
	if n := e.Name(); len(n) == 0 || bytes.IndexByte(n, '/') >= 0 || bytes.IndexByte(n, 0) >= 0 {
		return ondisk.Corrupt(where, "entry for inode %d has the name %q", e.Ino(), n)
	}
	return nil
}

// each calls fn for the entries in use of area until it returns false.
func each(where string, area []byte, inodes uint32, fn func(off int, e ondisk.Dirent) bool) error {
	for off := 0; off < len(area); {
		e, err := ondisk.CheckDirent(where, area, off, inodes)
		if err != nil {
			return err
		}
		n := e.RecLen()
		if e.Ino() != 0 {
			if err := checkName(where, e); err != nil {
				return err
			}
			if !fn(off, e) {
				return nil
			}
		}
		off += n
	}
	return nil
}

// readLinear emits the entries of blocks in the order they lie, cookies being byte offsets. Each block is walked from its start: the entry
// that began at the cookie may have been joined to another since.
func readLinear(d *inode.Inode, n uint32, cookie uint64, emit func(Entry) bool) error {
	stop := false
	for lblk := cookie >> d.FS.BlockBits; lblk < uint64(n) && !stop; lblk++ {
		l, err := readAny(d, uint32(lblk))
		if err != nil {
			return err
		}
		base := lblk << d.FS.BlockBits
		err = each(where(d, l.lblk), l.area, d.FS.Inodes, func(off int, e ondisk.Dirent) bool {
			if base+uint64(off) < cookie {
				return true
			}
			stop = !emit(Entry{Name: e.Name(), Ino: e.Ino(), Type: typeOf(d.FS, e), Cookie: base + uint64(off+e.RecLen())})
			return !stop
		})
		if err != nil {
			err = corrupt(d, l.b.Block(), "ext4_readdir", err)
		}
		l.b.Release()
		if err != nil {
			return err
		}
	}
	return nil
}

// batch collects entries with their places in hash order.
type batch struct {
	version uint8
	seed    [4]uint32
	from    uint32 // major hashes below it are left out
	top     uint32 // highest major hash so far
	items   []item
	held    []*buffer.Head // blocks that the names lie in
}

func (t *batch) reset() {
	for _, b := range t.held {
		b.Release()
	}
	t.items, t.held = t.items[:0], t.held[:0]
}

// add collects the entries of one area.
func (t *batch) add(d *inode.Inode, where string, area []byte) error {
	return each(where, area, d.FS.Inodes, func(_ int, e ondisk.Dirent) bool {
		it := item{name: e.Name(), ino: e.Ino(), ft: typeOf(d.FS, e)}
		switch {
		case isDot(it.name):
		case isDotDot(it.name):
			it.pos = 1
		default:
			major, minor, _ := ondisk.DirHash(t.version, &t.seed, it.name)
			if major < t.from {
				return true
			}
			if t.version == ondisk.HashLegacy || t.version == ondisk.HashLegacyUnsigned {
				minor = ondisk.CRC32C(0, it.name) // legacy hashes have none; only readdir sees it
			}
			t.top = max(t.top, major)
			it.pos = max(uint64(major>>1)<<32|uint64(minor), firstPos)
		}
		t.items = append(t.items, it)
		return true
	})
}

// addBlock collects the entries of a block and keeps its reference.
func (t *batch) addBlock(d *inode.Inode, l block) error {
	t.held = append(t.held, l.b)
	if err := t.add(d, where(d, l.lblk), l.area); err != nil {
		return corrupt(d, l.b.Block(), "htree_dirblock_to_tree", err)
	}
	return nil
}

// order sorts the entries and gives each a place of its own. All entries of a major hash must be there, so that the result is the same
// each time, however the blocks are split.
func (t *batch) order() {
	slices.SortFunc(t.items, func(a, b item) int {
		if c := cmp.Compare(a.pos, b.pos); c != 0 {
			return c
		}
		return bytes.Compare(a.name, b.name)
	})
	for i := 1; i < len(t.items); i++ {
		a, b := &t.items[i-1], &t.items[i]
		if b.pos <= a.pos && b.pos >= firstPos {
			// Never into the next major hash, whose entries may be in another batch.
			b.pos = min(a.pos+1, b.pos|0xFFFFFFFF)
		}
	}
}

// emit gives the entries from cookie on and returns the cookie after the last one; false: the reader has enough.
func (t *batch) emit(cookie uint64, emit func(Entry) bool) (uint64, bool) {
	t.order()
	for _, it := range t.items {
		if it.pos < cookie {
			continue
		}
		if !emit(Entry{Name: it.name, Ino: it.ino, Type: it.ft, Cookie: it.pos + 1}) {
			return cookie, false
		}
		cookie = it.pos + 1
	}
	return cookie, true
}

// read emits the leaves in hash order; the path has descended to the hash of cookie (ext4_dx_readdir). A name's hash may go on in the
// leaves that follow: they make one batch.
func (p *dxPath) read(d *inode.Inode, cookie uint64, emit func(Entry) bool) error {
	t := batch{version: p.version, seed: p.seed, from: majorOf(cookie)}
	defer t.reset()
	if cookie < firstPos {
		l, err := readAny(d, 0)
		if err == nil {
			err = t.addBlock(d, l)
		}
		if err != nil {
			return err
		}
	}
	for {
		l, err := p.leaf(d)
		if err == nil {
			err = t.addBlock(d, l)
		}
		if err != nil {
			return err
		}
		_, start, more := p.ahead()
		if more && start&^1 <= t.top {
			if err := p.next(d); err != nil {
				return err
			}
			continue
		}
		next, ok := t.emit(cookie, emit)
		if !ok || !more {
			return nil
		}
		t.reset()
		cookie = next
		if err := p.next(d); err != nil {
			return err
		}
	}
}

// readSorted emits the entries of a directory without a usable index in hash order.
func readSorted(d *inode.Inode, n uint32, cookie uint64, emit func(Entry) bool) error {
	t := batch{version: defaultVersion(d), seed: d.FS.SB.HashSeed(), from: majorOf(cookie)}
	defer t.reset()
	for lblk := range n {
		l, err := readAny(d, lblk)
		if err == nil {
			err = t.addBlock(d, l)
		}
		if err != nil {
			return err
		}
	}
	t.emit(cookie, emit)
	return nil
}

// inlineRead is Read of an inline directory (ext4_inlinedir_fill, ext4_read_inline_dir): the areas are copied, so that no lock is held
// during emit.
func inlineRead(d *inode.Inode, cookie uint64, emit func(Entry) bool) error {
	var data []byte
	first := 0
	err := withAreas(d, false, func(a areas) error {
		data = slices.Concat(a[0], a[1])
		first = len(a[0])
		return nil
	})
	if err != nil {
		return err
	}
	parent, err := inlineParent(d)
	if err != nil {
		return err
	}
	dots := make([]byte, 2*dotLen)
	putDots(dots, d, parent)
	parts := [][]byte{dots, data[:first], data[first:]}
	if hashOrder(d) {
		t := batch{version: defaultVersion(d), seed: d.FS.SB.HashSeed(), from: majorOf(cookie)}
		for _, area := range parts {
			if err := t.add(d, d.Name()+" (inline)", area); err != nil {
				return reportInline(d, err)
			}
		}
		t.emit(cookie, emit)
		return nil
	}
	base := uint64(0)
	for _, area := range parts {
		stop := false
		err := each(d.Name()+" (inline)", area, d.FS.Inodes, func(off int, e ondisk.Dirent) bool {
			if base+uint64(off) < cookie {
				return true
			}
			stop = !emit(Entry{Name: e.Name(), Ino: e.Ino(), Type: typeOf(d.FS, e), Cookie: base + uint64(off+e.RecLen())})
			return !stop
		})
		if err != nil || stop {
			return reportInline(d, err)
		}
		base += uint64(len(area))
	}
	return nil
}
