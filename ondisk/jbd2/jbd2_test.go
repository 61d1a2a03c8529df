package jbd2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// allFeatures are the feature sets with different layouts.
var allFeatures = []Features{
	{},
	{Incompat: IncompatRevoke | Incompat64Bit},
	{Compat: CompatChecksum},
	{Compat: CompatChecksum, Incompat: Incompat64Bit | IncompatAsyncCommit},
	{Incompat: IncompatCsumV2},
	{Incompat: IncompatCsumV2 | Incompat64Bit},
	{Incompat: IncompatCsumV3},
	{Incompat: IncompatCsumV3 | Incompat64Bit | IncompatFastCommit},
}

func genUUID(t *rapid.T) (u [16]byte) {
	copy(u[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "uuid"))
	return u
}

func genFormat(t *rapid.T) Format {
	f, err := NewFormat(
		rapid.SampledFrom([]int{1024, 2048, 4096}).Draw(t, "blocksize"),
		rapid.SampledFrom(allFeatures).Draw(t, "features"), genUUID(t))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestCRCVectors(t *testing.T) {
	p := []byte("123456789")
	if got := ^CRC32C(^uint32(0), p); got != 0xe3069283 {
		t.Errorf("crc32c %#x, want 0xe3069283", got)
	}
	if got := CRC32BE(^uint32(0), p); got != 0x0376e6e7 {
		t.Errorf("crc32_be %#x, want 0x0376e6e7", got)
	}
	if got := CRC32C(CRC32C(7, p[:4]), p[4:]); got != CRC32C(7, p) {
		t.Errorf("crc32c in two steps %#x, want %#x", got, CRC32C(7, p))
	}
	q := append([]byte(nil), p...)
	copy(q[2:6], "\x00\x00\x00\x00")
	if got := checksumWithHole(9, p, 2); got != CRC32C(9, q) {
		t.Errorf("checksum with hole %#x, want %#x", got, CRC32C(9, q))
	}
}

func TestTagBytes(t *testing.T) {
	for _, c := range []struct {
		incompat uint32
		tag      int
		tail     int
		revoke   int
	}{
		{0, 8, 0, 4},
		{Incompat64Bit, 12, 0, 8},
		{IncompatCsumV2, 10, 4, 4},
		{IncompatCsumV2 | Incompat64Bit, 14, 4, 8},
		{IncompatCsumV3, 16, 4, 4},
		{IncompatCsumV3 | Incompat64Bit, 16, 4, 8},
	} {
		f := Features{Incompat: c.incompat}
		if f.TagBytes() != c.tag || f.TailBytes() != c.tail || f.RevokeRecordBytes() != c.revoke {
			t.Errorf("%v: tag %d tail %d revoke %d, want %d %d %d", f,
				f.TagBytes(), f.TailBytes(), f.RevokeRecordBytes(), c.tag, c.tail, c.revoke)
		}
	}
}

func TestFeaturesCheck(t *testing.T) {
	for _, f := range allFeatures {
		if err := f.Check(); err != nil {
			t.Errorf("%v: %v", f, err)
		}
	}
	for _, f := range []Features{
		{Incompat: 0x40},
		{ROCompat: 1},
		{Incompat: IncompatCsumV2 | IncompatCsumV3},
		{Compat: CompatChecksum, Incompat: IncompatCsumV3},
	} {
		if err := f.Check(); !errors.Is(err, ErrFeature) {
			t.Errorf("%v: error %v, want ErrFeature", f, err)
		}
	}
	f := Features{Compat: 3, Incompat: 0x50, ROCompat: 4}
	if got, want := f.String(), "checksum,compat_0x2,csum_v3,incompat_0x40,ro_compat_0x4"; got != want {
		t.Errorf("names %q, want %q", got, want)
	}
}

func TestTid(t *testing.T) {
	for _, c := range []struct {
		x, y    uint32
		gt, geq bool
	}{
		{1, 1, false, true},
		{2, 1, true, true},
		{1, 2, false, false},
		{0, 0xffffffff, true, true},
		{0xffffffff, 0, false, false},
		{5, 0xfffffff0, true, true},
	} {
		if TidGT(c.x, c.y) != c.gt || TidGEQ(c.x, c.y) != c.geq {
			t.Errorf("tids %d, %d: gt %v geq %v", c.x, c.y, TidGT(c.x, c.y), TidGEQ(c.x, c.y))
		}
	}
}

func TestSuperblockRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SliceOfN(rapid.Byte(), SuperblockBytes, SuperblockBytes).Draw(t, "bytes")
		typ := rapid.SampledFrom([]BlockType{TypeSuperblockV1, TypeSuperblockV2}).Draw(t, "type")
		if err := EncodeHeader(p, Header{Type: typ, Sequence: 3}); err != nil {
			t.Fatal(err)
		}
		s, err := DecodeSuperblock(p)
		if err != nil {
			t.Fatal(err)
		}
		if s.features().CsumV2or3() {
			binary.BigEndian.PutUint32(p[superChecksumOff:], SuperblockChecksum(p))
		}
		q := make([]byte, SuperblockBytes+8)
		if err := s.Encode(q); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, q[:SuperblockBytes]) {
			t.Fatalf("encoded superblock differs")
		}
		if err := VerifySuperblock(q); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSuperblockCheck(t *testing.T) {
	good := Superblock{
		Type: TypeSuperblockV2, BlockSize: 1024, MaxLen: 2000, First: 1,
		Features: Features{Incompat: IncompatCsumV3}, ChecksumType: ChecksumCRC32C,
	}
	if err := good.Check(1024, 2000); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Superblock)
		want   error
	}{
		"block size":   {func(s *Superblock) { s.BlockSize = 4096 }, ErrFormat},
		"maxlen":       {func(s *Superblock) { s.MaxLen = 2001 }, ErrFormat},
		"first zero":   {func(s *Superblock) { s.First = 0 }, ErrFormat},
		"first beyond": {func(s *Superblock) { s.First = 2000 }, ErrFormat},
		"start beyond": {func(s *Superblock) { s.Start = 2000 }, ErrFormat},
		"start before": {func(s *Superblock) { s.First, s.Start = 3, 2 }, ErrFormat},
		"csum type":    {func(s *Superblock) { s.ChecksumType = ChecksumSHA1 }, ErrFormat},
		"feature":      {func(s *Superblock) { s.Features.Incompat |= 0x80 }, ErrFeature},
		"empty log":    {func(s *Superblock) { s.MaxLen = 0 }, ErrFormat},
	} {
		s := good
		c.change(&s)
		if err := s.Check(1024, 2000); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
	}
	v1 := good
	v1.Type, v1.Features = TypeSuperblockV1, Features{Incompat: 0xffff}
	if err := v1.Check(1024, 2000); err != nil {
		t.Errorf("v1 superblock: features must not count: %v", err)
	}
}

func TestLogEnd(t *testing.T) {
	s := Superblock{Type: TypeSuperblockV2, MaxLen: 4096}
	if s.LogEnd() != 4096 || s.FastCommitBlocks() != 0 {
		t.Errorf("end %d, fast-commit blocks %d; want 4096, 0", s.LogEnd(), s.FastCommitBlocks())
	}
	s.Features.Incompat = IncompatFastCommit
	if s.LogEnd() != 4096-DefaultFastCommitBlocks {
		t.Errorf("end %d, want %d", s.LogEnd(), 4096-DefaultFastCommitBlocks)
	}
	for n, want := range map[uint32]uint32{16: 4080, 4000: 4096, 5000: 4096, ^uint32(0): 4096, 3072: 1024} {
		s.NumFCBlocks = n
		if s.LogEnd() != want {
			t.Errorf("%d fast-commit blocks: end %d, want %d", n, s.LogEnd(), want)
		}
	}
}

func TestEscape(t *testing.T) {
	p := make([]byte, 1024)
	if Escape(p) {
		t.Error("zero block escaped")
	}
	binary.BigEndian.PutUint32(p, Magic)
	q := append([]byte(nil), p...)
	if !Escape(p) || binary.BigEndian.Uint32(p) != 0 {
		t.Error("block with magic not escaped")
	}
	Unescape(p)
	if !bytes.Equal(p, q) {
		t.Error("unescape does not undo escape")
	}
	Unescape(nil)
	if Escape([]byte{0xc0}) {
		t.Error("one byte escaped")
	}
}

func TestDescriptorRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := genFormat(t)
		seq := rapid.Uint32().Draw(t, "seq")
		p := make([]byte, f.BlockSize)
		w, err := f.NewDescriptor(p, seq)
		if err != nil {
			t.Fatal(err)
		}
		n := rapid.IntRange(1, f.TagsPerDescriptor()).Draw(t, "tags")
		data := make([]byte, f.BlockSize)
		data[0] = rapid.Byte().Draw(t, "data")
		var blks []uint64
		var escs []bool
		for range n {
			blk := rapid.Uint64Range(0, f.maxBlock()).Draw(t, "block")
			esc := rapid.Bool().Draw(t, "escaped")
			if err := w.Add(blk, data, esc); err != nil {
				t.Fatal(err)
			}
			blks, escs = append(blks, blk), append(escs, esc)
		}
		if w.Count() != n || w.Full() != (n == f.TagsPerDescriptor()) {
			t.Fatalf("count %d full %v, want %d of %d", w.Count(), w.Full(), n, f.TagsPerDescriptor())
		}
		if err := w.Finish(); err != nil {
			t.Fatal(err)
		}
		if err := f.VerifyTail(p); err != nil {
			t.Fatal(err)
		}
		tags, err := f.DecodeTags(nil, p)
		if err != nil || len(tags) != n {
			t.Fatalf("%d tags, error %v, want %d", len(tags), err, n)
		}
		for i, tag := range tags {
			if tag.Block != blks[i] || tag.Escaped() != escs[i] ||
				(tag.Flags&FlagSameUUID != 0) != (i > 0) || (tag.Flags&FlagLastTag != 0) != (i == n-1) {
				t.Fatalf("tag %d: %+v, want block %d escaped %v", i, tag, blks[i], escs[i])
			}
			if err := f.VerifyData(tag, seq, data); err != nil {
				t.Fatal(err)
			}
			if f.Features.CsumV3() {
				if err := f.VerifyData(tag, seq+1, data); !errors.Is(err, ErrChecksum) {
					t.Fatalf("other transaction: error %v, want ErrChecksum", err)
				}
			}
		}
	})
}

func TestDescriptorWriterErrors(t *testing.T) {
	f, err := NewFormat(1024, Features{}, [16]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.NewDescriptor(make([]byte, 512), 1); !errors.Is(err, ErrShort) {
		t.Errorf("short block: error %v, want ErrShort", err)
	}
	w, err := f.NewDescriptor(make([]byte, 1024), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Finish(); !errors.Is(err, ErrFormat) {
		t.Errorf("no tags: error %v, want ErrFormat", err)
	}
	if err := w.Add(1<<32, make([]byte, 1024), false); !errors.Is(err, ErrFormat) {
		t.Errorf("large block: error %v, want ErrFormat", err)
	}
	if err := w.Add(1, make([]byte, 100), false); !errors.Is(err, ErrShort) {
		t.Errorf("short data: error %v, want ErrShort", err)
	}
	for !w.Full() {
		if err := w.Add(1, make([]byte, 1024), false); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Add(1, make([]byte, 1024), false); !errors.Is(err, ErrShort) {
		t.Errorf("full: error %v, want ErrShort", err)
	}
}

func TestRevokeRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := genFormat(t)
		p := make([]byte, f.BlockSize)
		w, err := f.NewRevoke(p, rapid.Uint32().Draw(t, "seq"))
		if err != nil {
			t.Fatal(err)
		}
		n := rapid.IntRange(0, f.RevokesPerBlock()).Draw(t, "records")
		var want []uint64
		for range n {
			blk := rapid.Uint64Range(0, f.maxBlock()).Draw(t, "block")
			if err := w.Add(blk); err != nil {
				t.Fatal(err)
			}
			want = append(want, blk)
		}
		if w.Count() != n || w.Full() != (n == f.RevokesPerBlock()) {
			t.Fatalf("count %d full %v, want %d of %d", w.Count(), w.Full(), n, f.RevokesPerBlock())
		}
		if err := w.Finish(); err != nil {
			t.Fatal(err)
		}
		if err := f.VerifyTail(p); err != nil {
			t.Fatal(err)
		}
		got, err := f.DecodeRevoke(nil, p)
		if err != nil || len(got) != n {
			t.Fatalf("%d records, error %v, want %d", len(got), err, n)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("record %d: %d, want %d", i, got[i], want[i])
			}
		}
		binary.BigEndian.PutUint32(p[HeaderBytes:], uint32(f.BlockSize+1))
		if _, err := f.DecodeRevoke(nil, p); !errors.Is(err, ErrFormat) {
			t.Fatalf("large r_count: error %v, want ErrFormat", err)
		}
	})
}

func TestCommitRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := genFormat(t)
		c := Commit{
			Sequence: rapid.Uint32().Draw(t, "seq"),
			Sec:      rapid.Uint64().Draw(t, "sec"),
			Nsec:     rapid.Uint32().Draw(t, "nsec"),
		}
		if f.Features.ChecksumV1() {
			c.SetV1(rapid.Uint32().Draw(t, "sum"))
		}
		p := make([]byte, f.BlockSize)
		if err := f.EncodeCommit(p, c); err != nil {
			t.Fatal(err)
		}
		if err := f.VerifyCommit(p); err != nil {
			t.Fatal(err)
		}
		got, err := f.DecodeCommit(p)
		if err != nil {
			t.Fatal(err)
		}
		if f.Features.CsumV2or3() {
			got.Checksum[0] = 0
		}
		if got != c {
			t.Fatalf("commit %+v, want %+v", got, c)
		}
		if !f.Features.CsumV2or3() {
			return
		}
		p[len(p)-1] ^= 1 // stale bytes after the record are allowed
		if err := f.VerifyCommit(p); err != nil {
			t.Fatalf("stale end of block: %v", err)
		}
		p[50] ^= 1
		if err := f.VerifyCommit(p); !errors.Is(err, ErrChecksum) {
			t.Fatalf("changed time: error %v, want ErrChecksum", err)
		}
	})
}

func TestCommitV1Matches(t *testing.T) {
	var c Commit
	if !c.V1Matches(5) {
		t.Error("commit without checksum refused")
	}
	c.SetV1(5)
	if !c.V1Matches(5) || c.V1Matches(6) {
		t.Error("commit with checksum 5: want a match with 5 only")
	}
	c.ChecksumType = ChecksumMD5
	if c.V1Matches(5) {
		t.Error("md5 accepted")
	}
}

func TestDecodersRefuse(t *testing.T) {
	f, err := NewFormat(1024, Features{Incompat: IncompatCsumV3}, [16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	decoders := map[string]func([]byte) error{
		"tags":   func(p []byte) error { _, err := f.DecodeTags(nil, p); return err },
		"revoke": func(p []byte) error { _, err := f.DecodeRevoke(nil, p); return err },
		"commit": func(p []byte) error { _, err := f.DecodeCommit(p); return err },
		"super":  func(p []byte) error { _, err := DecodeSuperblock(p); return err },
	}
	for name, dec := range decoders {
		if err := dec(make([]byte, 11)); !errors.Is(err, ErrShort) {
			t.Errorf("%s, 11 bytes: error %v, want ErrShort", name, err)
		}
		p := make([]byte, 1024)
		if err := dec(p); !errors.Is(err, ErrMagic) {
			t.Errorf("%s, zero block: error %v, want ErrMagic", name, err)
		}
		if err := EncodeHeader(p, Header{Type: 9}); err != nil {
			t.Fatal(err)
		}
		if err := dec(p); !errors.Is(err, ErrType) {
			t.Errorf("%s, type 9: error %v, want ErrType", name, err)
		}
	}
	if err := (Format{}).VerifyTail(nil); !errors.Is(err, ErrShort) {
		t.Errorf("zero format: error %v, want ErrShort", err)
	}
	for _, bs := range []int{0, 512, 1025, 131072} {
		if _, err := NewFormat(bs, Features{}, [16]byte{}); !errors.Is(err, ErrFormat) {
			t.Errorf("block size %d: error %v, want ErrFormat", bs, err)
		}
	}
}
