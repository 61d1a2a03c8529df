package jbd2

import (
	"encoding/binary"
	"fmt"
)

// Tag flags (t_flags).
const (
	// FlagEscape says that the block started with Magic and has zero there.
	FlagEscape uint32 = 1
	// FlagSameUUID says that no UUID follows the tag.
	FlagSameUUID uint32 = 2
	// FlagDeleted marks a block deleted by the transaction; never written now.
	FlagDeleted uint32 = 4
	// FlagLastTag marks the last tag of a descriptor block.
	FlagLastTag uint32 = 8
)

// Tag says where one data block of the log belongs
// (journal_block_tag_t, journal_block_tag3_t).
type Tag struct {
	Block    uint64 // file system block number
	Flags    uint32 // Flag bits; 16 bits unless checksum version 3
	Checksum uint32 // as stored: 32 bits in version 3, 16 in version 2, else 0
}

// Escaped says whether the block must be unescaped.
func (t Tag) Escaped() bool { return t.Flags&FlagEscape != 0 }

// decodeTag reads a tag from p, which has at least TagBytes bytes.
func (f Format) decodeTag(p []byte) Tag {
	be := binary.BigEndian
	t := Tag{Block: uint64(be.Uint32(p))}
	if f.Features.CsumV3() {
		t.Flags = be.Uint32(p[4:])
		t.Checksum = be.Uint32(p[12:])
	} else {
		if f.Features.CsumV2() {
			t.Checksum = uint32(be.Uint16(p[4:]))
		}
		t.Flags = uint32(be.Uint16(p[6:]))
	}
	if f.Features.Is64Bit() {
		t.Block |= uint64(be.Uint32(p[8:])) << 32
	}
	return t
}

// encodeTag writes a tag to p, which has at least TagBytes bytes.
func (f Format) encodeTag(p []byte, t Tag) {
	be := binary.BigEndian
	clear(p[:f.Features.TagBytes()])
	be.PutUint32(p, uint32(t.Block))
	if f.Features.CsumV3() {
		be.PutUint32(p[4:], t.Flags)
		be.PutUint32(p[12:], t.Checksum)
	} else {
		if f.Features.CsumV2() {
			be.PutUint16(p[4:], uint16(t.Checksum))
		}
		be.PutUint16(p[6:], uint16(t.Flags))
	}
	if f.Features.Is64Bit() {
		be.PutUint32(p[8:], uint32(t.Block>>32))
	}
}

// maxBlock is the largest block number a tag or revoke record can hold.
func (f Format) maxBlock() uint64 {
	if f.Features.Is64Bit() {
		return ^uint64(0)
	}
	return uint64(^uint32(0))
}

// DecodeTags appends the tags of a descriptor block to dst. Reading ends after
// the tag with FlagLastTag or when the block has no room for another one. The
// block's checksum is not checked, see VerifyTail. The error wraps ErrShort,
// ErrMagic or ErrType.
func (f Format) DecodeTags(dst []Tag, p []byte) ([]Tag, error) {
	if err := f.checkLen(p); err != nil {
		return dst, err
	}
	if _, err := decodeTyped(p, TypeDescriptor); err != nil {
		return dst, err
	}
	n, end := f.Features.TagBytes(), len(p)-f.Features.TailBytes()
	for off := HeaderBytes; off+n <= end; {
		t := f.decodeTag(p[off:])
		dst = append(dst, t)
		off += n
		if t.Flags&FlagSameUUID == 0 {
			off += UUIDBytes
		}
		if t.Flags&FlagLastTag != 0 {
			break
		}
	}
	return dst, nil
}

// tagChecksum gives the checksum to store for a data block, 0 without version
// 2 or 3.
func (f Format) tagChecksum(seq uint32, data []byte) uint32 {
	switch {
	case f.Features.CsumV3():
		return DataChecksum(f.Seed, seq, data)
	case f.Features.CsumV2():
		return DataChecksum(f.Seed, seq, data) & 0xffff
	}
	return 0
}

// VerifyData checks a data block as it stands in the log against its tag
// (jbd2_block_tag_csum_verify). The error wraps ErrChecksum.
func (f Format) VerifyData(t Tag, seq uint32, data []byte) error {
	if want := f.tagChecksum(seq, data); f.Features.CsumV2or3() && t.Checksum != want {
		return fmt.Errorf("%w: data of block %d in transaction %d has %#x, its tag says %#x",
			ErrChecksum, t.Block, seq, want, t.Checksum)
	}
	return nil
}

// DescriptorWriter fills one descriptor block, as the loop over the
// transaction's buffers in jbd2_journal_commit_transaction does. It is not
// safe for concurrent use.
type DescriptorWriter struct {
	f     Format
	p     []byte
	seq   uint32
	off   int // next free byte
	last  int // offset of the last tag, 0 if none
	count int
}

// NewDescriptor starts a descriptor block of transaction seq in p, which is
// cleared and must be one block long. The error wraps ErrShort.
func (f Format) NewDescriptor(p []byte, seq uint32) (*DescriptorWriter, error) {
	if err := f.checkLen(p); err != nil {
		return nil, err
	}
	clear(p)
	if err := EncodeHeader(p, Header{Type: TypeDescriptor, Sequence: seq}); err != nil {
		return nil, err
	}
	return &DescriptorWriter{f: f, p: p, seq: seq, off: HeaderBytes}, nil
}

// Full says that no further tag is taken: like the kernel it asks for room for
// a tag, a UUID and the checksum.
func (w *DescriptorWriter) Full() bool {
	return len(w.p)-w.off < w.f.Features.TagBytes()+UUIDBytes+w.f.Features.TailBytes()
}

// Count is the number of tags added.
func (w *DescriptorWriter) Count() int { return w.count }

// Add adds the tag of a data block for the file system block blk. data is the
// block as it goes to the log, after Escape, which gave escaped. The error
// wraps ErrShort when the descriptor is full or data is not one block, and
// ErrFormat when blk does not fit a tag; nothing is added then.
func (w *DescriptorWriter) Add(blk uint64, data []byte, escaped bool) error {
	if w.Full() {
		return fmt.Errorf("%w: descriptor with %d tags is full", ErrShort, w.count)
	}
	if err := w.f.checkLen(data); err != nil {
		return err
	}
	if blk > w.f.maxBlock() {
		return fmt.Errorf("%w: block %d in a tag of 32 bits", ErrFormat, blk)
	}
	t := Tag{Block: blk, Checksum: w.f.tagChecksum(w.seq, data)}
	if escaped {
		t.Flags |= FlagEscape
	}
	if w.count > 0 {
		t.Flags |= FlagSameUUID
	}
	w.f.encodeTag(w.p[w.off:], t)
	w.last = w.off
	w.off += w.f.Features.TagBytes()
	if w.count == 0 {
		w.off += copy(w.p[w.off:], w.f.UUID[:])
	}
	w.count++
	return nil
}

// Finish marks the last tag and writes the block's checksum. A descriptor
// without tags is an error that wraps ErrFormat.
func (w *DescriptorWriter) Finish() error {
	if w.count == 0 {
		return fmt.Errorf("%w: descriptor of transaction %d without tags", ErrFormat, w.seq)
	}
	t := w.f.decodeTag(w.p[w.last:])
	t.Flags |= FlagLastTag
	w.f.encodeTag(w.p[w.last:], t)
	return w.f.SetTail(w.p)
}

// TagsPerDescriptor is the number of tags one descriptor block takes.
func (f Format) TagsPerDescriptor() int {
	n := f.Features.TagBytes()
	room := f.BlockSize - HeaderBytes - n - UUIDBytes - f.Features.TailBytes()
	if room < 0 {
		return 0
	}
	// The first tag is followed by a UUID; tag k > 0 is taken while
	// k*n + UUIDBytes <= room.
	if room < UUIDBytes+n {
		return 1
	}
	return (room-UUIDBytes)/n + 1
}
