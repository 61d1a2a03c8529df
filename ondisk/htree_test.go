package ondisk

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// dxRoot is a checked root of one entry in a block of size bytes.
func dxRoot(t testing.TB, size int, csum bool) []byte {
	t.Helper()
	b := make([]byte, size)
	dot := Dirent(b)
	dot.SetIno(RootIno)
	dot.SetRecLen(DirentLen(1))
	dot.SetNameLen(1)
	dot.SetType(FtDir)
	copy(dot[DirentHead:], ".")
	dd := Dirent(b[DirentLen(1):])
	dd.SetIno(RootIno)
	dd.SetNameLen(2)
	dd.SetType(FtDir)
	copy(dd[DirentHead:], "..")
	InitDxRoot(b, HashHalfMD4, 1, csum)
	if err := CheckDx("root", b, DxRootOff, csum, 1); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDxLimits(t *testing.T) {
	for _, c := range []struct {
		size, off int
		csum      bool
		want      int
	}{{1024, DxRootOff, true, 123}, {1024, DxRootOff, false, 124}, {4096, DxRootOff, true, 507}, {4096, DxNodeOff, true, 510},
		{4096, DxNodeOff, false, 511}} {
		if got := DxLimit(c.size, c.off, c.csum); got != c.want {
			t.Errorf("limit of %d bytes from %d, checksum %v: got %d, want %d", c.size, c.off, c.csum, got, c.want)
		}
	}
}

func TestDxInsertSearchMove(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	b := dxRoot(t, 1024, true)
	e := DxEntriesOf(b, DxRootOff)
	hashes := []uint32{0}
	for lblk := uint32(2); e.Count() < e.Limit(); lblk++ {
		hash := r.Uint32() &^ 1
		if slices.Contains(hashes, hash) {
			continue
		}
		at := e.Search(hash)
		e.Insert(at+1, hash, lblk)
		hashes = slices.Insert(hashes, at+1, hash)
	}
	if !slices.IsSorted(hashes) {
		t.Fatalf("hashes are not in order: %x", hashes)
	}
	for range 1000 {
		h := r.Uint32() &^ 1
		want := len(hashes) - 1
		for want > 0 && hashes[want] > h {
			want--
		}
		if got := e.Search(h); got != want {
			t.Fatalf("search of 0x%x: got entry %d, want %d", h, got, want)
		}
	}
	node := make([]byte, 1024)
	InitDxNode(node, 0, true)
	n := DxEntriesOf(node, DxNodeOff)
	if h := e.MoveTail(60, n); h != hashes[60] {
		t.Errorf("first moved hash: got 0x%x, want 0x%x", h, hashes[60])
	}
	for i := range hashes {
		got := uint32(0)
		if i < 60 {
			got = e.Hash(i)
		} else if i > 60 {
			got = n.Hash(i - 60)
		}
		if i != 60 && got != hashes[i] {
			t.Fatalf("hash %d: got 0x%x, want 0x%x", i, got, hashes[i])
		}
	}
	if err := errors.Join(CheckDx("root", b, DxRootOff, true, 1), CheckDx("node", node, DxNodeOff, true, 1)); err != nil {
		t.Error(err)
	}
}

func TestDxChecksum(t *testing.T) {
	b := dxRoot(t, 4096, true)
	UpdateDxChecksum(b, DxRootOff, 7)
	if err := VerifyDxChecksum("root", b, DxRootOff, 7); err != nil {
		t.Fatal(err)
	}
	b[DxRootOff+5] ^= 1
	var c *CorruptError
	if err := VerifyDxChecksum("root", b, DxRootOff, 7); !errors.As(err, &c) || !c.Checksum {
		t.Errorf("after a flipped bit: got %v, want a checksum error", err)
	}
}

func TestCheckDxRefuses(t *testing.T) {
	for name, damage := range map[string]func(b []byte){
		"limit":     func(b []byte) { DxEntriesOf(b, DxRootOff).SetLimit(600) },
		"count 0":   func(b []byte) { DxEntriesOf(b, DxRootOff).SetCount(0) },
		"count":     func(b []byte) { DxEntriesOf(b, DxRootOff).SetCount(508) },
		"version":   func(b []byte) { b[dxInfoOff+4] = 9 },
		"levels":    func(b []byte) { SetDxIndirect(b, 2) },
		"flags":     func(b []byte) { b[dxInfoOff+7] = 1 },
		"length":    func(b []byte) { b[dxInfoOff+5] = 7 },
		"not a dir": func(b []byte) { clear(b) },
	} {
		b := dxRoot(t, 4096, true)
		damage(b)
		var c *CorruptError
		if err := CheckDx("root", b, DxRootOff, true, 1); !errors.As(err, &c) {
			t.Errorf("%s: got %v, want a corruption error", name, err)
		}
	}
}

// FuzzDx feeds index blocks of any content to the decoder: what it accepts must be safe to use.
func FuzzDx(f *testing.F) {
	f.Add(dxRoot(f, 1024, true), uint32(0x1234))
	node := make([]byte, 1024)
	InitDxNode(node, 5, true)
	f.Add(node, uint32(0))
	f.Fuzz(func(t *testing.T, in []byte, hash uint32) {
		b := make([]byte, 1024)
		copy(b, in)
		off := DxOffset(b)
		if off == 0 {
			return
		}
		if err := VerifyDxChecksum("fuzz", b, off, 1); err == nil {
			UpdateDxChecksum(b, off, 1)
		}
		for _, csum := range []bool{false, true} {
			if CheckDx("fuzz", b, off, csum, 2) != nil {
				continue
			}
			e := DxEntriesOf(b, off)
			if at := e.Search(hash); at < 0 || at >= e.Count() {
				t.Fatalf("search of 0x%x: got entry %d of %d", hash, at, e.Count())
			}
			if e.Count() < e.Limit() {
				e.Insert(e.Search(hash)+1, hash, 9)
			}
			if csum {
				UpdateDxChecksum(b, off, 1)
				if err := VerifyDxChecksum("fuzz", b, off, 1); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// FuzzDirents walks areas of any content: every accepted entry must lie within the area and the walk must end.
func FuzzDirents(f *testing.F) {
	f.Add(dxRoot(f, 1024, true))
	empty := make([]byte, 1024)
	Dirent(empty).SetRecLen(1024 - DirTailSize)
	InitDirTail(empty)
	UpdateDirChecksum(empty, 1)
	f.Add(empty)
	f.Fuzz(func(t *testing.T, area []byte) {
		for off := 0; off < len(area); {
			d, err := CheckDirent("fuzz", area, off, 1<<20)
			if err != nil {
				return
			}
			if d.Ino() != 0 && off+DirentHead+len(d.Name()) > len(area) {
				t.Fatalf("entry at %d: name of %d bytes ends beyond %d", off, d.NameLen(), len(area))
			}
			off += d.RecLen()
		}
	})
}

// FuzzDirHash hashes any name with any version and seed.
func FuzzDirHash(f *testing.F) {
	f.Add(uint8(1), uint32(1), []byte("name"))
	f.Fuzz(func(t *testing.T, version uint8, s uint32, name []byte) {
		seed := [4]uint32{s, s * 3, s * 5, s * 7}
		major, _, ok := DirHash(version, &seed, name)
		if ok != (version <= HashTEAUnsigned) || major&1 != 0 || major == hashEOF {
			t.Fatalf("version %d: hash 0x%x, known %v", version, major, ok)
		}
	})
}
