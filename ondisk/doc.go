// Package ondisk turns ext4's on-disk records into Go and back: superblock, group descriptors, inodes, extents, directory
// entries, htree nodes, extended attributes, their checksums and the directory hash. It does no I/O and keeps no state.
//
// A record is a view: a named byte slice with getters and setters at the format's little-endian offsets. Bytes that this code does
// not know survive a change. Views are only as safe as their length, so a view is made by a function that checks it.
package ondisk

import (
	"encoding/binary"
	"fmt"
)

func le16(b []byte, off int) uint16      { return binary.LittleEndian.Uint16(b[off:]) }
func le32(b []byte, off int) uint32      { return binary.LittleEndian.Uint32(b[off:]) }
func le64(b []byte, off int) uint64      { return binary.LittleEndian.Uint64(b[off:]) }
func put16(b []byte, off int, v uint16)  { binary.LittleEndian.PutUint16(b[off:], v) }
func put32(b []byte, off int, v uint32)  { binary.LittleEndian.PutUint32(b[off:], v) }
func put64(b []byte, off int, v uint64)  { binary.LittleEndian.PutUint64(b[off:], v) }
func join32(lo uint32, hi uint32) uint64 { return uint64(hi)<<32 | uint64(lo) }

// CorruptError says that a record on disk breaks the format. It maps to EUCLEAN (EFSCORRUPTED).
type CorruptError struct {
	// Where names the object: "inode 12", "group 3", "block 77 of inode 2".
	Where string
	// What says what is wrong, with the values found and wanted.
	What string
	// Checksum says that it was the checksum that was wrong (EBADMSG, EFSBADCRC).
	Checksum bool
}

// Error joins the object and the finding.
func (e *CorruptError) Error() string { return e.Where + ": " + e.What }

// Corrupt makes a CorruptError.
func Corrupt(where string, format string, a ...any) error {
	return &CorruptError{Where: where, What: fmt.Sprintf(format, a...)}
}

// BadChecksum makes a CorruptError for a checksum, got being computed and want being stored.
func BadChecksum(where, what string, got, want uint32) error {
	return &CorruptError{Where: where, What: fmt.Sprintf("%s checksum: got 0x%08x, want 0x%08x", what, got, want), Checksum: true}
}
