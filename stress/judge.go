package stress

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// Classes of finding that the harness adds to those of the mount.
const (
	ClassLostWrite  = "lost-write"       // an acknowledged write(2) is gone
	ClassLostStore  = "lost-store"       // a store that msync acknowledged is gone
	ClassHang       = "hang"             // nothing moved
	ClassUnexpected = "unexpected-error" // a call failed though the mount had no violation to answer for
	ClassTornRead   = "torn-read"        // read(2) gave bytes that were never in the file; the next read gave the right ones
	ClassStaleBytes = "stale-bytes"      // what was truncated away or punched out is back
	classMismatch   = "data-mismatch"    // bytes that nobody wrote there, or a size that nobody set; counted apart
)

// Finding is one thing that the judge found wrong.
type Finding struct {
	Class string `json:"class"`
	Text  string `json:"text"`
}

// CellWant says what may be found in 8 bytes of a file.
type CellWant struct {
	Owner    int      // worker
	Mapper   bool     // the owner stores through a mapping
	Acked    uint64   // the last value acknowledged
	Pending  []uint64 // values issued since without an acknowledgement: as right as Acked
	Overflow bool     // more were issued than Pending holds: any later stamp of the owner is right
	Off      int64    // byte of the file where the cell begins
}

// FileWant says what may be found in a file at the end of a round.
type FileWant struct {
	Name   string
	Round  uint64
	Layout layout
	Cells  []CellWant // base cells, then appended ones
	Size   int        // as acknowledged, bytes
	Maybe  int        // the size that a call without acknowledgement asked for, -1: none
	Copied int        // workers below this number have stamps that others may copy
}

// bytesOf is what Judge looks at: a file that is open, or its bytes.
type bytesOf interface {
	size() int
	// at fills p with what stands at off, which lies within the size.
	at(off int64, p []byte) error
}

// memBytes are the bytes of a small file.
type memBytes []byte

func (m memBytes) size() int { return len(m) }

func (m memBytes) at(off int64, p []byte) error {
	copy(p, m[off:])
	return nil
}

// allows tells if a value may be in the cell.
func (w CellWant) allows(v uint64) bool {
	if v == w.Acked || slices.Contains(w.Pending, v) {
		return true
	}
	if !w.Overflow {
		return false
	}
	_, round, seq, _ := unstamp(w.Acked)
	o, r, s, ok := unstamp(v)
	return ok && o == w.Owner && r == round && s >= seq
}

// classify names what is wrong with a value that the cell does not allow: an older stamp of the right hand, or zero, is a loss; a stamp
// where zero should be is stale; all else is foreign or torn.
func (f *FileWant) classify(w CellWant, v uint64) string {
	owner, round, _, ok := unstamp(v)
	mine := ok && round == uint16(f.Round) && (owner == w.Owner || owner < f.Copied)
	switch {
	case mine && w.Acked == 0:
		return ClassStaleBytes
	case !mine && v != 0:
		return classMismatch
	}
	// The bytes that a mapper's cell was born with came by write(2).
	if _, _, seq, ok := unstamp(w.Acked); w.Mapper && ok && seq >= firstSeq {
		return ClassLostStore
	}
	return ClassLostWrite
}

// Judge compares what a file holds with what it may hold. No finding: all is right. The error is that of reading.
func Judge(f FileWant, data bytesOf) ([]Finding, error) {
	var out []Finding
	add := func(class, format string, args ...any) {
		out = append(out, Finding{Class: class, Text: fmt.Sprintf("round %d file %s: ", f.Round, f.Name) + fmt.Sprintf(format, args...)})
	}
	size := data.size()
	if size != f.Size && (f.Maybe < 0 || size != f.Maybe) {
		if f.Maybe >= 0 {
			add(classMismatch, "size %d, want %d or %d", size, f.Size, f.Maybe)
		} else {
			add(classMismatch, "size %d, want %d", size, f.Size)
		}
	}
	for i, c := range f.Cells {
		if c.Off+cellSize > int64(size) {
			continue // a size that is wrong has been said
		}
		var b [cellSize]byte
		if err := data.at(c.Off, b[:]); err != nil {
			return out, err
		}
		if v := binary.LittleEndian.Uint64(b[:]); !c.allows(v) {
			class := f.classify(c, v)
			if c.Off >= int64(f.Size) {
				class = classMismatch // nothing there was acknowledged
			}
			add(class, "cell %d at byte %d of worker %d: found %s, want %s", i, c.Off, c.Owner, stampText(v), wantText(c))
		}
	}
	if t := len(f.Layout.owner) * cellSize; f.Layout.at == nil && t+f.Layout.tail <= size {
		want, got := bytes.Repeat([]byte{tailByte}, f.Layout.tail), make([]byte, f.Layout.tail)
		if err := data.at(int64(t), got); err != nil {
			return out, err
		}
		if !bytes.Equal(got, want) {
			add(classMismatch, "bytes %d to %d, which nobody writes: found % x, want % x", t, t+f.Layout.tail-1, got, want)
		}
	}
	return out, nil
}

func stampText(v uint64) string {
	if v == 0 {
		return "zero"
	}
	owner, round, seq, ok := unstamp(v)
	if !ok {
		return fmt.Sprintf("%#016x (no stamp)", v)
	}
	return fmt.Sprintf("stamp %d of worker %d in round %d", seq, owner, round)
}

// maxTold is how many values that would also be right are told.
const maxTold = 2

func wantText(c CellWant) string {
	s := stampText(c.Acked)
	for i, p := range c.Pending {
		if i == maxTold {
			s += fmt.Sprintf(" or one of %d more", len(c.Pending)-i)
			break
		}
		s += " or " + stampText(p)
	}
	if c.Overflow {
		s += " or a later one"
	}
	return s
}
