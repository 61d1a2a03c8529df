package check_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"inlinefs/blockdev"
	"inlinefs/check"
	"inlinefs/internal/testimage"
	"inlinefs/ondisk"
)

// hot are the 64-byte pieces of an image that are not all zero.
func hot(b []byte) []int {
	var at []int
	for i := 0; i+64 <= len(b); i += 64 {
		for _, v := range b[i : i+64] {
			if v != 0 {
				at = append(at, i)
				break
			}
		}
	}
	return at
}

// mutate writes up to n damaged bytes, words or copies into b, most of them where there was something before.
func mutate(rng *rand.Rand, b []byte, places []int, n int) {
	for range 1 + rng.IntN(n) {
		at := places[rng.IntN(len(places))] + rng.IntN(64)
		switch rng.IntN(10) {
		case 0, 1: // the superblock counts for more than its size
			at = ondisk.SuperOffset + rng.IntN(0x180)
		case 2:
			at = rng.IntN(len(b) - 8)
		}
		at = min(at, len(b)-8)
		switch rng.IntN(6) {
		case 0:
			b[at] ^= 1 << rng.IntN(8)
		case 1:
			b[at] = byte(rng.IntN(256))
		case 2:
			binary.LittleEndian.PutUint32(b[at&^3:], 0xffffffff)
		case 3:
			binary.LittleEndian.PutUint32(b[at&^3:], uint32(rng.IntN(20000)))
		case 4:
			binary.LittleEndian.PutUint16(b[at&^1:], uint16(rng.Uint32()))
		case 5:
			from := places[rng.IntN(len(places))]
			copy(b[at&^63:min(at&^63+64, len(b))], append([]byte(nil), b[from:from+64]...))
		}
	}
}

// TestMutations damages images at random. Whatever is in them, the checker ends, and does not panic.
func TestMutations(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	indexed, _ := baseImage(t)
	bases := [][]byte{image(t, indexed)}
	for _, f := range []string{"none,sparse_super,filetype,resize_inode,ext_attr,dir_index", "inline_data,^metadata_csum,uninit_bg,^extent,^64bit"} {
		bases = append(bases, image(t, testimage.Make(t, testimage.Options{SizeMiB: 4, BlockSize: 1024, InodeSize: 256, Inodes: 512, Features: f,
			Populate: populate(t, 60)})))
	}
	places := make([][]int, len(bases))
	for i, b := range bases {
		places[i] = hot(b)
	}
	rounds := 300
	if testing.Short() {
		rounds = 30
	}
	for i := range rounds {
		k := i % len(bases)
		b := append([]byte(nil), bases[k]...)
		mutate(rng, b, places[k], 12)
		if i%2 == 0 { // let the damage get past the superblock's checksum
			ondisk.Super(b[ondisk.SuperOffset : ondisk.SuperOffset+ondisk.SuperSize]).UpdateChecksum()
		}
		dev := blockdev.NewMemReadOnly(b)
		if _, err := check.Image(dev, check.Options{MaxFindings: 100}); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
		if err := check.Dump(discard{}, dev, ""); err == nil {
			for _, what := range []string{"/", "/many", "/f60", "/s400", "<8>"} {
				_ = check.Dump(discard{}, dev, what)
			}
		}
	}
}

// discard swallows a dump.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// FuzzImage takes pairs of offset and bytes to write into a small image.
func FuzzImage(f *testing.F) {
	base := imageF(f)
	f.Add([]byte{0x38, 4, 0, 0, 1})
	f.Add([]byte{4, 4, 0, 0, 0xff, 0x18, 4, 0, 0, 7})
	f.Fuzz(func(t *testing.T, patch []byte) {
		b := append([]byte(nil), base...)
		for len(patch) >= 5 {
			at := int(binary.LittleEndian.Uint32(patch) % uint32(len(b)))
			b[at] = patch[4]
			patch = patch[5:]
		}
		ondisk.Super(b[ondisk.SuperOffset : ondisk.SuperOffset+ondisk.SuperSize]).UpdateChecksum()
		if _, err := check.Image(blockdev.NewMemReadOnly(b), check.Options{MaxFindings: 50}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestUnreadable(t *testing.T) {
	if _, err := check.Image(blockdev.NewMem(make([]byte, 1500)), check.Options{}); err == nil {
		t.Error("no error from a device without a superblock")
	}
	r := judge(t, make([]byte, 1<<20))
	if !r.Has(check.ClassSuper) {
		t.Errorf("no superblock finding in %v", r.Findings)
	}
}
