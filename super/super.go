// Package super holds the mounted file system: the superblock, the group descriptors, the geometry that follows from them, and
// what happens on an error (errors=). Everything above asks it where things are; it asks nothing of the packages above.
package super

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"inlinefs/blockdev"
	"inlinefs/buffer"
	"inlinefs/internal/event"
	"inlinefs/internal/lock"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// Options of a mount that concern the whole file system.
type Options struct {
	Log *slog.Logger
	// ReadOnly asks for a mount that writes nothing.
	ReadOnly bool
	// NoRecovery mounts (read-only) without looking at the journal.
	NoRecovery bool
	// Errors overrides s_errors: ondisk.ErrorsContinue, ErrorsRO, ErrorsPanic; 0 keeps it.
	Errors uint16
	// CacheSize bounds the metadata cache, in bytes; 0 is 64 MiB.
	CacheSize int64
	// Strategy names the conversion strategy in violations.
	Strategy string
	// Events gives the last events of an inode for violation records.
	Events func(ino uint64) []event.Event
	// MountPoint is stored as s_last_mounted.
	MountPoint string
	// Sync writes every change before the request is answered (mount option sync).
	Sync bool
	// DirSync does so for directories.
	DirSync bool
	// Lenient opens an image whose journal is still to be replayed: descriptor checksums may be those of a torn write.
	Lenient bool
	// Inject is asked before a step that may fail ("alloc", "xattr-grow") for inode ino, and may make it fail; nil for never.
	Inject func(step string, ino uint64) error
	// Ordered says that the caller asked for data=ordered or writeback, whatever the superblock's default is.
	Ordered bool
	// OnPanic is what errors=panic does after the superblock was written.
	OnPanic func(error)
}

// FS is a mounted file system.
type FS struct {
	Dev     blockdev.Device  // immutable
	Bufs    *buffer.Cache    // immutable
	Journal *journal.Journal // immutable once requests begin
	Log     *slog.Logger     // immutable
	SB      ondisk.Super     // immutable copy made at mount: features and geometry
	Opts    Options          // immutable
	Live    event.Live       // atomic
	Notices []string         // immutable; why the mount is less than asked for

	// Geometry, immutable.
	Seed           uint32 // seed of metadata checksums
	Csum           bool
	BlockSize      int // bytes
	BlockBits      uint
	InodeSize      int // bytes
	DescSize       int // bytes
	Blocks         uint64
	Inodes         uint32
	BlocksPerGroup uint32
	InodesPerGroup uint32
	InodesPerBlock uint32
	FirstData      uint64
	GroupsPerFlex  uint32
	InlineData     bool
	HugeFile       bool
	groups         []*Group
	system         []span
	overhead       uint64
	sbHead         *buffer.Head
	sbOff          int

	freeBlocks atomic.Int64
	freeInodes atomic.Int64
	returned   atomic.Uint64 // runs of blocks that may be used again
	Reserved   uint64        // immutable; blocks for root
	readOnly   atomic.Bool
	errCount   atomic.Int64
	// keepOrphans says that the orphan file is not known to be empty.
	keepOrphans atomic.Bool
	wantState   uint16 // immutable; s_state to restore at unmount

	sbMu  lock.Mutex
	sb    ondisk.Super // guarded by sbMu
	dirty bool         // guarded by sbMu; error fields wait to be written

	errWake chan struct{} // immutable
	stop    chan struct{} // immutable
	done    sync.WaitGroup
}

// Inject is the injected failure of a step, nil for none.
func (f *FS) Inject(step string, ino uint64) error {
	if f.Opts.Inject == nil {
		return nil
	}
	return f.Opts.Inject(step, ino)
}

// ReadOnly says whether changes are refused now.
func (f *FS) ReadOnly() bool { return f.readOnly.Load() }

const (
	supportedIncompat = ondisk.IncompatFiletype | ondisk.IncompatRecover | ondisk.IncompatMetaBG | ondisk.IncompatExtents |
		ondisk.Incompat64Bit | ondisk.IncompatFlexBG | ondisk.IncompatCsumSeed | ondisk.IncompatLargedir | ondisk.IncompatInlineData
	supportedROCompat = ondisk.ROCompatSparseSuper | ondisk.ROCompatLargeFile | ondisk.ROCompatBtreeDir | ondisk.ROCompatHugeFile |
		ondisk.ROCompatGdtCsum | ondisk.ROCompatDirNlink | ondisk.ROCompatExtraIsize | ondisk.ROCompatMetadataCsum |
		ondisk.ROCompatOrphanPresent
)

// SupportedIncompat and SupportedROCompat are the feature bits that a read-write mount understands.
func SupportedIncompat() uint32 { return supportedIncompat }

// SupportedROCompat are the read-only-compatible bits.
func SupportedROCompat() uint32 { return supportedROCompat }

// ErrRefused is wrapped by Open's errors that say why an image is not mounted.
var ErrRefused = errors.New("mount refused")

func refuse(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, a...))
}

// Open reads the superblock and the group descriptors of dev and checks them (ext4_fill_super). The mount falls back to read-only,
// with a line in Notices, when a read-only-compatible feature is unknown; it is refused, naming the feature, when an incompatible
// one is. Nothing is written yet: see Begin.
func Open(dev blockdev.Device, o Options) (*FS, error) {
	raw := make([]byte, ondisk.SuperSize)
	if dev.Size() < ondisk.SuperOffset+ondisk.SuperSize {
		return nil, refuse("device of %d bytes is too small for a superblock", dev.Size())
	}
	if _, err := dev.ReadAt(raw, ondisk.SuperOffset); err != nil {
		return nil, fmt.Errorf("read of the superblock: %w", err)
	}
	sb, err := ondisk.NewSuper(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	f := &FS{Dev: dev, Log: o.Log, SB: append(ondisk.Super(nil), sb...), Opts: o, sb: sb,
		errWake: make(chan struct{}, 1), stop: make(chan struct{})}
	if o.CacheSize == 0 {
		f.Opts.CacheSize = 64 << 20
	}
	lock.NameMutex(&f.sbMu, lock.SuperLock, 0)
	f.readOnly.Store(o.ReadOnly || dev.ReadOnly())
	if err := f.checkFeatures(); err != nil {
		return nil, err
	}
	if err := f.geometry(); err != nil {
		return nil, err
	}
	f.Bufs = buffer.New(dev, f.BlockSize, f.Opts.CacheSize)
	if err := f.loadGroups(); err != nil {
		return nil, err
	}
	f.sbOff = int(ondisk.SuperOffset % int64(f.BlockSize))
	if f.sbHead, err = f.Bufs.Read(uint64(ondisk.SuperOffset / f.BlockSize)); err != nil {
		return nil, err
	}
	v := journal.NewViolations(o.Log, o.Strategy, o.Events)
	f.Journal = journal.NewNoJournal(journal.Options{Log: o.Log, Violations: v, Bufs: f.Bufs})
	if f.readOnly.Load() {
		f.Journal.SetReadOnly()
	}
	return f, nil
}

func (f *FS) notice(format string, a ...any) {
	f.Notices = append(f.Notices, fmt.Sprintf(format, a...))
}

func (f *FS) checkFeatures() error {
	s := f.SB
	if s.RevLevel() > 1 {
		return refuse("revision level %d, want 0 or 1", s.RevLevel())
	}
	if bad := s.FeatureIncompat() &^ supportedIncompat; bad != 0 {
		return refuse("incompatible features not supported: %s", ondisk.IncompatNames(bad))
	}
	if s.JournalDev() != 0 && s.Compat(ondisk.CompatHasJournal) && s.JournalInum() == 0 {
		return refuse("the journal is on an external device (0x%x), which is not supported", s.JournalDev())
	}
	if s.Incompat(ondisk.IncompatRecover) && !f.Opts.Lenient {
		switch {
		case !f.Opts.NoRecovery:
			return refuse("the journal needs recovery")
		case !f.readOnly.Load():
			return refuse("the journal needs recovery: norecovery works with ro only")
		}
	}
	if f.readOnly.Load() {
		return nil
	}
	if s.Compat(ondisk.CompatHasJournal) && s.DefaultMountOpts()&ondisk.DefmJournalMask == ondisk.DefmJournalData && !f.Opts.Ordered {
		return refuse("the superblock asks for data=journal, which is not supported: mount with -o data=ordered, or take it off with tune2fs -o ^journal_data")
	}
	if bad := s.FeatureROCompat() &^ supportedROCompat; bad != 0 {
		f.readOnly.Store(true)
		f.notice("mounted read-only: features not supported for writing: %s", ondisk.ROCompatNames(bad))
	}
	if s.State()&ondisk.StateValid == 0 && !s.Compat(ondisk.CompatHasJournal) {
		f.notice("the file system was not cleanly unmounted; run e2fsck when you can")
	}
	if s.State()&ondisk.StateError != 0 {
		f.notice("the file system has errors recorded (%d); run e2fsck", s.ErrorCount())
	}
	return nil
}

// SetJournal puts a log behind the handles. Called once, before any request.
func (f *FS) SetJournal(j *journal.Journal) {
	f.Journal = j
	if f.readOnly.Load() {
		j.SetReadOnly()
	}
}

// ForceReadOnly makes the mount read-only from here on and says why.
func (f *FS) ForceReadOnly(why string) {
	f.readOnly.Store(true)
	f.Journal.SetReadOnly()
	f.Notices = append(f.Notices, why)
}

// KeepOrphanPresent has Close leave the orphan_present flag: the orphan file could not be read, or something is left in it.
func (f *FS) KeepOrphanPresent() { f.keepOrphans.Store(true) }

// Begin marks the file system as mounted (ext4_setup_super) and starts the write-back of metadata. Nothing is written on a
// read-only mount.
func (f *FS) Begin() error {
	f.done.Add(1)
	go f.errorWriter()
	if f.readOnly.Load() {
		return nil
	}
	f.done.Add(1)
	go func() {
		defer f.done.Done()
		f.Bufs.Flusher(5*time.Second, f.stop, func(err error) { f.Error(0, 0, "write-back", err) })
	}()
	f.sbMu.Lock()
	f.wantState = f.sb.State()
	if f.Journal.Journalled() {
		f.sb.SetFeatureIncompat(f.sb.FeatureIncompat() | ondisk.IncompatRecover)
		if f.SB.Compat(ondisk.CompatOrphanFile) {
			f.sb.SetFeatureROCompat(f.sb.FeatureROCompat() | ondisk.ROCompatOrphanPresent)
		}
	} else {
		f.sb.SetState(f.sb.State() &^ ondisk.StateValid)
	}
	f.sb.SetMntCount(f.sb.MntCount() + 1)
	f.sb.SetMtime(time.Now().Unix())
	if f.Opts.MountPoint != "" {
		f.sb.SetLastMounted(f.Opts.MountPoint)
	}
	if f.sb.Flags()&(ondisk.FlagSignedHash|ondisk.FlagUnsignedHash) == 0 {
		f.sb.SetFlags(f.sb.Flags() | ondisk.FlagSignedHash)
	}
	f.sbMu.Unlock()
	return f.CommitSuper()
}

// Sync makes every change durable: the log's commit with a journal, all dirty metadata without one.
func (f *FS) Sync() error {
	if f.Dev.ReadOnly() {
		return nil
	}
	if f.Journal.Journalled() {
		if err := f.Journal.Commit(); err != nil {
			return err
		}
		return nil
	}
	err := f.Bufs.Sync()
	if err != nil {
		f.Error(0, 0, "sync", err)
	}
	return err
}

// Close writes everything, marks the file system clean as it was, and stops the background work. The device stays open.
func (f *FS) Close() error {
	close(f.stop)
	f.done.Wait()
	if f.Dev.ReadOnly() {
		return nil
	}
	var errs []error
	errs = append(errs, f.Journal.Close())
	if f.readOnly.Load() {
		errs = append(errs, f.flushErrors())
		return errors.Join(errs...)
	}
	errs = append(errs, f.Bufs.Sync())
	f.sbMu.Lock()
	state := f.wantState | f.sb.State()&ondisk.StateError
	f.sb.SetState(state)
	if f.Journal.Journalled() && f.Journal.Aborted() == nil {
		f.sb.SetFeatureIncompat(f.sb.FeatureIncompat() &^ ondisk.IncompatRecover)
		if !f.keepOrphans.Load() {
			f.sb.SetFeatureROCompat(f.sb.FeatureROCompat() &^ ondisk.ROCompatOrphanPresent)
		}
	}
	f.sbMu.Unlock()
	errs = append(errs, f.CommitSuper(), f.Dev.Flush())
	return errors.Join(errs...)
}
