package journal

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"inlinefs/blockdev"
	"inlinefs/buffer"
	"inlinefs/ondisk/jbd2"
)

// logged is one block of a transaction as it was when the transaction was locked.
type logged struct {
	b    *buffer.Head
	data []byte
}

// commitThread commits transactions that are old or in somebody's way (kjournald2). Who waits for a commit makes it in its own goroutine:
// see waitTid.
func (l *log) commitThread() {
	defer l.done.Done()
	for {
		select {
		case <-l.quit:
			return
		case <-l.wake:
		}
		l.mu.Lock()
		for l.want && l.running != nil && !l.busy {
			l.commitRunning()
		}
		l.mu.Unlock()
	}
}

// commitRunning commits the running transaction. The caller holds l.mu, which is free meanwhile, and nobody else commits.
func (l *log) commitRunning() {
	t := l.running
	l.busy, l.want = true, false
	t.locked = true
	t.timer.Stop()
	if t.gathering != nil {
		t.gathering.Stop()
	}
	for t.updates > 0 {
		l.cond.Wait()
	}
	l.mu.Unlock()
	// No handle is open and none can start: the blocks stand still while they are copied.
	blocks := l.copyOut(t)
	l.switchTo(t)
	err := l.j.Aborted()
	start := time.Now()
	if err == nil {
		err = l.write(t, blocks)
	}
	took := time.Since(start)
	if err != nil {
		l.abort(fmt.Errorf("commit of transaction %d: %w", t.tid, err))
	}
	if cap(l.copies) > keepCopies {
		l.copies = nil
	}
	l.finish(t, err)
	l.mu.Lock()
	l.busy = false
	l.learn(t, took)
	if l.want {
		poke(l.wake) // asked for while this one was on its way
	}
	l.cond.Broadcast()
}

// learn notes what the commit of t says about the next one. The caller holds l.mu.
func (l *log) learn(t *transaction, took time.Duration) {
	l.expected = t.waiters
	if l.running != nil {
		l.expected += l.running.waiters
	}
	switch {
	case !l.threads:
	case l.avgCommit == 0:
		l.avgCommit = took
	default:
		l.avgCommit = (3*l.avgCommit + took) / 4
	}
}

// keepCopies is the size in bytes up to which the memory of a transaction's copies is kept for the next one.
const keepCopies = 8 << 20

// copyOut copies every block that t logs, in block order.
func (l *log) copyOut(t *transaction) []logged {
	l.mu.Lock()
	out := make([]logged, 0, t.n)
	for _, b := range t.heads {
		if jh := b.JH.(*jhead); jh.tx == t && jh.dirty {
			out = append(out, logged{b: b})
		}
	}
	t.need = l.logBlocks(len(out), len(t.revokes))
	l.mu.Unlock()
	if n := len(out) * l.bs; cap(l.copies) < n {
		l.copies = make([]byte, n)
	}
	mem := l.copies[:cap(l.copies)]
	for k := range out {
		out[k].data = mem[k*l.bs : (k+1)*l.bs : (k+1)*l.bs]
		out[k].b.Lock()
		copy(out[k].data, out[k].b.Data())
		out[k].b.Unlock()
	}
	slices.SortFunc(out, func(a, b logged) int { return cmp.Compare(a.b.Block(), b.b.Block()) })
	return out
}

// switchTo makes t the committing transaction; handles may start in the next one.
func (l *log) switchTo(t *transaction) {
	l.mu.Lock()
	defer l.mu.Unlock()
	keep := t.heads[:0]
	for _, b := range t.heads {
		jh, ok := b.JH.(*jhead)
		if !ok || jh.tx != t {
			continue
		}
		jh.tx = nil
		switch {
		case jh.dirty || jh.forget:
			jh.inCommit = true
			keep = append(keep, b)
		default: // access was taken and nothing changed
			if jh.wasDirty || jh.cp != nil {
				b.MarkDirty()
			}
			l.detach(b, jh)
		}
		jh.dirty, jh.wasDirty = false, false
	}
	t.heads = keep
	l.running, l.committing = nil, t
	l.cond.Broadcast()
}

// write puts t into the log: revoke records, descriptors and blocks, a flush (which also makes the file data of data=ordered durable),
// the commit block, a flush.
func (l *log) write(t *transaction, blocks []logged) error {
	l.mu.Lock()
	if t.need > l.free {
		defer l.mu.Unlock()
		return fmt.Errorf("transaction needs %d log blocks, %d are free", t.need, l.free)
	}
	t.logStart = l.head
	empty := l.sb.Start == 0
	if empty {
		l.sb.Start, l.sb.Sequence = t.logStart, t.tid
	}
	l.mu.Unlock()
	if empty {
		// The mount's needs_recovery flag is on the device before the log says that it is not empty.
		if err := errors.Join(l.dev.Flush(), l.writeSuper()); err != nil {
			return err
		}
	}
	l.preallocate(t.logStart + t.need)
	w := logWriter{l: l, at: t.logStart, buf: l.run[:0]}
	if err := l.writeRevokes(t, &w); err != nil {
		return err
	}
	if err := l.writeBlocks(t, &w, blocks); err != nil {
		return err
	}
	if err := errors.Join(w.flush(), l.dev.Flush()); err != nil {
		return err
	}
	now := time.Now()
	if err := l.format.EncodeCommit(w.next(), jbd2.Commit{Sequence: t.tid, Sec: uint64(now.Unix()), Nsec: uint32(now.Nanosecond())}); err != nil {
		return err
	}
	if err := errors.Join(w.flush(), l.dev.Flush()); err != nil {
		return err
	}
	l.mu.Lock()
	t.logLen = w.count
	l.head = w.at
	l.free -= w.count
	l.mu.Unlock()
	return nil
}

// preallocate makes sure, in the first lap through the log, that its blocks up to to and some more have their place on the host's disk: in
// a sparse image, or one whose journal mkfs zeroed by FALLOC_FL_ZERO_RANGE, each commit's two flushes would also have to commit the
// host's metadata. What lies ahead of head in the first lap is free, and nobody else writes there. The caller owns busy.
func (l *log) preallocate(to uint32) {
	p, ok := l.dev.(blockdev.Preallocator)
	for ok && l.placed < min(to, l.end) {
		n := uint32(1)
		for n < logRun/uint32(l.bs) && l.placed+n < l.end && l.blocks[l.placed+n] == l.blocks[l.placed]+uint64(n) {
			n++
		}
		if err := p.Preallocate(l.at(l.placed), int64(n)*int64(l.bs)); err != nil {
			// Only slower: what is wrong with the device is for the log's own writes to say.
			l.j.log.Debug("journal blocks are not allocated ahead", "block", l.blocks[l.placed], "err", err)
			l.placed = l.end
			return
		}
		l.placed += n
	}
}

func (l *log) writeRevokes(t *transaction, w *logWriter) error {
	blks := make([]uint64, 0, len(t.revokes))
	for b := range t.revokes {
		blks = append(blks, b)
	}
	slices.Sort(blks)
	for len(blks) > 0 {
		r, err := l.format.NewRevoke(w.next(), t.tid)
		if err != nil {
			return err
		}
		for len(blks) > 0 && !r.Full() {
			if err := r.Add(blks[0]); err != nil {
				return err
			}
			blks = blks[1:]
		}
		if err := r.Finish(); err != nil {
			return err
		}
		if err := w.done(); err != nil {
			return err
		}
	}
	return nil
}

func (l *log) writeBlocks(t *transaction, w *logWriter, blocks []logged) error {
	desc := l.desc
	for len(blocks) > 0 {
		d, err := l.format.NewDescriptor(desc, t.tid)
		if err != nil {
			return err
		}
		n := 0
		for n < len(blocks) && !d.Full() {
			x := blocks[n]
			escaped := jbd2.Escape(x.data)
			if err := d.Add(x.b.Block(), x.data, escaped); err != nil {
				return err
			}
			n++
		}
		if err := d.Finish(); err != nil {
			return err
		}
		if err := w.put(desc); err != nil {
			return err
		}
		for _, x := range blocks[:n] {
			if err := w.put(x.data); err != nil {
				return err
			}
		}
		blocks = blocks[n:]
	}
	return nil
}

// finish hands the blocks of t over to write-back, and tells whoever waits. err is why it did not reach the log.
func (l *log) finish(t *transaction, err error) {
	l.mu.Lock()
	for _, b := range t.heads {
		jh := b.JH.(*jhead)
		jh.inCommit = false
		if jh.cp != nil {
			delete(jh.cp.cp, b)
			jh.cp = nil
		}
		if _, gone := t.revokes[b.Block()]; err == nil && !gone {
			jh.cp = t
			t.cp[b] = struct{}{}
			if jh.tx == nil {
				b.MarkDirty()
			}
		}
		if jh.tx == nil {
			jh.forget = false
		}
		l.detach(b, jh)
	}
	t.heads = nil
	calls := t.callbacks
	t.callbacks = nil
	l.mu.Unlock()
	// The transaction counts as committing until its callbacks have run: who then finds nothing to wait for finds the blocks that it freed.
	if err == nil {
		for _, f := range calls {
			f()
		}
	}
	l.mu.Lock()
	if err == nil && t.logLen > 0 {
		l.cpq = append(l.cpq, t)
	}
	l.committing = nil
	t.err = err
	crowded := l.free < (l.end-l.first)/2 || l.maxPin > 0 && l.pinned > l.maxPin
	l.cond.Broadcast()
	l.mu.Unlock()
	close(t.done)
	if crowded {
		poke(l.cpWake)
	}
}

// logWriter appends blocks to the log, wrapping around, contiguous ones in one write.
type logWriter struct {
	l     *log
	at    uint32 // next log block
	count uint32
	from  uint32 // first log block of buf
	buf   []byte
}

const logRun = 1 << 20

// next returns the zeroed place of the next block; it counts at once and is written by flush, at the latest. The caller fills it
// before the next call.
func (w *logWriter) next() []byte {
	bs := w.l.bs
	if len(w.buf) == 0 {
		w.from = w.at
	}
	w.buf = w.buf[:len(w.buf)+bs]
	w.count++
	w.at++
	if w.at == w.l.end {
		w.at = w.l.first
	}
	p := w.buf[len(w.buf)-bs:]
	clear(p)
	return p
}

// done writes what was gathered when it is long enough or the next block is elsewhere on the device.
func (w *logWriter) done() error {
	last := w.from + uint32(len(w.buf)/w.l.bs) - 1
	if len(w.buf)+w.l.bs > logRun || w.at != last+1 || w.l.blocks[w.at] != w.l.blocks[last]+1 {
		return w.flush()
	}
	return nil
}

func (w *logWriter) put(p []byte) error {
	copy(w.next(), p)
	return w.done()
}

func (w *logWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	_, err := w.l.dev.WriteAt(w.buf, w.l.at(w.from))
	w.buf = w.buf[:0]
	return err
}
