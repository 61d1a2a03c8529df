package dir

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"inlinefs/ondisk"
)

const testInodes = 1000

// names walks an area and returns its entries by name.
func names(t interface{ Fatalf(string, ...any) }, area []byte) map[string]uint32 {
	out := map[string]uint32{}
	err := each("area", area, testInodes, func(_ int, e ondisk.Dirent) bool {
		out[string(e.Name())] = e.Ino()
		return true
	})
	if err != nil {
		t.Fatalf("walk: %v", err)
	}
	return out
}

func TestAreaAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{56, 68, 1012, 1024, 4084}).Draw(t, "size")
		area := make([]byte, size)
		initEmpty(area)
		model := map[string]uint32{}
		for range rapid.IntRange(1, 120).Draw(t, "ops") {
			name := []byte(strings.Repeat(rapid.SampledFrom([]string{"a", "b", "cd"}).Draw(t, "unit"), rapid.IntRange(1, 40).Draw(t, "times")))
			need := ondisk.DirentLen(len(name))
			s, err := scan("area", area, name, need, testInodes)
			if err != nil {
				t.Fatalf("scan: %v", err)
			}
			if _, in := model[string(name)]; in != (s.off >= 0) {
				t.Fatalf("name %q: found %v, want %v", name, s.off >= 0, in)
			}
			switch {
			case s.off >= 0:
				remove(area, s.off, s.prev)
				delete(model, string(name))
			case s.slot >= 0:
				ino := rapid.Uint32Range(1, testInodes).Draw(t, "ino")
				insert(area, s.slot, name, ino, ondisk.FtReg)
				model[string(name)] = ino
			case s.live+need <= size:
				compact(area, name, 7, ondisk.FtReg)
				model[string(name)] = 7
			}
			if got := names(t, area); fmt.Sprint(got) != fmt.Sprint(model) {
				t.Fatalf("entries: got %v, want %v", got, model)
			}
		}
	})
}

// TestHalve fills areas to the brim, splits them, and wants room for the longest name in both halves.
func TestHalve(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 3))
	longest := bytes.Repeat([]byte("z"), ondisk.MaxName)
	for round := range 2000 {
		size := []int{1012, 1024, 2036, 4084}[round%4]
		lo, hi := 1, ondisk.MaxName
		if round%3 == 0 {
			lo = 240
		} else if round%3 == 1 {
			hi = 20
		}
		var list []ent
		total := 0
		for {
			n := ondisk.DirentLen(lo + r.IntN(hi-lo+1))
			if total+n > size {
				if total+ondisk.DirentLen(len(longest)) > size {
					break
				}
				continue
			}
			list = append(list, ent{hash: uint32(r.IntN(1+round)) << 1, off: total, size: n})
			total += n
		}
		at := halve(list, size)
		if at < 1 || at >= len(list) {
			t.Fatalf("round %d: split at %d of %d", round, at, len(list))
		}
		for _, part := range [][]ent{list[:at], list[at:]} {
			sum := 0
			for i, e := range part {
				sum += e.size
				if i > 0 && part[i-1].hash > e.hash {
					t.Fatalf("round %d: hashes out of order", round)
				}
			}
			if sum+ondisk.DirentLen(len(longest)) > size {
				t.Fatalf("round %d: half of %d bytes in an area of %d has no room for the longest name", round, sum, size)
			}
		}
	}
}

func TestBatchOrderGivesEachItsPlace(t *testing.T) {
	b := batch{items: []item{{pos: 5<<32 | 9, name: []byte("b")}, {pos: 5<<32 | 9, name: []byte("a")}, {pos: 5<<32 | 10, name: []byte("c")},
		{pos: 7<<32 | 0xFFFFFFFF, name: []byte("y")}, {pos: 7<<32 | 0xFFFFFFFF, name: []byte("x")}, {pos: 0, name: []byte(".")}}}
	b.order()
	want := []struct {
		name string
		pos  uint64
	}{{".", 0}, {"a", 5<<32 | 9}, {"b", 5<<32 | 10}, {"c", 5<<32 | 11}, {"x", 7<<32 | 0xFFFFFFFF}, {"y", 7<<32 | 0xFFFFFFFF}}
	for i, w := range want {
		if it := b.items[i]; string(it.name) != w.name || it.pos != w.pos {
			t.Errorf("item %d: got %q at 0x%x, want %q at 0x%x", i, it.name, it.pos, w.name, w.pos)
		}
	}
}
