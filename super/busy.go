package super

import (
	"slices"

	"inlinefs/internal/lock"
)

// NotBusy cuts a run of n free blocks at index i where it meets a run that may not be used: freed by a transaction which is not on the
// device yet, or held for somebody in memory. The caller holds g.Mu.
func (g *Group) NotBusy(i, n uint32) uint32 {
	for _, r := range g.Busy {
		if i+n <= r.Start || r.Start+r.Len <= i {
			continue
		}
		if r.Start <= i {
			return 0
		}
		n = r.Start - i
	}
	return n
}

// HoldBusy keeps r from being used until the running transaction has committed. The caller holds g.Mu.
func (g *Group) HoldBusy(r Run, onCommit func(func())) {
	g.Busy = append(g.Busy, r)
	onCommit(func() {
		g.Mu.Lock()
		defer g.Mu.Unlock()
		g.Unbusy(r)
	})
}

// Busy is the number of blocks in all groups that are free and may not be used: none once everything is committed and nothing is held.
func (f *FS) Busy() (n int) {
	for _, g := range f.groups {
		g.Mu.Lock()
		for _, r := range g.Busy {
			n += int(r.Len)
		}
		g.Mu.Unlock()
	}
	return n
}

// Unbusy lets r be used again. The caller holds g.Mu.
func (g *Group) Unbusy(r Run) {
	if k := slices.Index(g.Busy, r); k >= 0 {
		g.Busy = slices.Delete(g.Busy, k, k+1)
	}
	g.LargestFree = ^uint32(0)
	if g.returned != nil {
		lock.Point("runs returned", 0)
		g.returned.Add(1)
	}
}

// Returned counts the runs that may be used again, of all groups: while it stays, and Busy is 0, who found no space finds none by waiting.
func (f *FS) Returned() uint64 {
	lock.ReadPoint("runs returned", 0)
	return f.returned.Load()
}
