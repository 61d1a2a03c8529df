package jbd2

import (
	"encoding/binary"
	"fmt"
)

// DecodeRevoke appends the block numbers of a revoke block to dst
// (scan_revoke_records). The checksum is not checked, see VerifyTail. The
// error wraps ErrShort, ErrMagic, ErrType, or ErrFormat for an impossible
// r_count.
func (f Format) DecodeRevoke(dst []uint64, p []byte) ([]uint64, error) {
	if err := f.checkLen(p); err != nil {
		return dst, err
	}
	if _, err := decodeTyped(p, TypeRevoke); err != nil {
		return dst, err
	}
	count, limit := binary.BigEndian.Uint32(p[HeaderBytes:]), len(p)-f.Features.TailBytes()
	if uint64(count) > uint64(limit) {
		return dst, fmt.Errorf("%w: revoke block r_count %d, want at most %d bytes", ErrFormat, count, limit)
	}
	n := f.Features.RevokeRecordBytes()
	for off := revokeHeaderBytes; off+n <= int(count); off += n {
		if n == 8 {
			dst = append(dst, binary.BigEndian.Uint64(p[off:]))
		} else {
			dst = append(dst, uint64(binary.BigEndian.Uint32(p[off:])))
		}
	}
	return dst, nil
}

// RevokeWriter fills one revoke block (write_one_revoke_record). It is not
// safe for concurrent use.
type RevokeWriter struct {
	f   Format
	p   []byte
	off int
}

// NewRevoke starts a revoke block of transaction seq in p, which is cleared
// and must be one block long. The error wraps ErrShort.
func (f Format) NewRevoke(p []byte, seq uint32) (*RevokeWriter, error) {
	if err := f.checkLen(p); err != nil {
		return nil, err
	}
	clear(p)
	if err := EncodeHeader(p, Header{Type: TypeRevoke, Sequence: seq}); err != nil {
		return nil, err
	}
	return &RevokeWriter{f: f, p: p, off: revokeHeaderBytes}, nil
}

// Full says that there is no room for another record.
func (w *RevokeWriter) Full() bool {
	return w.off+w.f.Features.RevokeRecordBytes() > len(w.p)-w.f.Features.TailBytes()
}

// Count is the number of records added.
func (w *RevokeWriter) Count() int {
	return (w.off - revokeHeaderBytes) / w.f.Features.RevokeRecordBytes()
}

// Add adds a record for the file system block blk. The error wraps ErrShort
// when the block is full and ErrFormat when blk does not fit a record.
func (w *RevokeWriter) Add(blk uint64) error {
	if w.Full() {
		return fmt.Errorf("%w: revoke block with %d records is full", ErrShort, w.Count())
	}
	if blk > w.f.maxBlock() {
		return fmt.Errorf("%w: block %d in a revoke record of 32 bits", ErrFormat, blk)
	}
	if w.f.Features.Is64Bit() {
		binary.BigEndian.PutUint64(w.p[w.off:], blk)
	} else {
		binary.BigEndian.PutUint32(w.p[w.off:], uint32(blk))
	}
	w.off += w.f.Features.RevokeRecordBytes()
	return nil
}

// Finish writes r_count and the block's checksum.
func (w *RevokeWriter) Finish() error {
	binary.BigEndian.PutUint32(w.p[HeaderBytes:], uint32(w.off))
	return w.f.SetTail(w.p)
}

// RevokesPerBlock is the number of records one revoke block takes.
func (f Format) RevokesPerBlock() int {
	return (f.BlockSize - revokeHeaderBytes - f.Features.TailBytes()) / f.Features.RevokeRecordBytes()
}
