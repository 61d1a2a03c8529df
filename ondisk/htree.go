package ondisk

// Directory index (htree) layout. Block 0 of an indexed directory is the root: the entries "." and "..", dx_root_info, then index
// entries. Other index blocks begin with one empty directory entry that spans the block, so that readers that know no index see
// nothing in them.
const (
	DxRootOff   = 32 // where the index entries begin in the root, bytes
	DxNodeOff   = 8  // and in the other index blocks
	DxEntrySize = 8
	DxTailSize  = 8 // dt_reserved and dt_checksum after the last possible entry

	dxInfoOff = 24
	dxInfoLen = 8
	// dxBlockMask is the bits of an index entry's block number that count.
	dxBlockMask = 0x0FFFFFFF
)

// DxEntries is the array of index entries of a block, from the entry whose hash field holds limit and count. Its length is a multiple
// of DxEntrySize. Entry 0 covers all hashes below entry 1's.
type DxEntries []byte

func (e DxEntries) Limit() int     { return int(le16(e, 0)) }
func (e DxEntries) Count() int     { return int(le16(e, 2)) }
func (e DxEntries) SetLimit(v int) { put16(e, 0, uint16(v)) }
func (e DxEntries) SetCount(v int) { put16(e, 2, uint16(v)) }

// Hash is the lowest hash below entry i; the low bit says that names of that hash begin in the entry before. Entry 0 begins at 0.
func (e DxEntries) Hash(i int) uint32 {
	if i == 0 {
		return 0
	}
	return le32(e, DxEntrySize*i)
}

// Block is the logical block of the directory that entry i points at.
func (e DxEntries) Block(i int) uint32 { return le32(e, DxEntrySize*i+4) & dxBlockMask }

// SetBlock sets the logical block of entry i.
func (e DxEntries) SetBlock(i int, lblk uint32) { put32(e, DxEntrySize*i+4, lblk) }

// Search is the last entry whose hash is not above hash (the binary search of dx_probe).
func (e DxEntries) Search(hash uint32) int {
	lo, hi := 1, e.Count()-1
	for lo <= hi {
		if m := int(uint(lo+hi) / 2); e.Hash(m) > hash {
			hi = m - 1
		} else {
			lo = m + 1
		}
	}
	return lo - 1
}

// Insert puts an entry at i > 0, moving the later ones up (dx_insert_block). The block must not be full.
func (e DxEntries) Insert(i int, hash, lblk uint32) {
	c := e.Count()
	copy(e[DxEntrySize*(i+1):DxEntrySize*(c+1)], e[DxEntrySize*i:DxEntrySize*c])
	put32(e, DxEntrySize*i, hash)
	e.SetBlock(i, lblk)
	e.SetCount(c + 1)
}

// MoveTail moves the entries from i on to the empty array to, whose limit stays, and returns the first moved hash.
func (e DxEntries) MoveTail(i int, to DxEntries) uint32 {
	hash, limit, n := e.Hash(i), to.Limit(), e.Count()-i
	copy(to, e[DxEntrySize*i:DxEntrySize*(i+n)])
	to.SetLimit(limit)
	to.SetCount(n)
	if i > 0 {
		e.SetCount(i)
		clear(e[DxEntrySize*i : DxEntrySize*(i+n)])
	}
	return hash
}

// DxLimit is how many entries fit an index block of size bytes whose entries begin at off (dx_root_limit, dx_node_limit).
func DxLimit(size, off int, csum bool) int {
	size -= off
	if csum {
		size -= DxTailSize
	}
	return size / DxEntrySize
}

// DxOffset finds where the index entries of a block begin (get_dx_countlimit): DxNodeOff for a block of one empty spanning entry,
// DxRootOff for a root, 0 for a block that is no index block.
func DxOffset(b []byte) int {
	first := Dirent(b)
	if first.RecLen() == len(b) {
		if first.Ino() == 0 && first.NameLen() == 0 {
			return DxNodeOff
		}
		return 0
	}
	if first.RecLen() != DirentLen(1) {
		return 0
	}
	if Dirent(b[DirentLen(1):]).RecLen() != len(b)-DirentLen(1) || le32(b, dxInfoOff) != 0 || b[dxInfoOff+5] != dxInfoLen {
		return 0
	}
	return DxRootOff
}

// DxEntriesOf is the view of the entries that begin at off; the block must have been checked with CheckDx.
func DxEntriesOf(b []byte, off int) DxEntries {
	return DxEntries(b[off : off+(len(b)-off)/DxEntrySize*DxEntrySize])
}

// DxInfo is dx_root_info in decoded form.
type DxInfo struct {
	Version  uint8 // hash version as on disk, without signedness
	Indirect int   // levels of index blocks below the root
	Flags    uint8
}

// DxRootInfo decodes dx_root_info of a root.
func DxRootInfo(b []byte) DxInfo {
	return DxInfo{Version: b[dxInfoOff+4], Indirect: int(b[dxInfoOff+6]), Flags: b[dxInfoOff+7]}
}

// SetDxIndirect sets the levels of index blocks below the root.
func SetDxIndirect(b []byte, levels int) { b[dxInfoOff+6] = byte(levels) }

// CheckDx validates an index block whose entries must begin at off: its shape, limit and count. maxIndirect bounds the levels of a
// root. Block numbers are checked by whoever follows them.
func CheckDx(where string, b []byte, off int, csum bool, maxIndirect int) error {
	if got := DxOffset(b); got != off {
		return Corrupt(where, "index entries at byte %d, want %d (0: no index block)", got, off)
	}
	if off == DxRootOff {
		info := DxRootInfo(b)
		switch {
		case info.Version > HashTEA:
			return Corrupt(where, "hash version %d of the index, want at most %d", info.Version, HashTEA)
		case info.Flags&1 != 0:
			return Corrupt(where, "index flags 0x%02x, want bit 0 clear", info.Flags)
		case info.Indirect > maxIndirect:
			return Corrupt(where, "%d indirect index levels, want at most %d", info.Indirect, maxIndirect)
		}
	}
	e := DxEntriesOf(b, off)
	if want := DxLimit(len(b), off, csum); e.Limit() != want {
		return Corrupt(where, "index limit %d, want %d", e.Limit(), want)
	}
	if c := e.Count(); c == 0 || c > e.Limit() {
		return Corrupt(where, "index count %d, want from 1 to %d", c, e.Limit())
	}
	return nil
}

// dxTail is the offset of the checksum tail of an index block, false when its limit leaves no room for one.
func dxTail(b []byte, off int) (int, bool) {
	e := DxEntriesOf(b, off)
	t := off + e.Limit()*DxEntrySize
	return t, t+DxTailSize <= len(b) && e.Count() <= e.Limit()
}

// dxChecksum computes ext4_dx_csum: the block up to its last entry, then the tail with the checksum taken as zero.
func dxChecksum(b []byte, off, tail int, iseed uint32) uint32 {
	c := CRC32C(iseed, b[:off+DxEntriesOf(b, off).Count()*DxEntrySize])
	c = CRC32C(c, b[tail:tail+4])
	return CRC32C32(c, 0)
}

// UpdateDxChecksum stores the checksum of an index block whose entries begin at off.
func UpdateDxChecksum(b []byte, off int, iseed uint32) {
	if t, ok := dxTail(b, off); ok {
		put32(b, t+4, dxChecksum(b, off, t, iseed))
	}
}

// VerifyDxChecksum verifies an index block whose entries begin at off.
func VerifyDxChecksum(where string, b []byte, off int, iseed uint32) error {
	t, ok := dxTail(b, off)
	if !ok {
		e := DxEntriesOf(b, off)
		return Corrupt(where, "index block with count %d and limit %d has no room for its checksum", e.Count(), e.Limit())
	}
	if got, want := dxChecksum(b, off, t, iseed), le32(b, t+4); got != want {
		return BadChecksum(where, "index block", got, want)
	}
	return nil
}

// InitDxRoot turns block 0, which begins with valid entries "." and "..", into an index root with one entry for lblk. The hash version
// is the on-disk one.
func InitDxRoot(b []byte, version uint8, lblk uint32, csum bool) {
	Dirent(b[DirentLen(1):]).SetRecLen(len(b) - DirentLen(1))
	clear(b[dxInfoOff:])
	b[dxInfoOff+4], b[dxInfoOff+5] = version, dxInfoLen
	initDxEntries(b, DxRootOff, lblk, csum)
}

// InitDxNode makes an index block with one entry for lblk.
func InitDxNode(b []byte, lblk uint32, csum bool) {
	clear(b)
	Dirent(b).SetRecLen(len(b))
	initDxEntries(b, DxNodeOff, lblk, csum)
}

func initDxEntries(b []byte, off int, lblk uint32, csum bool) {
	e := DxEntriesOf(b, off)
	e.SetLimit(DxLimit(len(b), off, csum))
	e.SetCount(1)
	e.SetBlock(0, lblk)
}
