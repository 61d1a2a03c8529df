package recovery

import (
	"errors"
	"fmt"

	"inlinefs/ondisk/jbd2"
)

// Errors of this package, to be tested with errors.Is. Those of package jbd2
// occur too, wrapped: jbd2.ErrChecksum stands where the kernel has EFSBADCRC.
var (
	// ErrRange says that the log names a block outside the file system.
	ErrRange = errors.New("journal recovery: block out of range")
	// ErrFastCommit says that the fast-commit area holds operations that have to
	// be replayed, which this package can't do.
	ErrFastCommit = errors.New("journal recovery: fast commits to replay")
	// ErrForeign says that the journal belongs to another or several file systems.
	ErrForeign = errors.New("journal recovery: not this file system's journal")
	// ErrOptions says that Options or arguments make no sense.
	ErrOptions = errors.New("journal recovery: invalid options")
	// ErrUnstable says that a later pass ended elsewhere than the first.
	ErrUnstable = errors.New("journal recovery: passes disagree")
)

// Log is the journal's own storage, addressed by the block's number in the
// journal. p is always one block long.
type Log interface {
	// ReadBlock reads log block blk, counted from 0, the superblock.
	ReadBlock(blk uint32, p []byte) error
	// WriteBlock writes log block blk; Recover writes block 0 only.
	WriteBlock(blk uint32, p []byte) error
	// Flush makes written blocks durable.
	Flush() error
}

// Target is the file system the log's blocks go to. p is always one block long
// and valid only during the call. A Target may refuse blocks it knows no sound
// log can name, such as the journal's own; that counts as a write error.
type Target interface {
	// WriteBlock writes file system block blk.
	WriteBlock(blk uint64, p []byte) error
	// Flush makes written blocks durable.
	Flush() error
}

// Options tell what the journal has to fit.
type Options struct {
	BlockSize int    // file system block size in bytes
	LogBlocks uint32 // length in blocks of the journal's inode or device
	FSBlocks  uint64 // blocks of the file system: numbers below it are valid

	// UUID, if not nil, must be the journal's s_uuid. Only an external journal
	// has a UUID that the file system knows.
	UUID *[16]byte
	// DropFastCommits says to go on although the fast-commit area has valid
	// content, which is lost then.
	DropFastCommits bool
}

// StopReason says why the scan took the log to end where it did. StopCommit
// needs a caller's thought: a transaction was committed and its commit block is
// damaged, so acknowledged changes may be lost. The kernel replays what comes
// before and then refuses the mount with EFSCORRUPTED; e2fsck records the error
// in the journal and checks the whole file system.
type StopReason string

// The reasons.
const (
	StopEmpty       StopReason = "log is empty"                 // s_start is 0
	StopMagic       StopReason = "block without journal magic"  // not a log block
	StopSequence    StopReason = "block of another transaction" // older or foreign
	StopType        StopReason = "unknown block type"
	StopCommit      StopReason = "commit block with bad checksum"
	StopStale       StopReason = "stale blocks of an earlier log" // bad checksum, commit time goes back
	StopFull        StopReason = "whole log read"
	StopReadError   StopReason = "log block can't be read" // version 1 checksum only
	StopAsyncFailed StopReason = "commit after one with bad checksum"
)

// Result says what recovery found and did.
type Result struct {
	Transactions    int        // complete transactions in the log
	Blocks          int        // blocks written to the target
	Revoked         int        // logged blocks not written because they were revoked
	RevokeRecords   int        // distinct blocks in the revoke table
	FirstTid        uint32     // first transaction of the log
	LastTid         uint32     // the one after the last complete one
	NextTid         uint32     // the transaction number to go on with
	Head            uint32     // log block after the last commit block
	StoppedAt       StopReason // why the log ends there
	StoppedBlock    uint32     // log block at which it ends
	FastCommitDirty bool       // fast-commit area has valid content for LastTid
	JournalErrno    int32      // s_errno of the superblock, negative errno or 0
}

// recovery is the state of one Recover or Scan (struct recovery_info and the
// parts of journal_t it uses). One goroutine uses it.
type recovery struct {
	log    Log
	target Target
	opts   Options
	sb     *jbd2.Superblock
	super  []byte // block 0 as read
	f      jbd2.Format
	first  uint32 // first log block
	last   uint32 // first block after the log
	res    Result

	revoked map[uint64]uint32 // block -> last transaction that revoked it
	buf     []byte            // header block
	data    []byte            // data block
	tags    []jbd2.Tag
	blocks  []uint64
	soft    error // first error that does not stop the replay
}

// Scan looks at the journal and writes nothing: it tells what Recover would
// find, with Blocks and Revoked left 0. Errors are those of Recover before its
// first write.
func Scan(log Log, opts Options) (Result, error) {
	r, err := open(log, nil, opts)
	if err != nil {
		return Result{}, err
	}
	err = r.scanAll()
	return r.res, err
}

// Recover replays the journal to target and marks it empty
// (jbd2_journal_recover). All that can be found wrong with the superblock, the
// log's structure and its tags is found before the first write. When a data
// block can't be read or does not match its checksum, the others are replayed
// all the same, the error is returned, and the journal is left as it was. On a
// nil error all blocks are durable and the journal is empty, its next
// transaction being Result.NextTid.
func Recover(log Log, target Target, opts Options) (Result, error) {
	if target == nil {
		return Result{}, fmt.Errorf("%w: no target", ErrOptions)
	}
	r, err := open(log, target, opts)
	if err != nil {
		return Result{}, err
	}
	if err := r.scanAll(); err != nil {
		return r.res, err
	}
	if r.sb.Start == 0 {
		return r.res, nil
	}
	if r.res.FastCommitDirty && !opts.DropFastCommits {
		return r.res, fmt.Errorf("%w: for transaction %d in log blocks from %d on",
			ErrFastCommit, r.res.LastTid, r.last+1)
	}
	if err := r.pass(passReplay); err != nil {
		return r.res, err
	}
	if err := r.target.Flush(); err != nil {
		return r.res, fmt.Errorf("flush replayed blocks: %w", err)
	}
	if r.soft != nil {
		return r.res, r.soft
	}
	return r.res, r.markEmpty()
}

// scanAll runs the passes that only read.
func (r *recovery) scanAll() error {
	r.res.JournalErrno = r.sb.Errno
	r.res.FirstTid = r.sb.Sequence
	if r.sb.Start == 0 {
		r.res.StoppedAt = StopEmpty
		r.res.LastTid = r.sb.Sequence
		r.res.NextTid = r.sb.Sequence + 1
		r.res.Head = r.sb.Head
		if r.res.Head < r.first || r.res.Head >= r.last {
			r.res.Head = r.first
		}
		return nil
	}
	if err := r.scan(); err != nil {
		return err
	}
	r.res.NextTid = r.res.LastTid + 1
	if err := r.pass(passRevoke); err != nil {
		return err
	}
	r.res.RevokeRecords = len(r.revoked)
	dirty, err := r.fastCommitDirty()
	if err != nil {
		return err
	}
	r.res.FastCommitDirty = dirty
	return nil
}

// open reads and checks the superblock (journal_load_superblock).
func open(log Log, target Target, opts Options) (*recovery, error) {
	if log == nil {
		return nil, fmt.Errorf("%w: no log", ErrOptions)
	}
	bs := opts.BlockSize
	if bs < jbd2.MinBlockSize || bs > jbd2.MaxBlockSize || bs&(bs-1) != 0 {
		return nil, fmt.Errorf("%w: block size %d, want a power of two in [%d, %d]",
			ErrOptions, bs, jbd2.MinBlockSize, jbd2.MaxBlockSize)
	}
	r := &recovery{
		log: log, target: target, opts: opts, revoked: map[uint64]uint32{},
		super: make([]byte, bs), buf: make([]byte, bs), data: make([]byte, bs),
	}
	if err := log.ReadBlock(0, r.super); err != nil {
		return nil, fmt.Errorf("read journal superblock: %w", err)
	}
	sb, err := jbd2.DecodeSuperblock(r.super)
	if err != nil {
		return nil, fmt.Errorf("journal superblock: %w", err)
	}
	if err := sb.Check(bs, opts.LogBlocks); err != nil {
		return nil, err
	}
	if err := jbd2.VerifySuperblock(r.super); err != nil {
		return nil, err
	}
	if sb.Type == jbd2.TypeSuperblockV2 && sb.NrUsers > 1 {
		return nil, fmt.Errorf("%w: journal s_nr_users %d, want at most 1", ErrForeign, sb.NrUsers)
	}
	if opts.UUID != nil && *opts.UUID != sb.UUID {
		return nil, fmt.Errorf("%w: journal uuid %x, want %x", ErrForeign, sb.UUID, *opts.UUID)
	}
	r.sb = sb
	if r.f, err = sb.Format(); err != nil {
		return nil, err
	}
	r.first, r.last = sb.First, sb.LogEnd()
	return r, nil
}

// markEmpty writes the superblock of an empty log whose next transaction is
// later than any in it (jbd2_mark_journal_empty).
func (r *recovery) markEmpty() error {
	sb := *r.sb
	sb.Start = 0
	sb.Sequence = r.res.NextTid
	if sb.Type == jbd2.TypeSuperblockV2 && sb.Head != 0 {
		sb.Head = r.res.Head
	}
	if err := sb.Encode(r.super); err != nil {
		return err
	}
	if err := r.log.WriteBlock(0, r.super); err != nil {
		return fmt.Errorf("write journal superblock: %w", err)
	}
	if err := r.log.Flush(); err != nil {
		return fmt.Errorf("flush journal superblock: %w", err)
	}
	return nil
}
