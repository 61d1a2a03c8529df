package recovery

import (
	"encoding/binary"

	"inlinefs/ondisk/jbd2"
)

// Tags of the fast-commit area (little-endian, unlike the rest of the log) and
// the sizes in bytes of what they hold.
const (
	fcTagPad    = 7 // fill up to the end of the block
	fcTagTail   = 8 // end of one fast commit: tid, crc32c
	fcTagHead   = 9 // start of the area: features, tid
	fcTagMin    = 1
	fcTagBytes  = 4
	fcHeadBytes = 8
	fcTailBytes = 8
)

// fastCommitDirty says whether the fast-commit area holds at least one whole
// fast commit on top of the last transaction: a head with that tid, tags, and
// a tail with that tid and the right checksum (ext4_fc_replay_scan). What a
// crash cut off before its tail was never promised to anyone and does not
// count.
func (r *recovery) fastCommitDirty() (bool, error) {
	if r.last == r.sb.MaxLen {
		return false, nil
	}
	s := fcScan{tid: r.res.LastTid}
	// The area starts one block after the end of the log (j_fc_first).
	for blk := r.last + 1; blk < r.sb.MaxLen; blk++ {
		if err := r.read(blk, r.data); err != nil {
			return false, err
		}
		switch s.block(r.data, blk == r.last+1) {
		case fcValid:
			return true, nil
		case fcInvalid:
			return false, nil
		}
	}
	return false, nil
}

// fcVerdict is the outcome of reading one block of the area.
type fcVerdict int

const (
	fcMore    fcVerdict = iota // the fast commit goes on in the next block
	fcValid                    // whole fast commit found
	fcInvalid                  // no fast commit for this transaction
)

// fcScan is the state of a walk over the fast-commit area.
type fcScan struct {
	tid uint32
	crc uint32
}

// block reads the tags of one block.
func (s *fcScan) block(p []byte, first bool) fcVerdict {
	le := binary.LittleEndian
	for off := 0; off+fcTagBytes <= len(p); {
		tag, n := le.Uint16(p[off:]), int(le.Uint16(p[off+2:]))
		val := p[off+fcTagBytes:]
		if n > len(val) {
			return fcInvalid
		}
		if first && off == 0 && tag != fcTagHead {
			return fcInvalid
		}
		switch {
		case tag == fcTagHead:
			if n < fcHeadBytes || le.Uint32(val[4:]) != s.tid {
				return fcInvalid
			}
			s.crc = jbd2.CRC32C(s.crc, p[off:off+fcTagBytes+n])
		case tag == fcTagTail:
			if n < fcTailBytes {
				return fcInvalid
			}
			crc := jbd2.CRC32C(s.crc, p[off:off+fcTagBytes+4])
			if le.Uint32(val) == s.tid && le.Uint32(val[4:]) == crc {
				return fcValid
			}
			return fcInvalid
		case tag >= fcTagMin && tag <= fcTagPad:
			s.crc = jbd2.CRC32C(s.crc, p[off:off+fcTagBytes+n])
		default:
			return fcInvalid
		}
		off += fcTagBytes + n
	}
	return fcMore
}
