package journal

import (
	"bytes"
	"syscall"
	"testing"

	"inlinefs/blockdev"
)

// placing is a device that notes what it is asked to allocate ahead, and what is written to the log before that.
type placing struct {
	blockdev.Device
	err    error
	asked  int
	placed map[int64]bool // by device block
	early  []int64
	again  []int64
	used   []int64 // not zero when it was placed
}

func (p *placing) Preallocate(off, n int64) error {
	p.asked++
	if p.err != nil {
		return p.err
	}
	for b := off / testBlock; b < (off+n)/testBlock; b++ {
		buf := make([]byte, testBlock)
		if _, err := p.ReadAt(buf, b*testBlock); err != nil {
			return err
		}
		if !bytes.Equal(buf, make([]byte, testBlock)) {
			p.used = append(p.used, b)
		}
		if p.placed[b] {
			p.again = append(p.again, b)
		}
		p.placed[b] = true
	}
	return nil
}

func (p *placing) WriteAt(b []byte, off int64) (int, error) {
	for at := off / testBlock; at < (off+int64(len(b)))/testBlock; at++ {
		if at > logAt && at < logAt+logLen && !p.placed[at] {
			p.early = append(p.early, at)
		}
	}
	return p.Device.WriteAt(b, off)
}

// TestPreallocate: each log block is allocated once, before the first write to it, while nothing is in it, also when commits wrap around.
func TestPreallocate(t *testing.T) {
	l := newLog(t)
	p := &placing{Device: l.faults, placed: map[int64]bool{}}
	logOf(l).dev = p
	for n := range uint64(3 * logLen / 4) {
		l.change(t, 1+n%8, n)
		l.change(t, 20+n%8, n)
		mustCommit(t, l)
	}
	if len(p.early)+len(p.again)+len(p.used) > 0 {
		t.Errorf("blocks written before they were allocated: %v; allocated twice: %v; in use when they were: %v", p.early, p.again, p.used)
	}
	if len(p.placed) != logLen-1 {
		t.Errorf("%d log blocks were allocated after three laps, want %d", len(p.placed), logLen-1)
	}
}

// TestPreallocateFails: a host without space for it costs nothing but the attempt.
func TestPreallocateFails(t *testing.T) {
	l := newLog(t)
	p := &placing{Device: l.faults, placed: map[int64]bool{}, err: syscall.ENOSPC}
	logOf(l).dev = p
	l.change(t, 1, 1)
	mustCommit(t, l)
	l.change(t, 1, 2)
	mustCommit(t, l)
	if p.asked != 1 {
		t.Errorf("asked %d times, want once", p.asked)
	}
}
