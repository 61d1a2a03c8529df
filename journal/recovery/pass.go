package recovery

import (
	"fmt"

	"inlinefs/ondisk/jbd2"
)

// cursor walks the log's blocks round its end and counts them, so that no walk
// is longer than the log.
type cursor struct {
	r    *recovery
	blk  uint32 // next block
	left uint32 // blocks that may still be taken
}

func (r *recovery) start() cursor {
	return cursor{r: r, blk: r.sb.Start, left: r.last - r.first}
}

// next gives the next block's number and steps over it; false when the whole
// log was walked.
func (c *cursor) next() (uint32, bool) {
	if c.left == 0 {
		return c.blk, false
	}
	b := c.blk
	c.left--
	if c.blk++; c.blk >= c.r.last {
		c.blk = c.r.first
	}
	return b, true
}

// skip steps over n blocks; false when the log is not that long.
func (c *cursor) skip(n int) bool {
	if n < 0 || uint64(n) > uint64(c.left) {
		c.left = 0
		return false
	}
	c.left -= uint32(n)
	span := uint64(c.r.last - c.r.first)
	c.blk = c.r.first + uint32((uint64(c.blk-c.r.first)+uint64(n))%span)
	return true
}

// read reads a log block.
func (r *recovery) read(blk uint32, p []byte) error {
	if err := r.log.ReadBlock(blk, p); err != nil {
		return fmt.Errorf("read journal block %d: %w", blk, err)
	}
	return nil
}

// step reads the next header block. It gives a reason, and no header, if the
// block does not continue transaction tid.
func (r *recovery) step(c *cursor, tid uint32) (uint32, jbd2.Header, StopReason, error) {
	blk, ok := c.next()
	if !ok {
		return blk, jbd2.Header{}, StopFull, nil
	}
	if err := r.read(blk, r.buf); err != nil {
		return blk, jbd2.Header{}, "", err
	}
	h, err := jbd2.DecodeHeader(r.buf)
	switch {
	case err != nil:
		return blk, h, StopMagic, nil
	case h.Sequence != tid:
		return blk, h, StopSequence, nil
	case h.Type != jbd2.TypeDescriptor && h.Type != jbd2.TypeCommit && h.Type != jbd2.TypeRevoke:
		return blk, h, StopType, nil
	}
	return blk, h, "", nil
}

// scanState is what PASS_SCAN keeps from block to block.
type scanState struct {
	cursor
	tid     uint32 // transaction being read
	suspect error  // bad checksum in this transaction: the commit time decides
	bad     error  // this transaction can't be replayed if it is complete
	ended   bool   // with ASYNC_COMMIT: the end is known, reading on
	sum     uint32 // version 1 checksum
	when    uint64 // last commit time in seconds
	head    uint32 // block after the last good commit
	count   int    // complete transactions
}

// end fixes the end of the log, the first time it is called.
func (r *recovery) end(s *scanState, why StopReason, blk uint32) {
	if s.ended {
		return
	}
	s.ended = true
	r.res.LastTid, r.res.Head, r.res.Transactions = s.tid, s.head, s.count
	r.res.StoppedAt, r.res.StoppedBlock = why, blk
}

// scan is PASS_SCAN: find the last complete transaction. With a checksum error
// in a transaction that was committed and is not a leftover of an earlier log
// it gives an error.
func (r *recovery) scan() error {
	s := &scanState{cursor: r.start(), tid: r.sb.Sequence, sum: jbd2.CRC32BEInit, head: r.sb.Start}
	for {
		blk, h, stop, err := r.step(&s.cursor, s.tid)
		if err != nil {
			return err
		}
		if stop != "" {
			r.end(s, stop, blk)
			return nil
		}
		var done bool
		switch h.Type {
		case jbd2.TypeDescriptor:
			done, err = r.scanDescriptor(s, blk)
		case jbd2.TypeRevoke:
			err = r.scanRevoke(s, blk)
		case jbd2.TypeCommit:
			done, err = r.scanCommit(s, blk)
		}
		if err != nil || done {
			return err
		}
	}
}

func (r *recovery) scanDescriptor(s *scanState, blk uint32) (done bool, err error) {
	if err := r.f.VerifyTail(r.buf); err != nil && s.suspect == nil {
		s.suspect = fmt.Errorf("descriptor in journal block %d: %w", blk, err)
	}
	r.tags, err = r.f.DecodeTags(r.tags[:0], r.buf)
	if err != nil {
		return true, fmt.Errorf("descriptor in journal block %d: %w", blk, err)
	}
	for _, t := range r.tags {
		if t.Block >= r.opts.FSBlocks && s.bad == nil {
			s.bad = fmt.Errorf("%w: transaction %d, journal block %d: tag for block %d of a file system of %d",
				ErrRange, s.tid, blk, t.Block, r.opts.FSBlocks)
		}
	}
	if !r.f.Features.ChecksumV1() || s.ended {
		if !s.skip(len(r.tags)) {
			r.end(s, StopFull, blk)
			return true, nil
		}
		return false, nil
	}
	s.sum = jbd2.CRC32BE(s.sum, r.buf)
	for range r.tags {
		b, ok := s.next()
		if !ok {
			r.end(s, StopFull, blk)
			return true, nil
		}
		if err := r.read(b, r.data); err != nil {
			r.end(s, StopReadError, b)
			return true, nil
		}
		s.sum = jbd2.CRC32BE(s.sum, r.data)
	}
	return false, nil
}

func (r *recovery) scanRevoke(s *scanState, blk uint32) error {
	if err := r.f.VerifyTail(r.buf); err != nil {
		if s.suspect == nil {
			s.suspect = fmt.Errorf("revoke records in journal block %d: %w", blk, err)
		}
		return nil
	}
	var err error
	if r.blocks, err = r.f.DecodeRevoke(r.blocks[:0], r.buf); err != nil && s.bad == nil {
		s.bad = fmt.Errorf("revoke records in journal block %d: %w", blk, err)
	}
	return nil
}

func (r *recovery) scanCommit(s *scanState, blk uint32) (done bool, err error) {
	c, err := r.f.DecodeCommit(r.buf)
	if err != nil {
		return true, fmt.Errorf("commit in journal block %d: %w", blk, err)
	}
	if s.ended && r.f.Features.ChecksumV1() {
		return true, nil
	}
	if s.suspect != nil {
		if !s.ended && c.Sec >= s.when {
			return true, fmt.Errorf("transaction %d: %w", s.tid, s.suspect)
		}
		// The blocks are older than the last commit: the log ended before.
		r.end(s, StopStale, blk)
		return true, nil
	}
	good := r.f.VerifyCommit(r.buf) == nil
	if r.f.Features.ChecksumV1() {
		good = c.V1Matches(s.sum)
		s.sum = jbd2.CRC32BEInit
	}
	if !good {
		if c.Sec < s.when {
			r.end(s, StopStale, blk)
			return true, nil
		}
		r.end(s, StopCommit, blk)
		if !r.f.Features.AsyncCommit() {
			return true, nil
		}
	}
	if s.bad != nil && !s.ended {
		return true, s.bad
	}
	s.bad = nil
	s.when = c.Sec
	s.head = s.blk
	s.count++
	s.tid++
	return false, nil
}

// passKind is one of the passes after the scan.
type passKind int

const (
	passRevoke passKind = iota
	passReplay
)

// pass is PASS_REVOKE or PASS_REPLAY: walk the transactions the scan found.
func (r *recovery) pass(kind passKind) error {
	c, tid := r.start(), r.sb.Sequence
	for tid != r.res.LastTid {
		blk, h, stop, err := r.step(&c, tid)
		if err != nil {
			return err
		}
		if stop != "" {
			return fmt.Errorf("%w: at journal block %d in transaction %d (%s), want the end at transaction %d",
				ErrUnstable, blk, tid, stop, r.res.LastTid)
		}
		switch h.Type {
		case jbd2.TypeDescriptor:
			err = r.descriptor(&c, kind, blk, tid)
		case jbd2.TypeRevoke:
			if kind == passRevoke {
				err = r.revoke(blk, tid)
			}
		case jbd2.TypeCommit:
			tid++
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// revoke takes a revoke block's records into the table
// (jbd2_journal_set_revoke).
func (r *recovery) revoke(blk, tid uint32) error {
	if err := r.f.VerifyTail(r.buf); err != nil {
		return fmt.Errorf("revoke records in journal block %d: %w", blk, err)
	}
	var err error
	if r.blocks, err = r.f.DecodeRevoke(r.blocks[:0], r.buf); err != nil {
		return fmt.Errorf("revoke records in journal block %d: %w", blk, err)
	}
	for _, b := range r.blocks {
		if old, ok := r.revoked[b]; !ok || jbd2.TidGT(tid, old) {
			r.revoked[b] = tid
		}
	}
	return nil
}

// isRevoked says whether a block logged in tid was revoked in tid or later
// (jbd2_journal_test_revoke).
func (r *recovery) isRevoked(blk uint64, tid uint32) bool {
	at, ok := r.revoked[blk]
	return ok && !jbd2.TidGT(tid, at)
}

// descriptor steps over a descriptor's data blocks or writes them.
func (r *recovery) descriptor(c *cursor, kind passKind, blk, tid uint32) error {
	if err := r.f.VerifyTail(r.buf); err != nil {
		return fmt.Errorf("descriptor in journal block %d: %w", blk, err)
	}
	var err error
	if r.tags, err = r.f.DecodeTags(r.tags[:0], r.buf); err != nil {
		return fmt.Errorf("descriptor in journal block %d: %w", blk, err)
	}
	if kind != passReplay {
		if !c.skip(len(r.tags)) {
			return fmt.Errorf("%w: %d tags in journal block %d exceed the log", ErrUnstable, len(r.tags), blk)
		}
		return nil
	}
	for _, t := range r.tags {
		b, ok := c.next()
		if !ok {
			return fmt.Errorf("%w: %d tags in journal block %d exceed the log", ErrUnstable, len(r.tags), blk)
		}
		if err := r.replay(b, t, tid); err != nil && r.soft == nil {
			r.soft = err
		}
	}
	return nil
}

// replay writes one logged block to its place.
func (r *recovery) replay(logblk uint32, t jbd2.Tag, tid uint32) error {
	if err := r.read(logblk, r.data); err != nil {
		return err
	}
	if r.isRevoked(t.Block, tid) {
		r.res.Revoked++
		return nil
	}
	if err := r.f.VerifyData(t, tid, r.data); err != nil {
		return fmt.Errorf("journal block %d: %w", logblk, err)
	}
	if t.Block >= r.opts.FSBlocks {
		return fmt.Errorf("%w: block %d of a file system of %d", ErrRange, t.Block, r.opts.FSBlocks)
	}
	if t.Escaped() {
		jbd2.Unescape(r.data)
	}
	if err := r.target.WriteBlock(t.Block, r.data); err != nil {
		return fmt.Errorf("replay journal block %d to block %d: %w", logblk, t.Block, err)
	}
	r.res.Blocks++
	return nil
}
