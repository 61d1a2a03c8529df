package stress

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"
)

func judgeFixture() (FileWant, []byte) {
	p := params{Seed: 1, Writers: 1, Mappers: 1, Files: 1}
	lay := layout{owner: []int{0, 0, 1}, tail: 2, append: 2}
	f := FileWant{Name: "r9-0", Round: 9, Layout: lay, Size: lay.size(), Maybe: -1}
	for i, o := range lay.owner {
		f.Cells = append(f.Cells, CellWant{Owner: o, Mapper: p.isMapper(o), Acked: stamp(o, 9, uint32(i)), Off: int64(lay.offset(i))})
	}
	for i := range lay.append {
		f.Cells = append(f.Cells, CellWant{Owner: 0, Acked: stamp(0, 9, uint32(50+i)), Off: int64(lay.offset(3 + i))})
	}
	return f, lay.initial(9)
}

func put(data []byte, cell int, v uint64) { binary.LittleEndian.PutUint64(data[cell*cellSize:], v) }

var judgeTests = []struct {
	name   string
	change func(f *FileWant, data []byte) []byte
	want   []string // classes
}{
	{"as made", func(f *FileWant, d []byte) []byte { return d }, nil},
	{"write acknowledged and there", func(f *FileWant, d []byte) []byte {
		f.Cells[0].Acked = stamp(0, 9, 20)
		put(d, 0, stamp(0, 9, 20))
		return d
	}, nil},
	{"write acknowledged and gone", func(f *FileWant, d []byte) []byte {
		f.Cells[0].Acked = stamp(0, 9, 20)
		return d
	}, []string{ClassLostWrite}},
	{"store acknowledged and gone", func(f *FileWant, d []byte) []byte {
		f.Cells[2].Acked = stamp(1, 9, firstSeq+4)
		return d
	}, []string{ClassLostStore}},
	{"write unacknowledged, old value", func(f *FileWant, d []byte) []byte {
		f.Cells[1].Pending = []uint64{stamp(0, 9, 21)}
		return d
	}, nil},
	{"write unacknowledged, new value", func(f *FileWant, d []byte) []byte {
		f.Cells[1].Pending = []uint64{stamp(0, 9, 21), stamp(0, 9, 22)}
		put(d, 1, stamp(0, 9, 22))
		return d
	}, nil},
	{"many unacknowledged, one of them", func(f *FileWant, d []byte) []byte {
		f.Cells[1].Overflow = true
		put(d, 1, stamp(0, 9, 4000))
		return d
	}, nil},
	{"many unacknowledged, one before", func(f *FileWant, d []byte) []byte {
		f.Cells[1].Acked, f.Cells[1].Overflow = stamp(0, 9, 4000), true
		put(d, 1, stamp(0, 9, 3999))
		return d
	}, []string{ClassLostWrite}},
	{"never written", func(f *FileWant, d []byte) []byte {
		put(d, 0, 0x1234)
		return d
	}, []string{classMismatch}},
	{"zeroes where the file was born with bytes", func(f *FileWant, d []byte) []byte {
		put(d, 2, 0)
		return d
	}, []string{ClassLostWrite}},
	{"zeroes where a store was", func(f *FileWant, d []byte) []byte {
		f.Cells[2].Acked = stamp(1, 9, firstSeq+1)
		put(d, 2, 0)
		return d
	}, []string{ClassLostStore}},
	{"cut off and back", func(f *FileWant, d []byte) []byte {
		f.Cells[0].Acked = 0
		return d
	}, []string{ClassStaleBytes}},
	{"cut off and gone", func(f *FileWant, d []byte) []byte {
		f.Cells[0].Acked = 0
		put(d, 0, 0)
		return d
	}, nil},
	{"another's stamp", func(f *FileWant, d []byte) []byte {
		put(d, 0, stamp(1, 9, 2))
		return d
	}, []string{classMismatch}},
	{"a stamp of another round", func(f *FileWant, d []byte) []byte {
		put(d, 0, stamp(0, 8, 2))
		return d
	}, []string{classMismatch}},
	{"torn", func(f *FileWant, d []byte) []byte {
		copy(d[4:8], []byte{0, 0, 1, 0})
		return d
	}, []string{classMismatch}},
	{"copied stamp, an older one", func(f *FileWant, d []byte) []byte {
		f.Copied = 2
		f.Cells[0].Acked = stamp(0, 9, 20)
		put(d, 0, stamp(1, 9, 2))
		return d
	}, []string{ClassLostWrite}},
	{"tail changed", func(f *FileWant, d []byte) []byte {
		d[len(d)-1] = 0
		return d
	}, []string{classMismatch}},
	{"too short", func(f *FileWant, d []byte) []byte { return d[:16] }, []string{classMismatch}},
	{"empty", func(f *FileWant, d []byte) []byte { return nil }, []string{classMismatch}},
	{"too long", func(f *FileWant, d []byte) []byte { return append(d, 0) }, []string{classMismatch}},
	{"appended", func(f *FileWant, d []byte) []byte {
		f.Size += cellSize
		return binary.LittleEndian.AppendUint64(d, f.Cells[3].Acked)
	}, nil},
	{"append unacknowledged, there", func(f *FileWant, d []byte) []byte {
		f.Maybe = f.Size + cellSize
		return binary.LittleEndian.AppendUint64(d, f.Cells[3].Acked)
	}, nil},
	{"append unacknowledged, not there", func(f *FileWant, d []byte) []byte {
		f.Maybe = f.Size + cellSize
		return d
	}, nil},
	{"append unacknowledged, half", func(f *FileWant, d []byte) []byte {
		f.Maybe = f.Size + cellSize
		return append(d, 1, 2, 3)
	}, []string{classMismatch}},
	{"append unacknowledged, size without data", func(f *FileWant, d []byte) []byte {
		f.Maybe = f.Size + cellSize
		return append(d, make([]byte, cellSize)...)
	}, []string{classMismatch}},
}

func TestJudge(t *testing.T) {
	for _, tt := range judgeTests {
		t.Run(tt.name, func(t *testing.T) {
			f, data := judgeFixture()
			data = tt.change(&f, data)
			found, err := Judge(f, memBytes(data))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, fd := range found {
				got = append(got, fd.Class)
				if !strings.HasPrefix(fd.Text, "round 9 file r9-0: ") {
					t.Errorf("text %q does not begin with round and file", fd.Text)
				}
			}
			if strings.Join(got, ",") != strings.Join(tt.want, ",") {
				t.Errorf("found %v, want classes %v", found, tt.want)
			}
		})
	}
}

func TestCellState(t *testing.T) {
	var c cellState
	c.reset(1)
	for v := range uint64(5) {
		c.issue(v)
		c.issue(v)
	}
	w := c.want(2, true, 8)
	if w.Acked != 1 || len(w.Pending) != 4 || w.Overflow || !w.Mapper || w.Owner != 2 {
		t.Errorf("state %+v, want acked 1 and four pending", w)
	}
	for v := uint64(10); v < 30; v++ {
		c.issue(v)
	}
	if w = c.want(2, true, 8); !w.Overflow || len(w.Pending) != maxPending {
		t.Errorf("state %+v, want an overflow with %d pending", w, maxPending)
	}
	c.ack(29)
	if w = c.want(2, true, 8); w.Acked != 29 || len(w.Pending) != 0 || w.Overflow {
		t.Errorf("state %+v, want acked 29 alone", w)
	}
}

func TestStamp(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 1000 {
		owner, round, seq := rng.IntN(maxWorkers), rng.Uint64(), rng.Uint32()
		o, r, s, ok := unstamp(stamp(owner, round, seq))
		if !ok || o != owner || r != uint16(round) || s != seq {
			t.Fatalf("stamp(%d, %d, %d) comes back as %d, %d, %d, %t", owner, round, seq, o, r, s, ok)
		}
	}
	if _, _, _, ok := unstamp(0); ok {
		t.Error("zero is a stamp")
	}
}

func TestLayout(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		p := params{Seed: rng.Uint64(), Files: 1 + rng.IntN(maxFiles), MappedBuffer: rng.IntN(2) == 0}
		p.Writers, p.Mappers = p.Files+rng.IntN(3), p.Files+rng.IntN(3)
		for f := range p.Files {
			if p.minCells(f) > maxBaseCells {
				continue
			}
			l := p.layout(rng.Uint64(), f)
			if n := len(l.owner); n < minLayoutCells || n > maxBaseCells || n+l.append > maxCells {
				t.Fatalf("%+v file %d: %d cells and %d to append", p, f, n, l.append)
			}
			if s := l.size() + l.append*cellSize; s > maxRoundBytes+4 || s < 20 {
				t.Fatalf("%+v file %d: %d bytes", p, f, s)
			}
			for id := range p.workers() {
				first, n := l.chunk(id)
				if p.fileOf(id) != f {
					if n != 0 {
						t.Fatalf("%+v: worker %d owns %d cells of file %d, which is not its file", p, id, n, f)
					}
					continue
				}
				if n < p.minOf(id) {
					t.Fatalf("%+v: worker %d owns %d cells of file %d, want %d", p, id, n, f, p.minOf(id))
				}
				for i := first; i < first+n; i++ {
					if l.owner[i] != id {
						t.Fatalf("%+v: cells of worker %d are not together: %v", p, id, l.owner)
					}
				}
			}
		}
	}
}
