package ondisk

import "math/bits"

// Superblock layout and limits.
const (
	SuperOffset = 1024 // bytes from the start of the device
	SuperSize   = 1024
	SuperMagic  = 0xEF53

	RootIno    = 2
	JournalIno = 8
	// GoodOldFirstIno is the first inode for files in revision 0.
	GoodOldFirstIno = 11
	GoodOldInode    = 128
	MinBlock        = 1024
	MaxBlock        = 65536
)

// Compatible features.
const (
	CompatDirPrealloc  = 0x1
	CompatHasJournal   = 0x4
	CompatExtAttr      = 0x8
	CompatResizeInode  = 0x10
	CompatDirIndex     = 0x20
	CompatSparseSuper2 = 0x200
	CompatFastCommit   = 0x400
	CompatStableInodes = 0x800
	CompatOrphanFile   = 0x1000
)

// Incompatible features.
const (
	IncompatCompression = 0x1
	IncompatFiletype    = 0x2
	IncompatRecover     = 0x4
	IncompatJournalDev  = 0x8
	IncompatMetaBG      = 0x10
	IncompatExtents     = 0x40
	Incompat64Bit       = 0x80
	IncompatMMP         = 0x100
	IncompatFlexBG      = 0x200
	IncompatEAInode     = 0x400
	IncompatDirdata     = 0x1000
	IncompatCsumSeed    = 0x2000
	IncompatLargedir    = 0x4000
	IncompatInlineData  = 0x8000
	IncompatEncrypt     = 0x10000
	IncompatCasefold    = 0x20000
)

// Read-only-compatible features.
const (
	ROCompatSparseSuper   = 0x1
	ROCompatLargeFile     = 0x2
	ROCompatBtreeDir      = 0x4
	ROCompatHugeFile      = 0x8
	ROCompatGdtCsum       = 0x10
	ROCompatDirNlink      = 0x20
	ROCompatExtraIsize    = 0x40
	ROCompatQuota         = 0x100
	ROCompatBigalloc      = 0x200
	ROCompatMetadataCsum  = 0x400
	ROCompatReadonly      = 0x1000
	ROCompatProject       = 0x2000
	ROCompatVerity        = 0x8000
	ROCompatOrphanPresent = 0x10000
)

// What s_default_mount_opts says of data=: DefmJournalMask selects it, DefmJournalData is data=journal.
const (
	DefmJournalMask = 0x60
	DefmJournalData = 0x20
)

// State bits of s_state.
const (
	StateValid  = 1 // cleanly unmounted
	StateError  = 2
	StateOrphan = 4
)

// Behaviour on error, s_errors.
const (
	ErrorsContinue = 1
	ErrorsRO       = 2
	ErrorsPanic    = 3
)

// Flags of s_flags: which signedness the directory hash uses.
const (
	FlagSignedHash   = 1
	FlagUnsignedHash = 2
)

// Super is the superblock, 1024 bytes.
type Super []byte

// NewSuper checks the magic number and the checksum of b.
func NewSuper(b []byte) (Super, error) {
	if len(b) < SuperSize {
		return nil, Corrupt("superblock", "%d bytes, want %d", len(b), SuperSize)
	}
	s := Super(b[:SuperSize])
	if m := s.Magic(); m != SuperMagic {
		return nil, Corrupt("superblock", "magic number 0x%04x, want 0x%04x: not an ext2, ext3 or ext4 file system", m, SuperMagic)
	}
	if s.HasMetadataCsum() {
		if t := s[0x175]; t != 1 {
			return nil, Corrupt("superblock", "checksum type %d, want 1 (crc32c)", t)
		}
		if got, want := s.Checksum(), le32(s, 0x3FC); got != want {
			return nil, BadChecksum("superblock", "s_checksum", got, want)
		}
	}
	return s, nil
}

// Checksum computes s_checksum: crc32c of all bytes before it.
func (s Super) Checksum() uint32 { return CRC32C(^uint32(0), s[:0x3FC]) }

// UpdateChecksum stores s_checksum when metadata_csum is on.
func (s Super) UpdateChecksum() {
	if s.HasMetadataCsum() {
		put32(s, 0x3FC, s.Checksum())
	}
}

func (s Super) InodesCount() uint32      { return le32(s, 0x0) }
func (s Super) FreeInodes() uint32       { return le32(s, 0x10) }
func (s Super) SetFreeInodes(v uint32)   { put32(s, 0x10, v) }
func (s Super) FirstDataBlock() uint32   { return le32(s, 0x14) }
func (s Super) LogBlockSize() uint32     { return le32(s, 0x18) }
func (s Super) LogClusterSize() uint32   { return le32(s, 0x1C) }
func (s Super) BlocksPerGroup() uint32   { return le32(s, 0x20) }
func (s Super) ClustersPerGroup() uint32 { return le32(s, 0x24) }
func (s Super) InodesPerGroup() uint32   { return le32(s, 0x28) }
func (s Super) SetMtime(sec int64)       { put32(s, 0x2C, uint32(sec)); s[0x275] = byte(sec >> 32) }
func (s Super) SetWtime(sec int64)       { put32(s, 0x30, uint32(sec)); s[0x274] = byte(sec >> 32) }
func (s Super) MntCount() uint16         { return le16(s, 0x34) }
func (s Super) SetMntCount(v uint16)     { put16(s, 0x34, v) }
func (s Super) Magic() uint16            { return le16(s, 0x38) }
func (s Super) State() uint16            { return le16(s, 0x3A) }
func (s Super) SetState(v uint16)        { put16(s, 0x3A, v) }
func (s Super) Errors() uint16           { return le16(s, 0x3C) }
func (s Super) RevLevel() uint32         { return le32(s, 0x4C) }
func (s Super) FirstIno() uint32 {
	if s.RevLevel() == 0 {
		return GoodOldFirstIno
	}
	return le32(s, 0x54)
}
func (s Super) InodeSize() int {
	if s.RevLevel() == 0 {
		return GoodOldInode
	}
	return int(le16(s, 0x58))
}
func (s Super) FeatureCompat() uint32       { return le32(s, 0x5C) }
func (s Super) SetFeatureCompat(v uint32)   { put32(s, 0x5C, v) }
func (s Super) FeatureIncompat() uint32     { return le32(s, 0x60) }
func (s Super) SetFeatureIncompat(v uint32) { put32(s, 0x60, v) }
func (s Super) FeatureROCompat() uint32     { return le32(s, 0x64) }
func (s Super) SetFeatureROCompat(v uint32) { put32(s, 0x64, v) }
func (s Super) UUID() [16]byte              { return [16]byte(s[0x68:0x78]) }
func (s Super) VolumeName() string          { return cstr(s[0x78:0x88]) }
func (s Super) SetLastMounted(p string) {
	clear(s[0x88:0xC8])
	copy(s[0x88:0xC7], p)
}
func (s Super) ReservedGdtBlocks() uint16 { return le16(s, 0xCE) }
func (s Super) JournalUUID() [16]byte     { return [16]byte(s[0xD0:0xE0]) }
func (s Super) JournalInum() uint32       { return le32(s, 0xE0) }
func (s Super) JournalDev() uint32        { return le32(s, 0xE4) }
func (s Super) LastOrphan() uint32        { return le32(s, 0xE8) }
func (s Super) SetLastOrphan(v uint32)    { put32(s, 0xE8, v) }
func (s Super) HashSeed() [4]uint32 {
	return [4]uint32{le32(s, 0xEC), le32(s, 0xF0), le32(s, 0xF4), le32(s, 0xF8)}
}
func (s Super) DefHashVersion() uint8     { return s[0xFC] }
func (s Super) rawDescSize() uint16       { return le16(s, 0xFE) }
func (s Super) DefaultMountOpts() uint32  { return le32(s, 0x100) }
func (s Super) FirstMetaBG() uint32       { return le32(s, 0x104) }
func (s Super) MinExtraIsize() uint16     { return le16(s, 0x15C) }
func (s Super) WantExtraIsize() uint16    { return le16(s, 0x15E) }
func (s Super) Flags() uint32             { return le32(s, 0x160) }
func (s Super) SetFlags(v uint32)         { put32(s, 0x160, v) }
func (s Super) LogGroupsPerFlex() uint8   { return s[0x174] }
func (s Super) KbytesWritten() uint64     { return le64(s, 0x178) }
func (s Super) SetKbytesWritten(v uint64) { put64(s, 0x178, v) }
func (s Super) ErrorCount() uint32        { return le32(s, 0x194) }
func (s Super) BackupBGs() [2]uint32      { return [2]uint32{le32(s, 0x24C), le32(s, 0x250)} }
func (s Super) OrphanFileIno() uint32     { return le32(s, 0x280) }

// BlockSize is in bytes; 0 when s_log_block_size is beyond 64 KiB blocks.
func (s Super) BlockSize() int {
	if l := s.LogBlockSize(); l <= 6 {
		return 1024 << l
	}
	return 0
}

// BlocksCount is the size of the file system in blocks.
func (s Super) BlocksCount() uint64 { return s.wide(0x4, 0x150) }

// ReservedBlocks are kept for root.
func (s Super) ReservedBlocks() uint64 { return s.wide(0x8, 0x154) }

// FreeBlocks is s_free_blocks_count.
func (s Super) FreeBlocks() uint64 { return s.wide(0xC, 0x158) }

// SetFreeBlocks sets s_free_blocks_count.
func (s Super) SetFreeBlocks(v uint64) {
	put32(s, 0xC, uint32(v))
	if s.Is64Bit() {
		put32(s, 0x158, uint32(v>>32))
	}
}

// OverheadBlocks is s_overhead_clusters, 0 when mkfs did not fill it in.
func (s Super) OverheadBlocks() uint32 { return le32(s, 0x248) }

func (s Super) wide(lo, hi int) uint64 {
	if s.Is64Bit() {
		return join32(le32(s, lo), le32(s, hi))
	}
	return uint64(le32(s, lo))
}

// DescSize is the length of a group descriptor in bytes: 32, or s_desc_size with 64bit.
func (s Super) DescSize() int {
	if s.Is64Bit() {
		return int(s.rawDescSize())
	}
	return 32
}

// Compat, Incompat and ROCompat test feature bits.
func (s Super) Compat(bit uint32) bool   { return s.FeatureCompat()&bit != 0 }
func (s Super) Incompat(bit uint32) bool { return s.FeatureIncompat()&bit != 0 }
func (s Super) ROCompat(bit uint32) bool { return s.FeatureROCompat()&bit != 0 }

func (s Super) Is64Bit() bool         { return s.Incompat(Incompat64Bit) }
func (s Super) HasMetadataCsum() bool { return s.ROCompat(ROCompatMetadataCsum) }
func (s Super) HasInlineData() bool   { return s.Incompat(IncompatInlineData) }

// CsumSeed is the seed of every metadata checksum: s_checksum_seed with metadata_csum_seed, else crc32c of the UUID.
func (s Super) CsumSeed() uint32 {
	if s.Incompat(IncompatCsumSeed) {
		return le32(s, 0x270)
	}
	return CRC32C(^uint32(0), s[0x68:0x78])
}

// CopyErrors takes over the record of errors, which lies between s_error_count and s_mount_opts, from another copy of the superblock.
func (s Super) CopyErrors(from Super) {
	copy(s[0x194:0x200], from[0x194:0x200])
	copy(s[0x278:0x27C], from[0x278:0x27C])
}

// RecordError fills the error fields as save_error_info does; the first error ever stays. Times are Unix seconds.
func (s Super) RecordError(sec int64, ino uint32, block uint64, fn string, line uint32, code uint8) {
	at := []int{0x1CC}
	if s.ErrorCount() == 0 {
		at = []int{0x198, 0x1CC}
	}
	for _, o := range at {
		// First error: time, ino, block, func, line. Last error: time, ino, line, block, func.
		put32(s, o, uint32(sec))
		put32(s, o+4, ino)
		if o == 0x198 {
			put64(s, 0x1A0, block)
			putStr(s[0x1A8:0x1C8], fn)
			put32(s, 0x1C8, line)
			s[0x278], s[0x27A] = byte(sec>>32), code
		} else {
			put32(s, 0x1D4, line)
			put64(s, 0x1D8, block)
			putStr(s[0x1E0:0x200], fn)
			s[0x279], s[0x27B] = byte(sec>>32), code
		}
	}
	put32(s, 0x194, s.ErrorCount()+1)
}

func putStr(dst []byte, v string) {
	clear(dst)
	copy(dst, v)
}

func cstr(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// IsPowerOfTwo says whether v is one.
func IsPowerOfTwo(v int) bool { return v > 0 && bits.OnesCount(uint(v)) == 1 }
