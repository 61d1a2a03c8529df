package jbd2

import (
	"bytes"
	"testing"
)

// fuzzBlock pads or cuts p to one block of 1024 bytes and gives it a header of
// type typ if head is set, so that the fuzzer reaches the bodies.
func fuzzBlock(p []byte, typ BlockType, head bool) []byte {
	q := make([]byte, 1024)
	copy(q, p)
	if head {
		if err := EncodeHeader(q, Header{Type: typ, Sequence: 1}); err != nil {
			panic(err) // the block is long enough
		}
	}
	return q
}

func fuzzFormats(t *testing.T) []Format {
	var out []Format
	for _, feat := range allFeatures {
		f, err := NewFormat(1024, feat, [16]byte{1, 2, 3})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f)
	}
	return out
}

func FuzzSuperblock(f *testing.F) {
	f.Add([]byte{}, true)
	f.Add(bytes.Repeat([]byte{0xff}, 1024), true)
	f.Add(make([]byte, 1024), false)
	f.Fuzz(func(t *testing.T, p []byte, head bool) {
		if _, err := DecodeSuperblock(p); err == nil && len(p) < SuperblockBytes {
			t.Fatalf("superblock of %d bytes accepted", len(p))
		}
		q := fuzzBlock(p, TypeSuperblockV2, head)
		s, err := DecodeSuperblock(q)
		if err != nil {
			return
		}
		if err := s.Check(1024, 4096); err == nil {
			if end := s.LogEnd(); end > 4096 || s.First >= end || s.Start >= end {
				t.Fatalf("accepted first %d start %d end %d", s.First, s.Start, end)
			}
			if _, err := s.Format(); err != nil {
				t.Fatalf("checked superblock without a format: %v", err)
			}
		}
		r := make([]byte, SuperblockBytes)
		if err := s.Encode(r); err != nil {
			t.Fatal(err)
		}
		if err := VerifySuperblock(r); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzDescriptor(f *testing.F) {
	f.Add([]byte{}, true)
	f.Add(bytes.Repeat([]byte{0}, 1024), true)
	f.Add(bytes.Repeat([]byte{2}, 1024), true)
	f.Fuzz(func(t *testing.T, p []byte, head bool) {
		for _, ft := range fuzzFormats(t) {
			if _, err := ft.DecodeTags(nil, p); err == nil && len(p) != 1024 {
				t.Fatalf("descriptor of %d bytes accepted", len(p))
			}
			q := fuzzBlock(p, TypeDescriptor, head)
			tags, err := ft.DecodeTags(nil, q)
			if err != nil {
				continue
			}
			if n := len(tags) * ft.Features.TagBytes(); n > 1024-HeaderBytes-ft.Features.TailBytes() {
				t.Fatalf("%d tags of %d bytes in one block", len(tags), ft.Features.TagBytes())
			}
			for _, tag := range tags {
				if tag.Block > ft.maxBlock() {
					t.Fatalf("block %d beyond the format's %d", tag.Block, ft.maxBlock())
				}
			}
			if err := ft.SetTail(q); err != nil {
				t.Fatal(err)
			}
			if err := ft.VerifyTail(q); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzRevoke(f *testing.F) {
	f.Add([]byte{}, true)
	f.Add(append(make([]byte, 12), 0, 0, 4, 0), true)
	f.Add(append(make([]byte, 12), 0xff, 0xff, 0xff, 0xff), true)
	f.Fuzz(func(t *testing.T, p []byte, head bool) {
		for _, ft := range fuzzFormats(t) {
			if _, err := ft.DecodeRevoke(nil, p); err == nil && len(p) != 1024 {
				t.Fatalf("revoke block of %d bytes accepted", len(p))
			}
			recs, err := ft.DecodeRevoke(nil, fuzzBlock(p, TypeRevoke, head))
			if err == nil && len(recs) > ft.RevokesPerBlock() {
				t.Fatalf("%d records, a block takes %d", len(recs), ft.RevokesPerBlock())
			}
		}
	})
}

func FuzzCommit(f *testing.F) {
	f.Add([]byte{}, true)
	f.Add(bytes.Repeat([]byte{0x55}, 1024), true)
	f.Fuzz(func(t *testing.T, p []byte, head bool) {
		for _, ft := range fuzzFormats(t) {
			if _, err := ft.DecodeCommit(p); err == nil && len(p) != 1024 {
				t.Fatalf("commit block of %d bytes accepted", len(p))
			}
			c, err := ft.DecodeCommit(fuzzBlock(p, TypeCommit, head))
			if err != nil {
				continue
			}
			q := make([]byte, 1024)
			if err := ft.EncodeCommit(q, c); err != nil {
				t.Fatal(err)
			}
			if err := ft.VerifyCommit(q); err != nil {
				t.Fatal(err)
			}
			if _, err := ft.DecodeCommit(q); err != nil {
				t.Fatal(err)
			}
		}
	})
}
