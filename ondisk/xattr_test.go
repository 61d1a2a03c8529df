package ondisk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestXattrHash holds e_hash against values worked out by hand.
func TestXattrHash(t *testing.T) {
	for _, c := range []struct {
		name, value string
		want        uint32
	}{{"", "", 0}, {"a", "", 0x61}, {"ab", "", 0x61<<5 ^ 0x62}, {"", "\x01", 1}, {"", "\x01\x00\x00\x00\x02", 0x10000 ^ 2}} {
		if got := XattrHash(c.name, []byte(c.value)); got != c.want {
			t.Errorf("hash of %q=%q: 0x%x, want 0x%x", c.name, c.value, got, c.want)
		}
	}
}

// TestXattrBlockRoundTrip fills blocks with random attributes and reads them back.
func TestXattrBlockRoundTrip(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	for round := range 200 {
		b := make(XattrBlock, []int{1024, 4096}[round%2])
		var all []XattrEntry
		need := XattrHeadSize + 4
		for n := range rnd.IntN(30) {
			e := XattrEntry{Index: []uint8{XattrUser, XattrTrusted, XattrSecurity}[rnd.IntN(3)], Name: strings.Repeat(string(rune('a'+n)), 1+rnd.IntN(20)),
				Value: make([]byte, rnd.IntN(80))}
			for i := range e.Value {
				e.Value[i] = byte(rnd.Uint32())
			}
			all = append(all, e)
			need += XattrEntryLen(len(e.Name)) + XattrValueLen(len(e.Value))
		}
		err := b.Fill(all, 1)
		if need > len(b) {
			if !errors.Is(err, ErrXattrBlockNoSpace) || len(bytes.Trim(b, "\x00")) != 0 {
				t.Fatalf("round %d: %d bytes in %d: %v, want no space and no change", round, need, len(b), err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("round %d: %d bytes in %d: %v", round, need, len(b), err)
		}
		b.UpdateChecksum(7, 1234)
		if err := b.VerifyChecksum("block", 7, 1234); err != nil {
			t.Fatal(err)
		}
		if b.VerifyChecksum("block", 7, 1235) == nil {
			t.Fatalf("round %d: the checksum holds for another block number", round)
		}
		got, err := b.List("block")
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if !slices.IsSortedFunc(got, compareXattr) {
			t.Fatalf("round %d: entries are not sorted", round)
		}
		if len(got) != len(all) {
			t.Fatalf("round %d: %d attributes, want %d", round, len(got), len(all))
		}
		for _, e := range all {
			v, found, err := b.Find("block", e.Index, e.Name)
			if err != nil || !found || !bytes.Equal(v, e.Value) {
				t.Fatalf("round %d: %d:%q: %x, %v, %v; want %x", round, e.Index, e.Name, v, found, err, e.Value)
			}
		}
	}
}

// TestXattrBlockDamage expects a CorruptError for impossible headers and entries.
func TestXattrBlockDamage(t *testing.T) {
	for name, do := range map[string]func(b XattrBlock){
		"magic":  func(b XattrBlock) { put32(b, 0, 0xEA010000) },
		"blocks": func(b XattrBlock) { put32(b, 8, 2) },
		"refs":   func(b XattrBlock) { b.SetRefcount(0) },
		"value":  func(b XattrBlock) { put16(b, XattrHeadSize+2, 0) },
		"long name": func(b XattrBlock) {
			b[XattrHeadSize+20] = 255
			clear(b[XattrHeadSize+24:])
			put16(b, XattrHeadSize+2, 60)
		},
	} {
		b := make(XattrBlock, 1024)
		if err := b.Fill([]XattrEntry{{Index: XattrUser, Name: "a", Value: []byte("x")}}, 1); err != nil {
			t.Fatal(err)
		}
		do(b)
		var ce *CorruptError
		if err := b.Check("block"); !errors.As(err, &ce) {
			t.Errorf("%s: %v, want a CorruptError", name, err)
		}
	}
	if err := make(XattrBlock, 16).Check("block"); err == nil {
		t.Error("a block of 16 bytes passed")
	}
}

// FuzzXattrBlock reads arbitrary blocks; what can be read can be written and read again.
func FuzzXattrBlock(f *testing.F) {
	b := make(XattrBlock, 1024)
	if err := b.Fill([]XattrEntry{{Index: XattrUser, Name: "a", Value: []byte("x")}, {Index: XattrTrusted, Name: "b"}}, 1); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(b))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 65536 {
			return
		}
		all, err := XattrBlock(in).List("block")
		if err != nil {
			return
		}
		out := make(XattrBlock, (len(in)+3)&^3)
		if err := out.Fill(all, 1); err != nil {
			t.Fatalf("%d attributes that were in %d bytes: %v", len(all), len(in), err)
		}
		again, err := out.List("block")
		if err != nil {
			t.Fatal(err)
		}
		slices.SortStableFunc(all, compareXattr)
		if len(again) != len(all) {
			t.Fatalf("%d attributes, want %d", len(again), len(all))
		}
		for n := range all {
			if compareXattr(all[n], again[n]) != 0 || !bytes.Equal(all[n].Value, again[n].Value) {
				t.Fatalf("attribute %d: %q, want %q", n, again[n].Name, all[n].Name)
			}
		}
	})
}
