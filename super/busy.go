package super

// NotBusy cuts a run of n free blocks at index i where it meets a run that was freed by a transaction which is not on the device
// yet: such blocks must not be used again before. The caller holds g.Mu.
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
		for k := range g.Busy {
			if g.Busy[k] == r {
				g.Busy = append(g.Busy[:k], g.Busy[k+1:]...)
				break
			}
		}
		g.LargestFree = ^uint32(0)
	})
}
