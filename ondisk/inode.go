package ondisk

import "time"

// Inode flags, i_flags.
const (
	FlSync        = 0x8
	FlImmutable   = 0x10
	FlAppend      = 0x20
	FlNoDump      = 0x40
	FlNoAtime     = 0x80
	FlEncrypt     = 0x800
	FlIndex       = 0x1000
	FlJournal     = 0x4000
	FlDirSync     = 0x10000
	FlTopDir      = 0x20000
	FlHugeFile    = 0x40000
	FlExtents     = 0x80000
	FlVerity      = 0x100000
	FlEAInode     = 0x200000
	FlInlineData  = 0x10000000
	FlDax         = 0x2000000
	FlProjinherit = 0x20000000
	FlCasefold    = 0x40000000
	// FlInherited are passed from a directory to what is made in it.
	FlInherited = 0x1 | 0x2 | 0x4 | FlSync | FlNoDump | FlNoAtime | FlJournal | FlDirSync | FlProjinherit
	// FlUserVisible are shown to lsattr, FlUserModifiable may be changed by chattr, FlDirOnly of directories only (EXT4_FL_USER_VISIBLE,
	// EXT4_FL_USER_MODIFIABLE, EXT4_REG_FLMASK).
	FlUserVisible    = 0x725BDFFF
	FlUserModifiable = 0x624BC0FF
	FlDirOnly        = FlDirSync | FlTopDir | FlCasefold | FlProjinherit
)

// File types in i_mode.
const (
	ModeFmt  = 0xF000
	ModeFIFO = 0x1000
	ModeChr  = 0x2000
	ModeDir  = 0x4000
	ModeBlk  = 0x6000
	ModeReg  = 0x8000
	ModeLnk  = 0xA000
	ModeSock = 0xC000
)

// NBlocks is the number of block pointers in i_block: 12 direct, indirect, double, triple.
const (
	NDirect   = 12
	NBlocks   = 15
	BlockArea = 60 // bytes of i_block
	BlockOff  = 0x28
	LinkMax   = 65000
)

// Inode is a raw inode of s_inode_size bytes.
type Inode []byte

func (i Inode) Mode() uint16           { return le16(i, 0x0) }
func (i Inode) SetMode(v uint16)       { put16(i, 0x0, v) }
func (i Inode) UID() uint32            { return uint32(le16(i, 0x2)) | uint32(le16(i, 0x78))<<16 }
func (i Inode) SetUID(v uint32)        { put16(i, 0x2, uint16(v)); put16(i, 0x78, uint16(v>>16)) }
func (i Inode) GID() uint32            { return uint32(le16(i, 0x18)) | uint32(le16(i, 0x7A))<<16 }
func (i Inode) SetGID(v uint32)        { put16(i, 0x18, uint16(v)); put16(i, 0x7A, uint16(v>>16)) }
func (i Inode) Size() uint64           { return join32(le32(i, 0x4), le32(i, 0x6C)) }
func (i Inode) SetSize(v uint64)       { put32(i, 0x4, uint32(v)); put32(i, 0x6C, uint32(v>>32)) }
func (i Inode) Dtime() uint32          { return le32(i, 0x14) }
func (i Inode) SetDtime(v uint32)      { put32(i, 0x14, v) }
func (i Inode) Links() uint16          { return le16(i, 0x1A) }
func (i Inode) SetLinks(v uint16)      { put16(i, 0x1A, v) }
func (i Inode) Flags() uint32          { return le32(i, 0x20) }
func (i Inode) SetFlags(v uint32)      { put32(i, 0x20, v) }
func (i Inode) Version() uint32        { return le32(i, 0x24) }
func (i Inode) SetVersion(v uint32)    { put32(i, 0x24, v) }
func (i Inode) Generation() uint32     { return le32(i, 0x64) }
func (i Inode) SetGeneration(v uint32) { put32(i, 0x64, v) }

// Block is i_block: 60 bytes of block map, extent tree root, inline data or symlink target.
func (i Inode) Block() []byte { return i[BlockOff : BlockOff+BlockArea] }

// BlockPtr is the nth pointer of an indirect-mapped inode.
func (i Inode) BlockPtr(n int) uint32 { return le32(i, BlockOff+4*n) }

// SetBlockPtr sets the nth pointer.
func (i Inode) SetBlockPtr(n int, v uint32) { put32(i, BlockOff+4*n, v) }

// FileACL is the block with external attributes, 0 for none.
func (i Inode) FileACL() uint64 { return uint64(le32(i, 0x68)) | uint64(le16(i, 0x76))<<32 }

// SetFileACL sets it.
func (i Inode) SetFileACL(v uint64) { put32(i, 0x68, uint32(v)); put16(i, 0x76, uint16(v>>32)) }

// Has tests flag bits.
func (i Inode) Has(bits uint32) bool { return i.Flags()&bits != 0 }

// IsDir, IsReg and IsLnk test the file type.
func (i Inode) IsDir() bool { return i.Mode()&ModeFmt == ModeDir }
func (i Inode) IsReg() bool { return i.Mode()&ModeFmt == ModeReg }
func (i Inode) IsLnk() bool { return i.Mode()&ModeFmt == ModeLnk }

// Sectors is i_blocks in 512-byte units, honouring huge_file; bs is the block size in bytes.
func (i Inode) Sectors(huge bool, bs int) uint64 {
	lo := uint64(le32(i, 0x1C))
	if !huge {
		return lo
	}
	v := lo | uint64(le16(i, 0x74))<<32
	if i.Has(FlHugeFile) {
		return v * uint64(bs/512)
	}
	return v
}

// SetSectors stores i_blocks; counts beyond 2^48 sectors use blocks (FlHugeFile). False when the value does not fit.
func (i Inode) SetSectors(v uint64, huge bool, bs int) bool {
	i.SetFlags(i.Flags() &^ FlHugeFile)
	if v>>32 == 0 {
		put32(i, 0x1C, uint32(v))
		if huge {
			put16(i, 0x74, 0)
		}
		return true
	}
	if !huge {
		return false
	}
	if v>>48 != 0 {
		i.SetFlags(i.Flags() | FlHugeFile)
		v /= uint64(bs / 512)
	}
	put32(i, 0x1C, uint32(v))
	put16(i, 0x74, uint16(v>>32))
	return v>>48 == 0
}

// ExtraIsize is the used length beyond 128 bytes, 0 in small inodes.
func (i Inode) ExtraIsize() int {
	if len(i) <= GoodOldInode {
		return 0
	}
	return int(le16(i, 0x80))
}

// SetExtraIsize sets it.
func (i Inode) SetExtraIsize(v int) {
	if len(i) > GoodOldInode {
		put16(i, 0x80, uint16(v))
	}
}

// fits says whether an extra field that ends at off is within i_extra_isize.
func (i Inode) fits(end int) bool { return len(i) >= end && GoodOldInode+i.ExtraIsize() >= end }

// TimeField is the offset of a time's seconds and of its extra word.
type TimeField struct{ sec, extra int }

// The four times of an inode.
var (
	Atime  = TimeField{0x8, 0x8C}
	Ctime  = TimeField{0xC, 0x84}
	Mtime  = TimeField{0x10, 0x88}
	Crtime = TimeField{0x90, 0x94}
)

// Time reads a time with nanoseconds and the two epoch bits (years 1901 to 2446).
func (i Inode) Time(f TimeField) time.Time {
	if f.sec >= GoodOldInode && !i.fits(f.sec+4) {
		return time.Time{}
	}
	sec := int64(int32(le32(i, f.sec)))
	if !i.fits(f.extra + 4) {
		return time.Unix(sec, 0)
	}
	x := le32(i, f.extra)
	sec += int64(x&3) << 32
	return time.Unix(sec, int64(x>>2))
}

// SetTime stores a time, clamped to what the inode can hold.
func (i Inode) SetTime(f TimeField, t time.Time) {
	if f.sec >= GoodOldInode && !i.fits(f.sec+4) {
		return
	}
	const min, maxSmall, maxExtra = -1 << 31, 1<<31 - 1, 1<<34 - 1<<31 - 1
	sec := max(t.Unix(), min)
	if !i.fits(f.extra + 4) {
		put32(i, f.sec, uint32(int32(minInt64(sec, maxSmall))))
		return
	}
	sec = minInt64(sec, maxExtra)
	put32(i, f.sec, uint32(sec))
	epoch := uint32((sec-int64(int32(sec)))>>32) & 3
	put32(i, f.extra, uint32(t.Nanosecond())<<2|epoch)
}

func minInt64(a, b int64) int64 {
	if a < b {
		return a
	}
	return b
}

// ProjectID is i_projid, 0 when the inode has no room for it.
func (i Inode) ProjectID() uint32 {
	if i.fits(0xA0) {
		return le32(i, 0x9C)
	}
	return 0
}

// Checksum computes the inode checksum (ext4_inode_csum): seed, inode number, generation, then all bytes with both checksum
// fields zero.
func (i Inode) Checksum(seed, ino uint32) uint32 {
	c := CRC32C32(seed, ino)
	c = CRC32C32(c, i.Generation())
	c = CRC32C(c, i[:0x7C])
	c = CRC32C(c, []byte{0, 0})
	c = CRC32C(c, i[0x7E:GoodOldInode])
	if len(i) <= GoodOldInode {
		return c
	}
	if i.fits(0x84) {
		c = CRC32C(c, i[GoodOldInode:0x82])
		c = CRC32C(c, []byte{0, 0})
		return CRC32C(c, i[0x84:])
	}
	return CRC32C(c, i[GoodOldInode:])
}

// StoredChecksum is the stored checksum and the mask of bits that the inode can store.
func (i Inode) StoredChecksum() (sum, mask uint32) {
	sum = uint32(le16(i, 0x7C))
	if i.fits(0x84) {
		return sum | uint32(le16(i, 0x82))<<16, ^uint32(0)
	}
	return sum, 0xFFFF
}

// UpdateChecksum stores the checksum.
func (i Inode) UpdateChecksum(seed, ino uint32) {
	c := i.Checksum(seed, ino)
	put16(i, 0x7C, uint16(c))
	if i.fits(0x84) {
		put16(i, 0x82, uint16(c>>16))
	}
}

// VerifyChecksum returns a CorruptError naming ino when the stored checksum is wrong.
func (i Inode) VerifyChecksum(seed, ino uint32) error {
	want, mask := i.StoredChecksum()
	if got := i.Checksum(seed, ino) & mask; got != want {
		return BadChecksum(inodeName(ino), "inode", got, want)
	}
	return nil
}

// Rdev is the device number of a device node in the kernel's new encoding (or old), as major and minor.
func (i Inode) Rdev() (major, minor uint32) {
	if old := i.BlockPtr(0); old != 0 {
		return old >> 8 & 0xFF, old & 0xFF
	}
	d := i.BlockPtr(1)
	return d >> 8 & 0xFFF, d&0xFF | d>>12&0xFFF00
}

// SetRdev stores a device number: old encoding when both parts fit in a byte.
func (i Inode) SetRdev(major, minor uint32) {
	if major < 256 && minor < 256 {
		i.SetBlockPtr(0, major<<8|minor)
		i.SetBlockPtr(1, 0)
		return
	}
	i.SetBlockPtr(0, 0)
	i.SetBlockPtr(1, minor&0xFF|major<<8|(minor&^0xFF)<<12)
	i.SetBlockPtr(2, 0)
}

func inodeName(ino uint32) string { return "inode " + utoa(uint64(ino)) }

func utoa(v uint64) string {
	var b [20]byte
	n := len(b)
	for {
		n--
		b[n] = byte('0' + v%10)
		if v /= 10; v == 0 {
			return string(b[n:])
		}
	}
}
