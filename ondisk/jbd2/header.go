package jbd2

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Errors of this package, to be tested with errors.Is.
var (
	// ErrShort says that a block is too small for its record.
	ErrShort = errors.New("jbd2: block too short")
	// ErrMagic says that a block does not start with the journal's magic number.
	ErrMagic = errors.New("jbd2: bad magic number")
	// ErrType says that a block is of another type than wanted.
	ErrType = errors.New("jbd2: wrong block type")
	// ErrChecksum says that a stored checksum is not that of the content.
	ErrChecksum = errors.New("jbd2: checksum mismatch")
	// ErrFeature says that feature bits are unknown or contradictory.
	ErrFeature = errors.New("jbd2: unsupported journal features")
	// ErrFormat says that a field has an impossible value.
	ErrFormat = errors.New("jbd2: invalid record")
)

// Magic is the first word of every descriptor, commit, revoke and superblock.
const Magic uint32 = 0xC03B3998

// Sizes in bytes.
const (
	HeaderBytes     = 12   // block header
	SuperblockBytes = 1024 // superblock
	UUIDBytes       = 16   // UUID after a tag without FlagSameUUID

	tagBytes32        = 8
	tag3Bytes         = 16
	tailBytes         = 4
	revokeHeaderBytes = HeaderBytes + 4
	commitHeaderBytes = 64 // 60 used, padded to a multiple of 8
	commitChksumOff   = 16
)

// MinBlockSize and MaxBlockSize bound the block size in bytes.
const (
	MinBlockSize = 1024
	MaxBlockSize = 65536
)

// BlockType is the kind of a log block (h_blocktype).
type BlockType uint32

// The block types.
const (
	TypeDescriptor   BlockType = 1
	TypeCommit       BlockType = 2
	TypeSuperblockV1 BlockType = 3
	TypeSuperblockV2 BlockType = 4
	TypeRevoke       BlockType = 5
)

// String names the type.
func (t BlockType) String() string {
	switch t {
	case TypeDescriptor:
		return "descriptor"
	case TypeCommit:
		return "commit"
	case TypeSuperblockV1:
		return "superblock v1"
	case TypeSuperblockV2:
		return "superblock v2"
	case TypeRevoke:
		return "revoke"
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Header is the start of every block but the data blocks (journal_header_t).
type Header struct {
	Type     BlockType // h_blocktype
	Sequence uint32    // h_sequence: transaction number
}

// DecodeHeader reads the header of a block. The error wraps ErrShort or
// ErrMagic. Any type is accepted.
func DecodeHeader(p []byte) (Header, error) {
	if len(p) < HeaderBytes {
		return Header{}, fmt.Errorf("%w: header of %d bytes, want %d", ErrShort, len(p), HeaderBytes)
	}
	if m := binary.BigEndian.Uint32(p); m != Magic {
		return Header{}, fmt.Errorf("%w: %#08x, want %#08x", ErrMagic, m, Magic)
	}
	return Header{
		Type:     BlockType(binary.BigEndian.Uint32(p[4:])),
		Sequence: binary.BigEndian.Uint32(p[8:]),
	}, nil
}

// decodeTyped reads a header and insists on its type.
func decodeTyped(p []byte, want BlockType) (Header, error) {
	h, err := DecodeHeader(p)
	if err != nil {
		return Header{}, err
	}
	if h.Type != want {
		return Header{}, fmt.Errorf("%w: %v, want %v", ErrType, h.Type, want)
	}
	return h, nil
}

// EncodeHeader writes h with the magic number to the first HeaderBytes of p.
// The error wraps ErrShort.
func EncodeHeader(p []byte, h Header) error {
	if len(p) < HeaderBytes {
		return fmt.Errorf("%w: header space of %d bytes, want %d", ErrShort, len(p), HeaderBytes)
	}
	binary.BigEndian.PutUint32(p, Magic)
	binary.BigEndian.PutUint32(p[4:], uint32(h.Type))
	binary.BigEndian.PutUint32(p[8:], h.Sequence)
	return nil
}

// TidGT says whether x is a later transaction than y, sequence numbers taken
// modulo 2^32 (tid_gt).
func TidGT(x, y uint32) bool { return int32(x-y) > 0 }

// TidGEQ says whether x is y or a later transaction (tid_geq).
func TidGEQ(x, y uint32) bool { return int32(x-y) >= 0 }

// Escape prepares a data block for the log: a block that starts with Magic
// gets zero there. It says whether it changed p, in which case the block's tag
// must carry FlagEscape.
func Escape(p []byte) bool {
	if len(p) < 4 || binary.BigEndian.Uint32(p) != Magic {
		return false
	}
	clear(p[:4])
	return true
}

// Unescape undoes Escape on a block whose tag carries FlagEscape.
func Unescape(p []byte) {
	if len(p) >= 4 {
		binary.BigEndian.PutUint32(p, Magic)
	}
}

// Format is what the layout of log blocks depends on. It is a value; the zero
// value is not usable, make one with NewFormat or Superblock.Format.
type Format struct {
	BlockSize int      // bytes
	Features  Features // feature words
	UUID      [16]byte // s_uuid
	Seed      uint32   // Seed(UUID)
}

// NewFormat makes a Format and checks the block size. The error wraps
// ErrFormat or ErrFeature.
func NewFormat(blockSize int, feat Features, uuid [16]byte) (Format, error) {
	if blockSize < MinBlockSize || blockSize > MaxBlockSize || blockSize&(blockSize-1) != 0 {
		return Format{}, fmt.Errorf("%w: block size %d, want a power of two in [%d, %d]",
			ErrFormat, blockSize, MinBlockSize, MaxBlockSize)
	}
	if err := feat.Check(); err != nil {
		return Format{}, err
	}
	return Format{BlockSize: blockSize, Features: feat, UUID: uuid, Seed: Seed(uuid)}, nil
}

// checkLen insists on a whole block.
func (f Format) checkLen(p []byte) error {
	if f.BlockSize < MinBlockSize || len(p) != f.BlockSize {
		return fmt.Errorf("%w: %d bytes, want a block of %d", ErrShort, len(p), f.BlockSize)
	}
	return nil
}

// VerifyTail checks the checksum at the end of a descriptor or revoke block
// (jbd2_descriptor_block_csum_verify). Without checksum version 2 or 3 it
// accepts every block. The error wraps ErrShort or ErrChecksum.
func (f Format) VerifyTail(p []byte) error {
	if err := f.checkLen(p); err != nil {
		return err
	}
	if !f.Features.CsumV2or3() {
		return nil
	}
	off := len(p) - tailBytes
	found := binary.BigEndian.Uint32(p[off:])
	if want := checksumWithHole(f.Seed, p, off); found != want {
		return fmt.Errorf("%w: block tail %#08x, want %#08x", ErrChecksum, found, want)
	}
	return nil
}

// SetTail writes the checksum at the end of a descriptor or revoke block
// (jbd2_descriptor_block_csum_set). Without checksum version 2 or 3 it does
// nothing. The error wraps ErrShort.
func (f Format) SetTail(p []byte) error {
	if err := f.checkLen(p); err != nil {
		return err
	}
	if f.Features.CsumV2or3() {
		off := len(p) - tailBytes
		binary.BigEndian.PutUint32(p[off:], checksumWithHole(f.Seed, p, off))
	}
	return nil
}
