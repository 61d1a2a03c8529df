package blockdev

import (
	"fmt"
	"sync"
)

// Op is a kind of device request.
type Op string

// The kinds of device request.
const (
	OpRead  Op = "read"
	OpWrite Op = "write"
	OpFlush Op = "flush"
)

// Rule makes requests fail. The zero Start and End mean the whole device; Nth counts matching requests from 1, 0 means each.
type Rule struct {
	Op         Op
	Start, End int64 // byte range that a request must touch; End 0 is the device's end
	Nth        int   // only the nth matching request fails; 0: all
	From       bool  // with Nth: it and all that follow
	Err        error // what the request returns
	seen       int
}

// Faulty fails requests of the device below by rule.
type Faulty struct {
	Device // immutable
	mu     sync.Mutex
	rules  []*Rule    // guarded by mu
	count  map[Op]int // guarded by mu
}

// NewFaulty wraps below with no rules.
func NewFaulty(below Device) *Faulty { return &Faulty{Device: below, count: map[Op]int{}} }

// Add installs a rule.
func (f *Faulty) Add(r Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, &r)
}

// Clear removes all rules.
func (f *Faulty) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// Count is the number of requests of a kind so far.
func (f *Faulty) Count(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count[op]
}

func (f *Faulty) judge(op Op, off int64, n int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count[op]++
	for _, r := range f.rules {
		if r.Op != op {
			continue
		}
		end := r.End
		if end == 0 {
			end = f.Device.Size()
		}
		if op != OpFlush && (off >= end || off+int64(n) <= r.Start) {
			continue
		}
		r.seen++
		if r.Nth == 0 || r.seen == r.Nth || r.From && r.seen > r.Nth {
			return fmt.Errorf("injected %s error at offset %d: %w", op, off, r.Err)
		}
	}
	return nil
}

// ReadAt reads unless a rule forbids it.
func (f *Faulty) ReadAt(p []byte, off int64) (int, error) {
	if err := f.judge(OpRead, off, len(p)); err != nil {
		return 0, err
	}
	return f.Device.ReadAt(p, off)
}

// WriteAt writes unless a rule forbids it.
func (f *Faulty) WriteAt(p []byte, off int64) (int, error) {
	if err := f.judge(OpWrite, off, len(p)); err != nil {
		return 0, err
	}
	return f.Device.WriteAt(p, off)
}

// Flush flushes unless a rule forbids it.
func (f *Faulty) Flush() error {
	if err := f.judge(OpFlush, 0, 0); err != nil {
		return err
	}
	return f.Device.Flush()
}
