package ondisk

import "hash/crc32"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC32C continues a raw crc32c, as the kernel's ext4_chksum does: no inversion before or after.
func CRC32C(seed uint32, p []byte) uint32 { return ^crc32.Update(^seed, castagnoli, p) }

// CRC32C32 continues a raw crc32c over v in little-endian order.
func CRC32C32(seed, v uint32) uint32 {
	b := [4]byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)}
	return CRC32C(seed, b[:])
}

var crc16Table = func() (t [256]uint16) {
	for i := range t {
		c := uint16(i)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xA001
			} else {
				c >>= 1
			}
		}
		t[i] = c
	}
	return t
}()

// CRC16 continues the CRC-16 (polynomial 0x8005, reflected) of uninit_bg group descriptors.
func CRC16(crc uint16, p []byte) uint16 {
	for _, b := range p {
		crc = crc>>8 ^ crc16Table[byte(crc)^b]
	}
	return crc
}
