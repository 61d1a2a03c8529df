package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"inlinefs/blockdev"
	"inlinefs/extent"
	"inlinefs/inode"
	"inlinefs/journal"
	"inlinefs/journal/recovery"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// Recover replays the journal of dev if it needs that, and returns the device to mount: dev itself, or for a read-only mount a view of
// it with the replayed blocks in memory. Errors say what keeps the log from being replayed and what to do.
func Recover(dev blockdev.Device, readOnly bool, log *slog.Logger) (blockdev.Device, error) {
	s, err := super.Open(dev, super.Options{Log: log, ReadOnly: true, NoRecovery: true, Lenient: true})
	if err != nil {
		return nil, err
	}
	if !s.SB.Compat(ondisk.CompatHasJournal) || !s.SB.Incompat(ondisk.IncompatRecover) {
		return dev, nil
	}
	blocks, err := journalBlocks(s)
	if err != nil {
		return nil, fmt.Errorf("%w: the journal needs recovery: %w", super.ErrRefused, err)
	}
	if readOnly || dev.ReadOnly() {
		dev = blockdev.NewOverlay(dev)
	}
	lg := logDevice{dev, s.BlockSize, blocks}
	o := recovery.Options{BlockSize: s.BlockSize, LogBlocks: uint32(len(blocks)), FSBlocks: s.Blocks}
	// The log is judged before anything is written: a refused mount leaves it as it is, to be refused again. What Scan has against the
	// log Recover says once more.
	if r, err := recovery.Scan(lg, o); err == nil && r.StoppedAt == recovery.StopCommit && !readOnly {
		return nil, fmt.Errorf("%w: journal recovery: %s at log block %d: committed changes may be lost; run e2fsck, or mount read-only", super.ErrRefused, r.StoppedAt, r.StoppedBlock)
	}
	r, err := recovery.Recover(lg, newTarget(dev, s, blocks), o)
	switch {
	case errors.Is(err, recovery.ErrFastCommit):
		return nil, fmt.Errorf("%w: the journal holds fast commits, which are not replayed here; mount it once with the kernel, which replays them (e2fsck may lose files that were fsynced)", super.ErrRefused)
	case err != nil:
		return nil, fmt.Errorf("%w: journal recovery: %w; run e2fsck, or mount with -o ro,norecovery to read what is there", super.ErrRefused, err)
	}
	log.Info("journal recovered", "transactions", r.Transactions, "blocks", r.Blocks, "revoked", r.Revoked, "stopped", string(r.StoppedAt))
	return dev, clearRecover(dev, s.SB, r.JournalErrno)
}

// clearRecover takes the needs_recovery flag off the superblock that the replay left. Errors recorded in it before, which are not
// logged, stay (ext4_load_journal), and one that the journal had recorded is noted (ext4_clear_journal_err).
func clearRecover(dev blockdev.Device, before ondisk.Super, journalErrno int32) error {
	raw := make([]byte, ondisk.SuperSize)
	if _, err := dev.ReadAt(raw, ondisk.SuperOffset); err != nil {
		return err
	}
	sb, err := ondisk.NewSuper(raw)
	if err != nil {
		return fmt.Errorf("superblock after recovery: %w", err)
	}
	sb.SetFeatureIncompat(sb.FeatureIncompat() &^ ondisk.IncompatRecover)
	if before.ErrorCount() > sb.ErrorCount() {
		sb.CopyErrors(before)
	}
	sb.SetState(sb.State() | before.State()&ondisk.StateError)
	if journalErrno != 0 {
		sb.SetState(sb.State() | ondisk.StateError)
	}
	sb.UpdateChecksum()
	if _, err := dev.WriteAt(sb, ondisk.SuperOffset); err != nil {
		return err
	}
	return dev.Flush()
}

// journalBlocks maps the journal's inode.
func journalBlocks(s *super.FS) ([]uint64, error) {
	n := s.SB.JournalInum()
	if n == 0 {
		return nil, fmt.Errorf("the journal is on another device, which is not supported")
	}
	i, err := inode.NewCache(s).GetSystem(n)
	if err != nil {
		return nil, fmt.Errorf("journal inode %d: %w", n, err)
	}
	if i.Links() == 0 || !i.IsReg() {
		return nil, ondisk.Corrupt(i.Name(), "the journal inode has mode 0%o and %d links", i.Mode(), i.Links())
	}
	count := i.Size() >> s.BlockBits
	if count < 2 || count > math.MaxInt32 || count > s.Blocks {
		return nil, ondisk.Corrupt(i.Name(), "journal of %d blocks", count)
	}
	out := make([]uint64, 0, count)
	for uint64(len(out)) < count {
		at := uint32(len(out))
		r, err := extent.Map(i, at, uint32(count)-at)
		if err != nil {
			return nil, err
		}
		if r.State == extent.Hole {
			return nil, ondisk.Corrupt(i.Name(), "hole at block %d of the journal", at)
		}
		for k := range uint64(r.Len) {
			out = append(out, r.Physical+k)
		}
	}
	return out, nil
}

// logDevice is the journal's blocks by their number in it.
type logDevice struct {
	dev    blockdev.Device
	bs     int
	blocks []uint64
}

func (l logDevice) ReadBlock(n uint32, p []byte) error {
	_, err := l.dev.ReadAt(p, int64(l.blocks[n])*int64(l.bs))
	return err
}

func (l logDevice) WriteBlock(n uint32, p []byte) error {
	_, err := l.dev.WriteAt(p, int64(l.blocks[n])*int64(l.bs))
	return err
}

func (l logDevice) Flush() error { return l.dev.Flush() }

// target is where replayed blocks go: anywhere but into the journal.
type target struct {
	dev blockdev.Device
	bs  int
	log map[uint64]struct{}
}

func newTarget(dev blockdev.Device, s *super.FS, blocks []uint64) target {
	t := target{dev: dev, bs: s.BlockSize, log: make(map[uint64]struct{}, len(blocks))}
	for _, b := range blocks {
		t.log[b] = struct{}{}
	}
	return t
}

func (t target) WriteBlock(blk uint64, p []byte) error {
	if _, bad := t.log[blk]; bad {
		return ondisk.Corrupt("journal", "block %d to be replayed lies in the journal itself", blk)
	}
	_, err := t.dev.WriteAt(p, int64(blk)*int64(t.bs))
	return err
}

func (t target) Flush() error { return t.dev.Flush() }

// openJournal puts the log behind the handles of a read-write mount.
func openJournal(s *super.FS, commit time.Duration, noThreads bool) error {
	if s.ReadOnly() || !s.SB.Compat(ondisk.CompatHasJournal) {
		return nil
	}
	blocks, err := journalBlocks(s)
	if err != nil {
		return fmt.Errorf("%w: %w", super.ErrRefused, err)
	}
	j, err := journal.NewJBD2(journal.Options{Log: s.Log, Violations: s.Journal.V, Bufs: s.Bufs,
		OnAbort: func(err error) { s.Error(0, 0, "jbd2_journal_abort", err) }},
		journal.LogOptions{Dev: s.Dev, Blocks: blocks, FS64Bit: s.SB.Is64Bit(), Csum: s.Csum, Interval: commit, NoThreads: noThreads, CacheLimit: s.Opts.CacheSize / 4})
	if err != nil {
		return fmt.Errorf("%w: %w", super.ErrRefused, err)
	}
	s.SetJournal(j)
	return nil
}
