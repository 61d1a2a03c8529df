package ondisk

import (
	"cmp"
	"errors"
	"slices"
)

// ErrXattrBlockNoSpace says that the attributes do not fit one block; the block is unchanged.
var ErrXattrBlockNoSpace = errors.New("no room for the attribute in the attribute block")

// XattrHeadSize is the length in bytes of an attribute block's header; the entries follow.
const XattrHeadSize = 32

// XattrBlock is an external attribute block: header, entries sorted by index, name length and name, values packed down from the end.
// Value offsets count from the start of the block.
type XattrBlock []byte

// Refcount is how many inodes use the block.
func (b XattrBlock) Refcount() uint32 { return le32(b, 4) }

// SetRefcount sets it.
func (b XattrBlock) SetRefcount(v uint32) { put32(b, 4, v) }

// Hash is h_hash, over all entries.
func (b XattrBlock) Hash() uint32 { return le32(b, 12) }

// StoredChecksum is h_checksum.
func (b XattrBlock) StoredChecksum() uint32 { return le32(b, 16) }

// Checksum computes the checksum of the block at number blk (ext4_xattr_block_csum): seed, block number, the block with h_checksum
// taken as zero.
func (b XattrBlock) Checksum(seed uint32, blk uint64) uint32 {
	var no [8]byte
	put64(no[:], 0, blk)
	c := CRC32C(seed, no[:])
	c = CRC32C(c, b[:16])
	c = CRC32C(c, []byte{0, 0, 0, 0})
	return CRC32C(c, b[20:])
}

// UpdateChecksum stores the checksum.
func (b XattrBlock) UpdateChecksum(seed uint32, blk uint64) { put32(b, 16, b.Checksum(seed, blk)) }

// VerifyChecksum returns a CorruptError naming where when the stored checksum is wrong.
func (b XattrBlock) VerifyChecksum(where string, seed uint32, blk uint64) error {
	if got, want := b.Checksum(seed, blk), b.StoredChecksum(); got != want {
		return BadChecksum(where, "attribute block", got, want)
	}
	return nil
}

// Check validates header and entries, not the checksum (ext4_xattr_check_block). Errors: CorruptError naming where.
func (b XattrBlock) Check(where string) error {
	_, err := b.area(where)
	return err
}

func (b XattrBlock) area(where string) (xattrArea, error) {
	a := xattrArea{b: b, first: XattrHeadSize, where: where}
	if len(b) < XattrHeadSize+xattrTermSize {
		return a, Corrupt(where, "attribute block of %d bytes, want at least %d", len(b), XattrHeadSize+xattrTermSize)
	}
	switch {
	case le32(b, 0) != XattrMagic:
		return a, Corrupt(where, "attribute block magic 0x%08x, want 0x%08x", le32(b, 0), uint32(XattrMagic))
	case le32(b, 8) != 1:
		return a, Corrupt(where, "attribute block claims %d blocks, want 1", le32(b, 8))
	case b.Refcount() == 0:
		return a, Corrupt(where, "attribute block with 0 references, want 1 or more")
	}
	return a, a.check()
}

// Find returns a copy of an attribute's value (ext4_xattr_block_find). The block is validated first. Errors: CorruptError naming where.
func (b XattrBlock) Find(where string, index uint8, name string) (value []byte, found bool, err error) {
	a, err := b.area(where)
	if err != nil {
		return nil, false, err
	}
	at := a.find(index, name)
	if at < 0 {
		return nil, false, nil
	}
	if n := a.size(at); n > 0 {
		return slices.Clone(a.b[a.value(at) : a.value(at)+n]), true, nil
	}
	return []byte{}, true, nil
}

// List decodes all attributes of the block. Errors: CorruptError naming where.
func (b XattrBlock) List(where string) ([]XattrEntry, error) {
	a, err := b.area(where)
	if err != nil {
		return nil, err
	}
	return a.list(), nil
}

// Fill writes a block with the given attributes, in any order, used by refs inodes; the checksum is left to UpdateChecksum. Nothing of
// what b held stays, and entries must not alias it. Errors: ErrXattrBlockNoSpace; b is unchanged then.
func (b XattrBlock) Fill(entries []XattrEntry, refs uint32) error {
	need := XattrHeadSize + xattrTermSize
	for _, e := range entries {
		if len(e.Name) > xattrNameMax || len(e.Value) > len(b) {
			return ErrXattrBlockNoSpace
		}
		need += XattrEntryLen(len(e.Name)) + XattrValueLen(len(e.Value))
	}
	if need > len(b) {
		return ErrXattrBlockNoSpace
	}
	clear(b)
	put32(b, 0, XattrMagic)
	b.SetRefcount(refs)
	put32(b, 8, 1)
	at, low, hash := XattrHeadSize, len(b), uint32(0)
	sorted := slices.SortedFunc(slices.Values(entries), compareXattr)
	whole := true
	for _, e := range sorted {
		b[at], b[at+1] = byte(len(e.Name)), e.Index
		if n := len(e.Value); n > 0 {
			low -= XattrValueLen(n)
			copy(b[low:], e.Value)
			put16(b, at+2, uint16(low))
			put32(b, at+8, uint32(n))
		}
		h := XattrHash(e.Name, e.Value)
		put32(b, at+12, h)
		copy(b[at+XattrEntrySize:], e.Name)
		at += XattrEntryLen(len(e.Name))
		whole = whole && h != 0
		hash = hash<<16 ^ hash>>16 ^ h
	}
	if whole {
		put32(b, 12, hash)
	}
	return nil
}

// compareXattr is the order of entries in a block (ext4_xattr_find_entry).
func compareXattr(x, y XattrEntry) int {
	return cmp.Or(cmp.Compare(x.Index, y.Index), cmp.Compare(len(x.Name), len(y.Name)), cmp.Compare(x.Name, y.Name))
}

// XattrHash is e_hash of an attribute in a block: over the name's bytes, then over the value in little-endian words, padded with zeros
// (ext4_xattr_hash_entry).
func XattrHash(name string, value []byte) uint32 {
	h := uint32(0)
	for _, c := range []byte(name) {
		h = h<<5 ^ h>>27 ^ uint32(c)
	}
	for len(value) >= 4 {
		h = h<<16 ^ h>>16 ^ le32(value, 0)
		value = value[4:]
	}
	if len(value) > 0 {
		var w [4]byte
		copy(w[:], value)
		h = h<<16 ^ h>>16 ^ le32(w[:], 0)
	}
	return h
}
