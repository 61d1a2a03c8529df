package jbd2

import (
	"encoding/binary"
	"hash/crc32"
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	beTable    = makeBETable()
)

// CRC32C continues a crc32c over p from seed in the form the kernel uses:
// without an inversion before or after.
func CRC32C(seed uint32, p []byte) uint32 {
	return ^crc32.Update(^seed, castagnoli, p)
}

// makeBETable builds the byte table of the bit-reversed IEEE polynomial as
// crc32_be needs it: most significant bit first.
func makeBETable() *[256]uint32 {
	const poly = 0x04c11db7
	var t [256]uint32
	for i := range t {
		c := uint32(i) << 24
		for range 8 {
			if c&(1<<31) != 0 {
				c = c<<1 ^ poly
			} else {
				c <<= 1
			}
		}
		t[i] = c
	}
	return &t
}

// CRC32BE continues the big-endian crc32 of checksum version 1 over p, without
// inversions (crc32_be). A transaction starts with the seed CRC32BEInit.
func CRC32BE(seed uint32, p []byte) uint32 {
	for _, b := range p {
		seed = seed<<8 ^ beTable[byte(seed>>24)^b]
	}
	return seed
}

// CRC32BEInit is the start value of a transaction's version 1 checksum.
const CRC32BEInit = ^uint32(0)

// Seed is the start value of all version 2 and 3 checksums but the
// superblock's: the crc32c of the journal's UUID.
func Seed(uuid [16]byte) uint32 { return CRC32C(^uint32(0), uuid[:]) }

// DataChecksum is the crc32c of one data block as it stands in the log (that
// is, after escaping) in the transaction seq (jbd2_block_tag_csum_set).
func DataChecksum(seed, seq uint32, data []byte) uint32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], seq)
	return CRC32C(CRC32C(seed, b[:]), data)
}

// checksumWithHole is the crc32c of p with the four bytes at off taken as zero.
func checksumWithHole(seed uint32, p []byte, off int) uint32 {
	var zero [4]byte
	c := CRC32C(seed, p[:off])
	c = CRC32C(c, zero[:])
	return CRC32C(c, p[off+4:])
}
