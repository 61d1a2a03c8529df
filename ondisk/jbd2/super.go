package jbd2

import (
	"encoding/binary"
	"fmt"
)

// Values of s_checksum_type and h_chksum_type.
const (
	ChecksumNone   uint8 = 0
	ChecksumCRC32  uint8 = 1
	ChecksumMD5    uint8 = 2
	ChecksumSHA1   uint8 = 3
	ChecksumCRC32C uint8 = 4
)

// DefaultFastCommitBlocks is the size in blocks of the fast-commit area when
// s_num_fc_blks is zero.
const DefaultFastCommitBlocks = 256

// MinJournalBlocks is the smallest number of blocks the ordinary log may have
// for a fast-commit area to be split off.
const MinJournalBlocks = 1024

// MaxUsers is the number of slots for file system UUIDs in the superblock of
// an external journal.
const MaxUsers = 48

const superChecksumOff = 0xfc

// Superblock is the journal's superblock (journal_superblock_t), 1024 bytes at
// the start of the journal's block 0. Every byte has a field, so decoding and
// encoding gives the same bytes back.
type Superblock struct {
	Type           BlockType          // h_blocktype: v1 or v2
	HeaderSequence uint32             // h_sequence; unused
	BlockSize      uint32             // s_blocksize: bytes
	MaxLen         uint32             // s_maxlen: blocks in the log, this one included
	First          uint32             // s_first: first block of log information
	Sequence       uint32             // s_sequence: first transaction expected in the log
	Start          uint32             // s_start: log block it starts at; 0: log is empty
	Errno          int32              // s_errno: error recorded by the last user, negative errno
	Features       Features           // zero for v1
	UUID           [16]byte           // s_uuid
	NrUsers        uint32             // s_nr_users: file systems that share the log
	DynSuper       uint32             // s_dynsuper: block of the dynamic copy
	MaxTransaction uint32             // s_max_transaction: blocks
	MaxTransData   uint32             // s_max_trans_data: blocks
	ChecksumType   uint8              // s_checksum_type
	Padding2       [3]byte            // s_padding2
	NumFCBlocks    uint32             // s_num_fc_blks: blocks of the fast-commit area, 0: default
	Head           uint32             // s_head: block after the last commit, valid only when Start is 0
	Padding        [160]byte          // s_padding
	Checksum       uint32             // s_checksum, as found
	Users          [MaxUsers][16]byte // s_users
}

// DecodeSuperblock reads the first 1024 bytes of p. It checks magic number and
// block type only; see VerifySuperblock and Superblock.Check. The error wraps
// ErrShort, ErrMagic or ErrType.
func DecodeSuperblock(p []byte) (*Superblock, error) {
	if len(p) < SuperblockBytes {
		return nil, fmt.Errorf("%w: superblock of %d bytes, want %d", ErrShort, len(p), SuperblockBytes)
	}
	h, err := DecodeHeader(p)
	if err != nil {
		return nil, err
	}
	if h.Type != TypeSuperblockV1 && h.Type != TypeSuperblockV2 {
		return nil, fmt.Errorf("%w: %v, want %v or %v", ErrType, h.Type, TypeSuperblockV1, TypeSuperblockV2)
	}
	be := binary.BigEndian
	s := &Superblock{
		Type: h.Type, HeaderSequence: h.Sequence,
		BlockSize: be.Uint32(p[0x0c:]), MaxLen: be.Uint32(p[0x10:]), First: be.Uint32(p[0x14:]),
		Sequence: be.Uint32(p[0x18:]), Start: be.Uint32(p[0x1c:]), Errno: int32(be.Uint32(p[0x20:])),
		Features: Features{
			Compat: be.Uint32(p[0x24:]), Incompat: be.Uint32(p[0x28:]), ROCompat: be.Uint32(p[0x2c:]),
		},
		NrUsers: be.Uint32(p[0x40:]), DynSuper: be.Uint32(p[0x44:]),
		MaxTransaction: be.Uint32(p[0x48:]), MaxTransData: be.Uint32(p[0x4c:]),
		ChecksumType: p[0x50], NumFCBlocks: be.Uint32(p[0x54:]), Head: be.Uint32(p[0x58:]),
		Checksum: be.Uint32(p[superChecksumOff:]),
	}
	copy(s.UUID[:], p[0x30:])
	copy(s.Padding2[:], p[0x51:])
	copy(s.Padding[:], p[0x5c:])
	for i := range s.Users {
		copy(s.Users[i][:], p[0x100+16*i:])
	}
	return s, nil
}

// Encode writes the superblock to the first 1024 bytes of p and leaves the
// rest alone. With checksum version 2 or 3 the checksum is computed, and s is
// updated with it; else the Checksum field is written as it is. The error
// wraps ErrShort.
func (s *Superblock) Encode(p []byte) error {
	if len(p) < SuperblockBytes {
		return fmt.Errorf("%w: superblock space of %d bytes, want %d", ErrShort, len(p), SuperblockBytes)
	}
	p = p[:SuperblockBytes]
	if err := EncodeHeader(p, Header{Type: s.Type, Sequence: s.HeaderSequence}); err != nil {
		return err
	}
	be := binary.BigEndian
	for i, v := range []uint32{
		s.BlockSize, s.MaxLen, s.First, s.Sequence, s.Start, uint32(s.Errno),
		s.Features.Compat, s.Features.Incompat, s.Features.ROCompat,
	} {
		be.PutUint32(p[0x0c+4*i:], v)
	}
	copy(p[0x30:], s.UUID[:])
	for i, v := range []uint32{s.NrUsers, s.DynSuper, s.MaxTransaction, s.MaxTransData} {
		be.PutUint32(p[0x40+4*i:], v)
	}
	p[0x50] = s.ChecksumType
	copy(p[0x51:], s.Padding2[:])
	be.PutUint32(p[0x54:], s.NumFCBlocks)
	be.PutUint32(p[0x58:], s.Head)
	copy(p[0x5c:], s.Padding[:])
	for i := range s.Users {
		copy(p[0x100+16*i:], s.Users[i][:])
	}
	if s.features().CsumV2or3() {
		s.Checksum = SuperblockChecksum(p)
	}
	be.PutUint32(p[superChecksumOff:], s.Checksum)
	return nil
}

// SuperblockChecksum is the crc32c of an encoded superblock with its checksum
// field taken as zero (jbd2_superblock_csum). p must hold at least
// SuperblockBytes bytes, else the result is 0.
func SuperblockChecksum(p []byte) uint32 {
	if len(p) < SuperblockBytes {
		return 0
	}
	return checksumWithHole(^uint32(0), p[:SuperblockBytes], superChecksumOff)
}

// VerifySuperblock checks the checksum of the encoded superblock p if its
// features say that it has one. The error wraps ErrChecksum or an error of
// DecodeSuperblock.
func VerifySuperblock(p []byte) error {
	s, err := DecodeSuperblock(p)
	if err != nil {
		return err
	}
	if !s.features().CsumV2or3() {
		return nil
	}
	if want := SuperblockChecksum(p); s.Checksum != want {
		return fmt.Errorf("%w: journal superblock %#08x, want %#08x", ErrChecksum, s.Checksum, want)
	}
	return nil
}

// features are the feature words that count: a v1 superblock has none.
func (s *Superblock) features() Features {
	if s.Type == TypeSuperblockV1 {
		return Features{}
	}
	return s.Features
}

// Format gives the layout of the log blocks. The error wraps ErrFormat or
// ErrFeature.
func (s *Superblock) Format() (Format, error) {
	if s.BlockSize > MaxBlockSize {
		return Format{}, fmt.Errorf("%w: s_blocksize %d, want at most %d", ErrFormat, s.BlockSize, MaxBlockSize)
	}
	return NewFormat(int(s.BlockSize), s.features(), s.UUID)
}

// LogEnd is the first log block after the ordinary log: blocks [First, LogEnd)
// hold transactions (j_last). It is MaxLen, less the fast-commit area if there
// is one.
func (s *Superblock) LogEnd() uint32 {
	if !s.features().FastCommit() {
		return s.MaxLen
	}
	n := s.FastCommitBlocks()
	if s.MaxLen < n || s.MaxLen-n < MinJournalBlocks {
		return s.MaxLen
	}
	return s.MaxLen - n
}

// FastCommitBlocks is the number of blocks reserved for fast commits: 0
// without the feature (jbd2_journal_get_num_fc_blks).
func (s *Superblock) FastCommitBlocks() uint32 {
	switch {
	case !s.features().FastCommit():
		return 0
	case s.NumFCBlocks == 0:
		return DefaultFastCommitBlocks
	}
	return s.NumFCBlocks
}

// Check tests the fields for use with a file system of blockSize bytes per
// block and a journal of logBlocks blocks (journal_check_superblock). The
// error wraps ErrFormat or ErrFeature and names what was found and wanted.
func (s *Superblock) Check(blockSize int, logBlocks uint32) error {
	if int64(s.BlockSize) != int64(blockSize) {
		return fmt.Errorf("%w: journal s_blocksize %d, want the file system's %d", ErrFormat, s.BlockSize, blockSize)
	}
	if _, err := s.Format(); err != nil {
		return err
	}
	if s.MaxLen > logBlocks {
		return fmt.Errorf("%w: journal s_maxlen %d, want at most the journal file's %d blocks", ErrFormat, s.MaxLen, logBlocks)
	}
	if s.First == 0 || s.First >= s.LogEnd() {
		return fmt.Errorf("%w: journal s_first %d, want one in [1, %d)", ErrFormat, s.First, s.LogEnd())
	}
	if s.Start != 0 && (s.Start < s.First || s.Start >= s.LogEnd()) {
		return fmt.Errorf("%w: journal s_start %d, want 0 or one in [%d, %d)", ErrFormat, s.Start, s.First, s.LogEnd())
	}
	if s.features().CsumV2or3() && s.ChecksumType != ChecksumCRC32C {
		return fmt.Errorf("%w: journal s_checksum_type %d, want %d", ErrFormat, s.ChecksumType, ChecksumCRC32C)
	}
	return nil
}
