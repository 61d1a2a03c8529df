package stress

import (
	"encoding/binary"
	"math/rand/v2"
)

const (
	cellSize       = 8
	maxCells       = 16  // base cells and appended ones
	maxAppended    = 4   // cells that the first writer may append
	maxRoundBytes  = 100 // stays inline in an inode of 256 bytes
	stampMagic     = 0xA5
	tailByte       = 0x5A
	cellsInIBlock  = 7 // cells that fit the 60 bytes of i_block
	minLayoutCells = 3
)

// params is what all workers and the judge must agree on; everything about a round follows from it.
type params struct {
	Seed         uint64 `json:"seed"`
	Writers      int    `json:"writers"`
	Mappers      int    `json:"mappers"`
	Files        int    `json:"files"`
	Writes       int    `json:"writes"`
	MappedBuffer bool   `json:"mapped_buffer"`
	TwoFiles     bool   `json:"two_files"`
	LateOpen     bool   `json:"late_open"`
	Resize       bool   `json:"resize"` // the first writer appends and truncates
	Sibling      string `json:"sibling,omitempty"`
}

// sibling is the race that the workers run instead of the main one; nil: the main one.
func (p params) sibling() *Sibling { return siblingByName(p.Sibling) }

// Workers have numbers: writers from 0, mappers after them.
func (p params) workers() int          { return p.Writers + p.Mappers }
func (p params) isMapper(id int) bool  { return id >= p.Writers }
func (p params) firstWriter(f int) int { return f }

// fileOf gives the file on which a worker works.
func (p params) fileOf(id int) int {
	if p.isMapper(id) {
		id -= p.Writers
	}
	return id % p.Files
}

func (p params) writersOn(f int) int {
	n := 0
	for id := range p.Writers {
		if p.fileOf(id) == f {
			n++
		}
	}
	return n
}

// minOf is how many cells a worker needs: a writer out of a mapping has two that never change, its source, and one to write.
func (p params) minOf(id int) int {
	if p.MappedBuffer && !p.isMapper(id) {
		return 3
	}
	return 1
}

func (p params) minCells(f int) int {
	n := 0
	for id := range p.workers() {
		if p.fileOf(id) == f {
			n += p.minOf(id)
		}
	}
	return n
}

// layout is one file of one round: who owns which cell.
type layout struct {
	owner  []int // of each base cell
	tail   int   // bytes after the last base cell, never changed
	append int   // cells that may be appended
	// at are the offsets of the cells of a sibling race, bytes the size of its new file; nil: cells stand one after the other.
	at    []int64
	bytes int
}

// size is the size of the file when it is new, in bytes.
func (l layout) size() int {
	if l.at != nil {
		return l.bytes
	}
	return len(l.owner)*cellSize + l.tail
}

// inside says that the new file holds the cell.
func (l layout) inside(cell int) bool { return l.offset(cell)+cellSize <= l.size() }

// offset is where a cell begins; appended cells follow the tail.
func (l layout) offset(cell int) int {
	if l.at != nil {
		return int(l.at[cell])
	}
	if cell >= len(l.owner) {
		return cell*cellSize + l.tail
	}
	return cell * cellSize
}

// chunk is the run of base cells that a worker owns: the first one and how many.
func (l layout) chunk(id int) (first, n int) {
	first = -1
	for i, o := range l.owner {
		if o != id {
			continue
		}
		if first < 0 {
			first = i
		}
		n++
	}
	return first, n
}

// layout derives the file f of a round from the seed.
func (p params) layout(round uint64, f int) layout {
	if s := p.sibling(); s != nil {
		return s.layout()
	}
	rng := rand.New(rand.NewPCG(p.Seed^round*0x9E3779B97F4A7C15, uint64(f)+1))
	least := p.minCells(f)
	cells := max(least, minLayoutCells)
	if cells < cellsInIBlock {
		cells += rng.IntN(cellsInIBlock - cells + 1)
	}
	var l layout
	extra := cells - least
	for id := range p.workers() {
		if p.fileOf(id) != f {
			continue
		}
		n := p.minOf(id)
		if !p.isMapper(id) && id == p.firstWriter(f) {
			n += extra - extra/2
		} else if id == p.Writers+f {
			n += extra / 2
		}
		for range n {
			l.owner = append(l.owner, id)
		}
	}
	l.tail = rng.IntN(5)
	for l.append < maxAppended && l.size()+(l.append+1)*cellSize <= maxRoundBytes {
		l.append++
	}
	return l
}

// stamp is the value of a cell: who wrote it, in which round, as which of its stamps.
func stamp(owner int, round uint64, seq uint32) uint64 {
	return stampMagic<<56 | uint64(uint8(owner))<<48 | uint64(uint16(round))<<32 | uint64(seq)
}

// unstamp takes a value apart; ok is false for bytes that nobody stamped.
func unstamp(v uint64) (owner int, round uint16, seq uint32, ok bool) {
	return int(uint8(v >> 48)), uint16(v >> 32), uint32(v), v>>56 == stampMagic
}

// initial is the content of the new file: sequence 0 of every owner. Cells get distinct numbers from stampSeq later on.
func (l layout) initial(round uint64) []byte {
	buf := make([]byte, l.size())
	for i, o := range l.owner {
		if l.at == nil || l.inside(i) {
			binary.LittleEndian.PutUint64(buf[l.offset(i):], stamp(o, round, uint32(i)))
		}
	}
	if l.at != nil {
		return buf
	}
	for i := len(l.owner) * cellSize; i < len(buf); i++ {
		buf[i] = tailByte
	}
	return buf
}
