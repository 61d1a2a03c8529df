package ondisk

// Extent tree layout.
const (
	ExtentMagic = 0xF30A
	ExtentSize  = 12 // header, index and leaf entries alike
	// ExtentInitMax is the longest initialized extent, in blocks; longer lengths mark an uninitialized one.
	ExtentInitMax = 1 << 15
	// ExtentMaxDepth is the deepest tree the format allows.
	ExtentMaxDepth = 5
	// MaxLogical is one past the last logical block of an extent-mapped file.
	MaxLogical = 1<<32 - 1
)

// ExtentNode is a node of an extent tree: i_block (60 bytes) or a whole block.
type ExtentNode []byte

func (n ExtentNode) Magic() uint16          { return le16(n, 0) }
func (n ExtentNode) Entries() int           { return int(le16(n, 2)) }
func (n ExtentNode) SetEntries(v int)       { put16(n, 2, uint16(v)) }
func (n ExtentNode) Max() int               { return int(le16(n, 4)) }
func (n ExtentNode) Depth() int             { return int(le16(n, 6)) }
func (n ExtentNode) SetDepth(v int)         { put16(n, 6, uint16(v)) }
func (n ExtentNode) SetGeneration(v uint32) { put32(n, 8, v) }

// Init writes an empty header.
func (n ExtentNode) Init(depth int) {
	clear(n[:ExtentSize])
	put16(n, 0, ExtentMagic)
	put16(n, 4, uint16(n.Capacity()))
	n.SetDepth(depth)
}

// Capacity is how many entries the node's bytes can hold.
func (n ExtentNode) Capacity() int { return (len(n) - ExtentSize) / ExtentSize }

// Check validates the header against the depth that the parent expects (-1: any, the root).
func (n ExtentNode) Check(where string, depth int) error {
	if len(n) < ExtentSize {
		return Corrupt(where, "extent node of %d bytes", len(n))
	}
	switch {
	case n.Magic() != ExtentMagic:
		return Corrupt(where, "extent header magic 0x%04x, want 0x%04x", n.Magic(), ExtentMagic)
	case depth >= 0 && n.Depth() != depth:
		return Corrupt(where, "extent depth %d, want %d", n.Depth(), depth)
	case n.Depth() > ExtentMaxDepth:
		return Corrupt(where, "extent depth %d, want at most %d", n.Depth(), ExtentMaxDepth)
	case n.Max() == 0 || n.Max() > n.Capacity():
		return Corrupt(where, "extent node claims room for %d entries, has room for %d", n.Max(), n.Capacity())
	case n.Entries() > n.Max():
		return Corrupt(where, "%d extent entries, want at most %d", n.Entries(), n.Max())
	case n.Depth() > 0 && n.Entries() == 0 && depth >= 0:
		return Corrupt(where, "empty extent index node")
	}
	return nil
}

// Extent is a leaf entry in decoded form: Len logical blocks from Logical at Physical.
type Extent struct {
	Logical  uint32
	Len      uint32
	Physical uint64
	// Uninit means allocated but reading as zeros.
	Uninit bool
}

// End is one past the last logical block.
func (e Extent) End() uint64 { return uint64(e.Logical) + uint64(e.Len) }

func (n ExtentNode) at(i int) []byte { return n[ExtentSize+i*ExtentSize : ExtentSize+(i+1)*ExtentSize] }

// Leaf decodes the ith leaf entry.
func (n ExtentNode) Leaf(i int) Extent {
	b := n.at(i)
	e := Extent{Logical: le32(b, 0), Len: uint32(le16(b, 4)), Physical: uint64(le32(b, 8)) | uint64(le16(b, 6))<<32}
	if e.Len > ExtentInitMax {
		e.Len -= ExtentInitMax
		e.Uninit = true
	}
	return e
}

// SetLeaf encodes the ith leaf entry.
func (n ExtentNode) SetLeaf(i int, e Extent) {
	b := n.at(i)
	l := e.Len
	if e.Uninit {
		l += ExtentInitMax
	}
	put32(b, 0, e.Logical)
	put16(b, 4, uint16(l))
	put16(b, 6, uint16(e.Physical>>32))
	put32(b, 8, uint32(e.Physical))
}

// Index is an index entry: the subtree from Logical on is in block Child.
func (n ExtentNode) Index(i int) (logical uint32, child uint64) {
	b := n.at(i)
	return le32(b, 0), uint64(le32(b, 4)) | uint64(le16(b, 8))<<32
}

// SetIndex encodes the ith index entry.
func (n ExtentNode) SetIndex(i int, logical uint32, child uint64) {
	b := n.at(i)
	put32(b, 0, logical)
	put32(b, 4, uint32(child))
	put16(b, 8, uint16(child>>32))
	put16(b, 10, 0)
}

// InsertAt makes room for an entry at i by moving the later ones up. The node must not be full.
func (n ExtentNode) InsertAt(i int) {
	c := n.Entries()
	copy(n[ExtentSize*(i+2):ExtentSize*(c+2)], n[ExtentSize*(i+1):ExtentSize*(c+1)])
	n.SetEntries(c + 1)
}

// RemoveAt drops entry i.
func (n ExtentNode) RemoveAt(i int) {
	c := n.Entries()
	copy(n[ExtentSize*(i+1):ExtentSize*c], n[ExtentSize*(i+2):ExtentSize*(c+1)])
	clear(n[ExtentSize*c : ExtentSize*(c+1)])
	n.SetEntries(c - 1)
}

// tail is the offset of the checksum of an extent block.
func (n ExtentNode) tail() int { return ExtentSize + n.Max()*ExtentSize }

// Checksum computes the checksum of an extent block of an inode whose own seed is iseed (see InodeSeed).
func (n ExtentNode) Checksum(iseed uint32) uint32 { return CRC32C(iseed, n[:n.tail()]) }

// UpdateChecksum stores the checksum after the last possible entry.
func (n ExtentNode) UpdateChecksum(iseed uint32) {
	if t := n.tail(); t+4 <= len(n) {
		put32(n, t, n.Checksum(iseed))
	}
}

// VerifyChecksum returns a CorruptError naming where.
func (n ExtentNode) VerifyChecksum(where string, iseed uint32) error {
	t := n.tail()
	if t+4 > len(n) {
		return Corrupt(where, "no room for the extent checksum at byte %d", t)
	}
	if got, want := n.Checksum(iseed), le32(n, t); got != want {
		return BadChecksum(where, "extent block", got, want)
	}
	return nil
}

// InodeSeed is the checksum seed of what belongs to one inode: its directory blocks and extent blocks.
func InodeSeed(seed, ino, generation uint32) uint32 { return CRC32C32(CRC32C32(seed, ino), generation) }
