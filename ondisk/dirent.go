package ondisk

// Directory entry layout.
const (
	DirentHead = 8
	MaxName    = 255
	// DirTailSize is the length of the checksum tail of a linear directory block.
	DirTailSize = 12
	dirTailType = 0xDE
)

// File types in directory entries.
const (
	FtUnknown = 0
	FtReg     = 1
	FtDir     = 2
	FtChr     = 3
	FtBlk     = 4
	FtFIFO    = 5
	FtSock    = 6
	FtLnk     = 7
)

// FtOfMode is the directory entry type of an i_mode.
func FtOfMode(mode uint16) uint8 {
	switch mode & ModeFmt {
	case ModeReg:
		return FtReg
	case ModeDir:
		return FtDir
	case ModeChr:
		return FtChr
	case ModeBlk:
		return FtBlk
	case ModeFIFO:
		return FtFIFO
	case ModeSock:
		return FtSock
	case ModeLnk:
		return FtLnk
	}
	return FtUnknown
}

// ModeOfFt is the file type bits of a directory entry type, 0 for unknown.
func ModeOfFt(ft uint8) uint32 {
	switch ft {
	case FtReg:
		return ModeReg
	case FtDir:
		return ModeDir
	case FtChr:
		return ModeChr
	case FtBlk:
		return ModeBlk
	case FtFIFO:
		return ModeFIFO
	case FtSock:
		return ModeSock
	case FtLnk:
		return ModeLnk
	}
	return 0
}

// Dirent is a view of one entry and of the bytes after it in its area.
type Dirent []byte

func (d Dirent) Ino() uint32      { return le32(d, 0) }
func (d Dirent) SetIno(v uint32)  { put32(d, 0, v) }
func (d Dirent) NameLen() int     { return int(d[6]) }
func (d Dirent) SetNameLen(v int) { d[6] = byte(v) }
func (d Dirent) Type() uint8      { return d[7] }
func (d Dirent) SetType(v uint8)  { d[7] = v }
func (d Dirent) Name() []byte     { return d[DirentHead : DirentHead+d.NameLen()] }

// RecLen is the distance to the next entry in bytes; 0 and 65535 stand for a whole 64 KiB block.
func (d Dirent) RecLen() int {
	l := int(le16(d, 4))
	if l == 0 || l == 65535 {
		return 65536
	}
	return l
}

// SetRecLen sets the distance to the next entry.
func (d Dirent) SetRecLen(v int) {
	if v == 65536 {
		v = 65535
	}
	put16(d, 4, uint16(v))
}

// DirentLen is the shortest entry for a name of n bytes, a multiple of 4.
func DirentLen(n int) int { return (DirentHead + n + 3) &^ 3 }

// CheckDirent validates the entry at off of area; the inode number must not be beyond inodes.
func CheckDirent(where string, area []byte, off int, inodes uint32) (Dirent, error) {
	if off+DirentHead > len(area) {
		return nil, Corrupt(where, "directory entry at byte %d: beyond the area of %d bytes", off, len(area))
	}
	d := Dirent(area[off:])
	l := d.RecLen()
	switch {
	case l < DirentLen(1) && off+l != len(area), l < DirentHead:
		return nil, Corrupt(where, "directory entry at byte %d: rec_len %d is smaller than minimal", off, l)
	case l%4 != 0:
		return nil, Corrupt(where, "directory entry at byte %d: rec_len %d is not a multiple of 4", off, l)
	case off+l > len(area):
		return nil, Corrupt(where, "directory entry at byte %d: rec_len %d overruns the area of %d bytes", off, l, len(area))
	case DirentLen(d.NameLen()) > l && d.NameLen() > 0:
		return nil, Corrupt(where, "directory entry at byte %d: name of %d bytes does not fit rec_len %d", off, d.NameLen(), l)
	case d.Ino() > inodes:
		return nil, Corrupt(where, "directory entry at byte %d: inode %d, want at most %d", off, d.Ino(), inodes)
	}
	return d, nil
}

// DirTail returns the offset of the checksum tail of a linear directory block and whether it is there.
func DirTail(b []byte) (int, bool) {
	t := len(b) - DirTailSize
	ok := t > 0 && le32(b, t) == 0 && le16(b, t+4) == DirTailSize && b[t+6] == 0 && b[t+7] == dirTailType
	return t, ok
}

// InitDirTail writes an empty checksum tail.
func InitDirTail(b []byte) {
	t := len(b) - DirTailSize
	clear(b[t:])
	put16(b, t+4, DirTailSize)
	b[t+7] = dirTailType
}

// UpdateDirChecksum stores the checksum of a linear block, if it has a tail.
func UpdateDirChecksum(b []byte, iseed uint32) {
	if t, ok := DirTail(b); ok {
		put32(b, t+8, CRC32C(iseed, b[:t]))
	}
}

// VerifyDirChecksum verifies a linear block.
func VerifyDirChecksum(where string, b []byte, iseed uint32) error {
	t, ok := DirTail(b)
	if !ok {
		return Corrupt(where, "directory block has no checksum tail")
	}
	if got, want := CRC32C(iseed, b[:t]), le32(b, t+8); got != want {
		return BadChecksum(where, "directory block", got, want)
	}
	return nil
}
