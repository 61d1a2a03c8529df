package journal

import (
	"errors"
	"fmt"
	"syscall"

	"inlinefs/buffer"
)

// checkpointThread makes room in the log when it runs short, so that handles wait for it seldom.
func (l *log) checkpointThread() {
	defer l.done.Done()
	for {
		select {
		case <-l.quit:
			return
		case <-l.cpWake:
		}
		for l.crowded() {
			if err := l.checkpointOldest(); err != nil {
				l.abort(fmt.Errorf("checkpoint: %w", err))
				break
			}
		}
		l.mu.Lock()
		l.cond.Broadcast()
		l.mu.Unlock()
	}
}

// crowded says whether checkpointing should go on: until three quarters of the log are free.
func (l *log) crowded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.cpq) == 0 || l.j.Aborted() != nil {
		return false
	}
	return l.free < (l.end-l.first)/4*3 || l.maxPin > 0 && l.pinned > l.maxPin/2
}

// checkpointOldest puts the blocks of the oldest transaction in place and frees its log space (jbd2_log_do_checkpoint). A block that
// the running transaction has changed again is in place only after that one's commit.
func (l *log) checkpointOldest() error {
	l.cpMu.Lock()
	defer l.cpMu.Unlock()
	for {
		l.mu.Lock()
		if len(l.cpq) == 0 {
			l.mu.Unlock()
			return nil
		}
		t := l.cpq[0]
		heads := make([]*buffer.Head, 0, len(t.cp))
		for b := range t.cp {
			if jh := b.JH.(*jhead); jh.tx == nil && !jh.inCommit {
				b.Hold()
				heads = append(heads, b)
			}
		}
		l.mu.Unlock()
		err := l.j.bufs.WriteBlocks(heads)
		for _, b := range heads {
			b.Release()
		}
		if err != nil {
			return err
		}
		left, wait := l.dropClean(t)
		if left == 0 {
			return l.advanceTail()
		}
		if wait != nil {
			mightWait()
			<-wait.done
			if wait.err != nil {
				return wait.err
			}
		}
	}
}

// dropClean takes blocks that are in place off t's list; left is how many remain, wait the transaction that has one of them.
func (l *log) dropClean(t *transaction) (left int, wait *transaction) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for b := range t.cp {
		jh := b.JH.(*jhead)
		switch {
		case jh.tx != nil:
			wait = jh.tx
			if wait == l.running {
				l.request()
			}
		case jh.inCommit:
			wait = l.committing
		case !b.Dirty():
			delete(t.cp, b)
			jh.cp = nil
			l.detach(b, jh)
		}
	}
	return len(t.cp), wait
}

// advanceTail frees the log space of the transactions at the tail that have nothing left to be put in place: the device is flushed
// first, and the superblock that says so is durable before the space is used again (jbd2_cleanup_journal_tail).
func (l *log) advanceTail() error {
	if err := l.dev.Flush(); err != nil {
		return err
	}
	l.mu.Lock()
	// A commit that failed has taken blocks off the lists which are not in place: the log must keep them.
	if err := l.j.Aborted(); err != nil {
		l.mu.Unlock()
		return err
	}
	var freed uint32
	for len(l.cpq) > 0 && len(l.cpq[0].cp) == 0 {
		freed += l.cpq[0].logLen
		l.cpq = l.cpq[1:]
	}
	switch {
	case len(l.cpq) > 0:
		l.sb.Start, l.sb.Sequence = l.cpq[0].logStart, l.cpq[0].tid
	default:
		l.sb.Start, l.sb.Sequence = l.head, l.nextTid
		if l.running != nil {
			l.sb.Sequence = l.running.tid
		}
		if c := l.committing; c != nil {
			l.sb.Sequence = c.tid
			if c.logLen > 0 { // it is in the log already, and head is behind it
				l.sb.Start = c.logStart
			}
		}
	}
	l.mu.Unlock()
	if err := errors.Join(l.writeSuper(), l.dev.Flush()); err != nil {
		return err
	}
	l.mu.Lock()
	l.free += freed
	l.cond.Broadcast()
	l.mu.Unlock()
	return nil
}

// abort ends the journal and notes that in its superblock, for the next recovery (jbd2_journal_abort).
func (l *log) abort(err error) {
	l.j.Abort(err)
	l.mu.Lock()
	l.sb.Errno = -int32(syscall.EIO)
	l.mu.Unlock()
	if err := l.writeSuper(); err != nil {
		l.j.log.Error("the journal's error is not in its superblock", "err", err)
	}
}

// writeSuper writes the journal's superblock. The caller flushes.
func (l *log) writeSuper() error {
	p := make([]byte, l.bs)
	if _, err := l.dev.ReadAt(p, l.at(0)); err != nil {
		return err
	}
	l.mu.Lock()
	err := l.sb.Encode(p)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	_, err = l.dev.WriteAt(p, l.at(0))
	return err
}

// close commits and checkpoints everything and marks the log empty (jbd2_journal_destroy). After an abort the log is left for recovery,
// with the error in its superblock.
func (l *log) close() error {
	err := l.commit(true)
	for err == nil {
		l.mu.Lock()
		n := len(l.cpq)
		l.mu.Unlock()
		if n == 0 {
			break
		}
		err = l.checkpointOldest()
	}
	close(l.quit)
	l.done.Wait()
	l.mu.Lock()
	if l.j.Aborted() == nil && err == nil {
		l.sb.Start, l.sb.Sequence, l.sb.Head = 0, l.nextTid, l.head
	} else {
		l.sb.Errno = -int32(syscall.EIO)
	}
	l.mu.Unlock()
	return errors.Join(err, l.writeSuper(), l.dev.Flush())
}
