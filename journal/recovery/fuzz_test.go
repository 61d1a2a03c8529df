package recovery

import (
	"bytes"
	"testing"

	"inlinefs/ondisk/jbd2"
)

const (
	fuzzBlocks   = 10
	fuzzFSBlocks = 1000
)

// FuzzRecover takes bytes as a log, good or bad: Recover must end, stay within
// the file system and, without an error, leave an empty journal.
func FuzzRecover(f *testing.F) {
	for _, feat := range []jbd2.Features{featNone, featV1, featV2, featV3} {
		b, err := newLog(1024, feat, fuzzBlocks, 6, 1)
		if err != nil {
			f.Fatal(err)
		}
		for _, x := range []txn{simple(7, 1), {revokes: []uint64{7}}, simple(9, 2)} {
			if err := b.add(x); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(bytes.Join(b.log.blocks, nil))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		l := &memLog{}
		for i := range fuzzBlocks {
			blk := make([]byte, 1024)
			if 1024*i < len(p) {
				copy(blk, p[1024*i:])
			}
			l.blocks = append(l.blocks, blk)
		}
		// Let the fuzzer past the superblock's checksum.
		if s, err := jbd2.DecodeSuperblock(l.blocks[0]); err == nil {
			if err := s.Encode(l.blocks[0]); err != nil {
				t.Fatal(err)
			}
		}
		m := newTarget()
		o := Options{BlockSize: 1024, LogBlocks: fuzzBlocks, FSBlocks: fuzzFSBlocks}
		res, err := Recover(l, m, o)
		if l.reads > 5*fuzzBlocks {
			t.Fatalf("%d reads of a log of %d blocks", l.reads, fuzzBlocks)
		}
		for blk := range m.blocks {
			if blk >= fuzzFSBlocks {
				t.Fatalf("block %d written, beyond %d", blk, fuzzFSBlocks)
			}
		}
		if err != nil {
			if len(l.written) != 0 {
				t.Fatalf("journal marked empty after %v", err)
			}
			return
		}
		if res.StoppedAt != StopEmpty && superOf(t, l).Start != 0 {
			t.Fatal("journal not marked empty")
		}
	})
}
