package ondisk

// Group descriptor flags.
const (
	BGInodeUninit = 1
	BGBlockUninit = 2
	BGInodeZeroed = 4
)

// GroupDesc is a block group descriptor of 32 or 64 bytes and more (s_desc_size).
type GroupDesc []byte

func (g GroupDesc) wide(lo, hi int) uint64 {
	if len(g) >= 64 {
		return join32(le32(g, lo), le32(g, hi))
	}
	return uint64(le32(g, lo))
}

func (g GroupDesc) wide16(lo, hi int) uint32 {
	v := uint32(le16(g, lo))
	if len(g) >= 64 {
		v |= uint32(le16(g, hi)) << 16
	}
	return v
}

func (g GroupDesc) put16(lo, hi int, v uint32) {
	put16(g, lo, uint16(v))
	if len(g) >= 64 {
		put16(g, hi, uint16(v>>16))
	}
}

func (g GroupDesc) BlockBitmap() uint64      { return g.wide(0x0, 0x20) }
func (g GroupDesc) InodeBitmap() uint64      { return g.wide(0x4, 0x24) }
func (g GroupDesc) InodeTable() uint64       { return g.wide(0x8, 0x28) }
func (g GroupDesc) FreeBlocks() uint32       { return g.wide16(0xC, 0x2C) }
func (g GroupDesc) SetFreeBlocks(v uint32)   { g.put16(0xC, 0x2C, v) }
func (g GroupDesc) FreeInodes() uint32       { return g.wide16(0xE, 0x2E) }
func (g GroupDesc) SetFreeInodes(v uint32)   { g.put16(0xE, 0x2E, v) }
func (g GroupDesc) UsedDirs() uint32         { return g.wide16(0x10, 0x30) }
func (g GroupDesc) SetUsedDirs(v uint32)     { g.put16(0x10, 0x30, v) }
func (g GroupDesc) Flags() uint16            { return le16(g, 0x12) }
func (g GroupDesc) SetFlags(v uint16)        { put16(g, 0x12, v) }
func (g GroupDesc) ItableUnused() uint32     { return g.wide16(0x1C, 0x32) }
func (g GroupDesc) SetItableUnused(v uint32) { g.put16(0x1C, 0x32, v) }

// BlockBitmapCsum is the stored checksum of the block bitmap, 16 bits wide in 32-byte descriptors.
func (g GroupDesc) BlockBitmapCsum() uint32 { return g.wide16(0x18, 0x38) }

// SetBlockBitmapCsum stores the checksum of the block bitmap.
func (g GroupDesc) SetBlockBitmapCsum(v uint32) { g.put16(0x18, 0x38, v) }

// InodeBitmapCsum is the stored checksum of the inode bitmap.
func (g GroupDesc) InodeBitmapCsum() uint32 { return g.wide16(0x1A, 0x3A) }

// SetInodeBitmapCsum stores the checksum of the inode bitmap.
func (g GroupDesc) SetInodeBitmapCsum(v uint32) { g.put16(0x1A, 0x3A, v) }

// BitmapCsumMask is what a descriptor of this size can store of a bitmap checksum.
func (g GroupDesc) BitmapCsumMask() uint32 {
	if len(g) >= 64 {
		return ^uint32(0)
	}
	return 0xFFFF
}

// StoredChecksum is bg_checksum.
func (g GroupDesc) StoredChecksum() uint16 { return le16(g, 0x1E) }

// Checksum computes bg_checksum of group: the low half of a crc32c with metadata_csum, a CRC-16 over UUID, group and descriptor
// with uninit_bg, 0 with neither (ext4_group_desc_csum).
func (g GroupDesc) Checksum(s Super, seed uint32, group uint32) uint16 {
	if s.HasMetadataCsum() {
		c := CRC32C32(seed, group)
		c = CRC32C(c, g[:0x1E])
		c = CRC32C(c, []byte{0, 0})
		if len(g) > 0x20 {
			c = CRC32C(c, g[0x20:])
		}
		return uint16(c)
	}
	if !s.ROCompat(ROCompatGdtCsum) {
		return 0
	}
	uuid := s.UUID()
	c := CRC16(^uint16(0), uuid[:])
	c = CRC16(c, []byte{byte(group), byte(group >> 8), byte(group >> 16), byte(group >> 24)})
	c = CRC16(c, g[:0x1E])
	if s.Is64Bit() && len(g) > 0x20 {
		c = CRC16(c, g[0x20:])
	}
	return c
}

// UpdateChecksum stores bg_checksum.
func (g GroupDesc) UpdateChecksum(s Super, seed uint32, group uint32) {
	put16(g, 0x1E, g.Checksum(s, seed, group))
}
