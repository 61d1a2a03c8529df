package jbd2

import (
	"encoding/binary"
	"fmt"
)

// ChecksumCRC32Size is h_chksum_size of a version 1 checksum: 4 bytes.
const ChecksumCRC32Size uint8 = 4

// Commit is the record that closes a transaction (struct commit_header).
type Commit struct {
	Sequence     uint32    // h_sequence: transaction number
	ChecksumType uint8     // h_chksum_type: ChecksumCRC32 for version 1, else 0
	ChecksumSize uint8     // h_chksum_size: bytes
	Checksum     [8]uint32 // h_chksum; word 0: crc32 (version 1) or crc32c of the block
	Sec          uint64    // h_commit_sec: seconds since 1970
	Nsec         uint32    // h_commit_nsec: nanoseconds
}

// DecodeCommit reads a commit block. The checksum is not checked, see
// VerifyCommit. The error wraps ErrShort, ErrMagic or ErrType.
func (f Format) DecodeCommit(p []byte) (Commit, error) {
	if err := f.checkLen(p); err != nil {
		return Commit{}, err
	}
	h, err := decodeTyped(p, TypeCommit)
	if err != nil {
		return Commit{}, err
	}
	c := Commit{
		Sequence: h.Sequence, ChecksumType: p[12], ChecksumSize: p[13],
		Sec: binary.BigEndian.Uint64(p[48:]), Nsec: binary.BigEndian.Uint32(p[56:]),
	}
	for i := range c.Checksum {
		c.Checksum[i] = binary.BigEndian.Uint32(p[commitChksumOff+4*i:])
	}
	return c, nil
}

// EncodeCommit writes c to the block p, which is cleared first. With checksum
// version 2 or 3 word 0 of the checksum is computed over the block
// (jbd2_commit_block_csum_set) whatever c says; for version 1 the caller sets
// it with SetV1. The error wraps ErrShort.
func (f Format) EncodeCommit(p []byte, c Commit) error {
	if err := f.checkLen(p); err != nil {
		return err
	}
	clear(p)
	if err := EncodeHeader(p, Header{Type: TypeCommit, Sequence: c.Sequence}); err != nil {
		return err
	}
	p[12], p[13] = c.ChecksumType, c.ChecksumSize
	for i, v := range c.Checksum {
		binary.BigEndian.PutUint32(p[commitChksumOff+4*i:], v)
	}
	binary.BigEndian.PutUint64(p[48:], c.Sec)
	binary.BigEndian.PutUint32(p[56:], c.Nsec)
	if f.Features.CsumV2or3() {
		sum := checksumWithHole(f.Seed, p, commitChksumOff)
		binary.BigEndian.PutUint32(p[commitChksumOff:], sum)
	}
	return nil
}

// SetV1 puts a version 1 checksum into c: the CRC32BE, from CRC32BEInit, of
// all descriptor and data blocks of the transaction in log order.
func (c *Commit) SetV1(sum uint32) {
	c.ChecksumType, c.ChecksumSize = ChecksumCRC32, ChecksumCRC32Size
	c.Checksum[0] = sum
}

// V1Matches says whether c carries the version 1 checksum sum, or none at all,
// which is accepted too.
func (c *Commit) V1Matches(sum uint32) bool {
	if c.ChecksumType == ChecksumNone && c.ChecksumSize == 0 && c.Checksum[0] == 0 {
		return true
	}
	return c.ChecksumType == ChecksumCRC32 && c.ChecksumSize == ChecksumCRC32Size && c.Checksum[0] == sum
}

// VerifyCommit checks the crc32c of a commit block
// (jbd2_commit_block_csum_verify). Without checksum version 2 or 3 it accepts
// every block. A block of which only the record itself reached the disk, the
// rest being stale, is accepted as the kernel does
// (jbd2_commit_block_csum_verify_partial). The error wraps ErrShort or
// ErrChecksum.
func (f Format) VerifyCommit(p []byte) error {
	if err := f.checkLen(p); err != nil {
		return err
	}
	if !f.Features.CsumV2or3() {
		return nil
	}
	found := binary.BigEndian.Uint32(p[commitChksumOff:])
	want := checksumWithHole(f.Seed, p, commitChksumOff)
	if found == want {
		return nil
	}
	q := make([]byte, len(p))
	copy(q, p[:commitHeaderBytes])
	if found == checksumWithHole(f.Seed, q, commitChksumOff) {
		return nil
	}
	return fmt.Errorf("%w: commit block %#08x, want %#08x", ErrChecksum, found, want)
}
