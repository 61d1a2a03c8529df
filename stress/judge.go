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

// classify names what is wrong with a value that the cell does not allow: an older stamp of the right hand is a loss, all else is
// foreign or torn.
func (f *FileWant) classify(w CellWant, v uint64) string {
	owner, round, _, ok := unstamp(v)
	if !ok || round != uint16(f.Round) || owner != w.Owner && owner >= f.Copied {
		return classMismatch
	}
	if w.Mapper {
		return ClassLostStore
	}
	return ClassLostWrite
}

// Judge compares what a file holds with what it may hold. No finding: all is right.
func Judge(f FileWant, data []byte) []Finding {
	var out []Finding
	add := func(class, format string, args ...any) {
		out = append(out, Finding{Class: class, Text: fmt.Sprintf("round %d file %s: ", f.Round, f.Name) + fmt.Sprintf(format, args...)})
	}
	if len(data) != f.Size && (f.Maybe < 0 || len(data) != f.Maybe) {
		if f.Maybe >= 0 {
			add(classMismatch, "size %d, want %d or %d", len(data), f.Size, f.Maybe)
		} else {
			add(classMismatch, "size %d, want %d", len(data), f.Size)
		}
	}
	for i, c := range f.Cells {
		off := f.Layout.offset(i)
		if off+cellSize > len(data) {
			break // a size that is wrong has been said
		}
		v := binary.LittleEndian.Uint64(data[off:])
		if c.allows(v) {
			continue
		}
		add(f.classify(c, v), "cell %d at byte %d of worker %d: found %s, want %s", i, off, c.Owner, stampText(v), wantText(c))
	}
	if t := len(f.Layout.owner) * cellSize; t+f.Layout.tail <= len(data) {
		want := bytes.Repeat([]byte{tailByte}, f.Layout.tail)
		if got := data[t : t+f.Layout.tail]; !bytes.Equal(got, want) {
			add(classMismatch, "bytes %d to %d, which nobody writes: found % x, want % x", t, t+f.Layout.tail-1, got, want)
		}
	}
	return out
}

func stampText(v uint64) string {
	owner, round, seq, ok := unstamp(v)
	if !ok {
		return fmt.Sprintf("%#016x (no stamp)", v)
	}
	return fmt.Sprintf("stamp %d of worker %d in round %d", seq, owner, round)
}

func wantText(c CellWant) string {
	s := stampText(c.Acked)
	for _, p := range c.Pending {
		s += " or " + stampText(p)
	}
	if c.Overflow {
		s += " or a later one"
	}
	return s
}
