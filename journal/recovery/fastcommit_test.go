package recovery

import (
	"encoding/binary"
	"errors"
	"testing"

	"inlinefs/ondisk/jbd2"
)

// fcTag appends a fast-commit tag.
func fcTag(p []byte, tag uint16, val []byte) []byte {
	p = binary.LittleEndian.AppendUint16(p, tag)
	p = binary.LittleEndian.AppendUint16(p, uint16(len(val)))
	return append(p, val...)
}

func le32(vs ...uint32) (p []byte) {
	for _, v := range vs {
		p = binary.LittleEndian.AppendUint32(p, v)
	}
	return p
}

// fcCommit makes one fast commit for tid: a head, an operation, padding to the
// next block if two is set, another operation and a tail.
func fcCommit(tid uint32, two bool) []byte {
	p := fcTag(nil, fcTagHead, le32(0, tid))
	p = fcTag(p, 5, le32(12, 1, 2))
	if two {
		p = fcTag(p, fcTagPad, make([]byte, 1024-len(p)-fcTagBytes))
		p = fcTag(p, 1, le32(12, 3, 4, 5))
	}
	crc := jbd2.CRC32C(0, p)
	n := 1024 - len(p)%1024 - fcTagBytes
	p = binary.LittleEndian.AppendUint16(p, fcTagTail)
	p = binary.LittleEndian.AppendUint16(p, uint16(n))
	p = append(p, le32(tid)...)
	crc = jbd2.CRC32C(crc, p[len(p)-8:])
	return append(p, le32(crc)...)
}

func TestFastCommit(t *testing.T) {
	const blocks = 1024 + 40
	for name, c := range map[string]struct {
		area   func(tid uint32) []byte
		numFC  uint32
		clean  bool // journal is empty
		dirty  bool
		errors bool
	}{
		"none":        {func(uint32) []byte { return nil }, 16, false, false, false},
		"one":         {func(tid uint32) []byte { return fcCommit(tid, false) }, 16, false, true, true},
		"two_blocks":  {func(tid uint32) []byte { return fcCommit(tid, true) }, 16, false, true, true},
		"old_tid":     {func(tid uint32) []byte { return fcCommit(tid-1, false) }, 16, false, false, false},
		"torn_tail":   {func(tid uint32) []byte { p := fcCommit(tid, true); p[len(p)-1] ^= 1; return p }, 16, false, false, false},
		"no_tail":     {func(tid uint32) []byte { return fcCommit(tid, true)[:1024] }, 16, false, false, false},
		"no_head":     {func(tid uint32) []byte { return fcCommit(tid, false)[12:] }, 16, false, false, false},
		"clean":       {func(tid uint32) []byte { return fcCommit(tid, false) }, 16, true, false, false},
		"area_absent": {func(uint32) []byte { return nil }, 41, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			feat := featV3
			feat.Incompat |= jbd2.IncompatFastCommit
			sb := &jbd2.Superblock{
				Type: jbd2.TypeSuperblockV2, BlockSize: 1024, MaxLen: blocks, First: 1, Features: feat,
				ChecksumType: jbd2.ChecksumCRC32C, NumFCBlocks: c.numFC,
			}
			start := sb.LogEnd() - 2
			b, err := buildOn(sb, start, 20)
			if err != nil {
				t.Fatal(err)
			}
			if c.clean {
				sb.Start = 0
				if err := b.super(); err != nil {
					t.Fatal(err)
				}
			} else if err := b.add(simple(7, 1)); err != nil {
				t.Fatal(err)
			}
			for i, p := uint32(0), c.area(b.tid); len(p) > 0; i++ {
				p = p[copy(b.log.blocks[sb.LogEnd()+1+i], p):]
			}
			m := newTarget()
			res, err := Recover(b.log, m, b.options())
			if res.FastCommitDirty != c.dirty || errors.Is(err, ErrFastCommit) != c.errors || (err != nil) != c.errors {
				t.Fatalf("dirty %v error %v, want %v, %v", res.FastCommitDirty, err, c.dirty, c.errors)
			}
			if !c.errors {
				return
			}
			if m.writes != 0 || len(b.log.written) != 0 {
				t.Fatal("wrote before refusing")
			}
			o := b.options()
			o.DropFastCommits = true
			if _, err := Recover(b.log, m, o); err != nil || m.writes != 1 {
				t.Fatalf("dropping fast commits: error %v, %d writes, want 1", err, m.writes)
			}
		})
	}
}
