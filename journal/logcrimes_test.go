package journal

import (
	"errors"
	"testing"
)

// TestLogCrimes breaks the rules that only a log has: what a transaction owns is not changed behind its back.
func TestLogCrimes(t *testing.T) {
	for _, c := range []crime{
		{name: "block of another live transaction", class: ForeignBuffer, opener: "openHere", commit: foreignBuffer},
		{name: "change of a block that is being committed, without access", class: NoWriteAccess, opener: "openHere", commit: unsharedChange},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLog(t)
			err := c.commit(t, l.lab)
			punished(t, l.lab, c, err)
			if n := l.j.OpenHandles(); n != 0 {
				t.Errorf("%d handles are open, want 0", n)
			}
			l.works(t)
		})
	}
}

// foreignBuffer files a block with a transaction that is neither running nor committing, which no code path can do, and takes access to it.
func foreignBuffer(t *testing.T, l *lab) error {
	lg := l.j.be.(*log)
	b := l.block(t, 9)
	lg.mu.Lock()
	jh := lg.jh(b)
	jh.tx = &transaction{tid: 77}
	lg.mu.Unlock()
	task, h := openHere(t, l, 2)
	defer stopAll(t, task, h)
	err := h.GetWriteAccess(b)
	lg.mu.Lock()
	jh.tx = nil
	lg.detach(b, jh)
	lg.mu.Unlock()
	return err
}

// unsharedChange changes a block while a commit writes it, without write access in the next transaction: the change is refused, and what
// reaches the log is the copy that the commit had made.
func unsharedChange(t *testing.T, l *lab) error {
	lg := l.j.be.(*log)
	g := &gate{Device: lg.dev, reached: make(chan struct{}, 16)}
	lg.dev = g // no commit has begun
	task, h := l.start(t, 1)
	b := l.block(t, 40)
	err := h.GetWriteAccess(b)
	b.Lock()
	b.Data()[0] = 1
	b.Unlock()
	tid := h.Tid()
	if err := errors.Join(err, h.DirtyMetadata(b), h.Stop(), task.End()); err != nil {
		t.Fatal(err)
	}
	g.close()
	done := make(chan error, 1)
	go func() {
		_, err := l.j.WaitTid(tid)
		done <- err
	}()
	<-g.reached
	thief, h2 := openHere(t, l, 1)
	b.Lock()
	b.Data()[0] = 2
	b.Unlock()
	crime := h2.DirtyMetadata(b)
	b.Lock()
	b.Data()[0] = 1
	b.Unlock()
	if e := l.j.Stop(thief, h2, 12); !errors.Is(e, crime) {
		t.Errorf("stop says %v, want the error under the handle, %v", e, crime)
	}
	g.open()
	if err := <-done; err != nil {
		t.Errorf("the commit ends with %v", err)
	}
	p := make([]byte, testBlock)
	if _, err := g.ReadAt(p, lg.at(2)); err != nil || p[0] != 1 {
		t.Errorf("the log has %d (%v) for the block, want the 1 of the transaction that it belongs to", p[0], err)
	}
	return crime
}
