package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/inline"
	"inlinefs/inode"
	"inlinefs/internal/event"
	"inlinefs/internal/lock"
	"inlinefs/journal"
	"inlinefs/mm"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// MmapMode says how much the daemon learns of mappings.
type MmapMode string

// The modes of mount option mmap=.
const (
	// MmapCached leaves coherence to the kernel's page cache; mapped stores are seen at write-back.
	MmapCached MmapMode = "cached"
	// MmapObserve opens inline files for direct I/O when they are opened read-write: faults are seen as they happen.
	MmapObserve MmapMode = "observe"
	// MmapDirect does so with every file: write(2) and mapped stores meet in the daemon, not in the kernel's page cache, which loses
	// what is appended beside a mapping (docs/fuse-append.md).
	MmapDirect MmapMode = "direct"
)

// MmapModes are all of them, in the order of what they cost.
var MmapModes = []MmapMode{MmapCached, MmapObserve, MmapDirect}

// observes says that handles which may write bypass the page cache, of some files or of all.
func (m MmapMode) observes() bool { return m == MmapObserve || m == MmapDirect }

// Options of a mounted file system above those of super.
type Options struct {
	Log      *slog.Logger
	Mmap     MmapMode
	Strategy string // "" is the build's default
	Window   time.Duration
	Version  string
	Image    string // its path, for the report
	// Commit is the age at which a transaction is committed; 0 is 5 seconds.
	Commit time.Duration
	// Spaces gives the address space of a client's thread, for a scheduler that stands for the clients: there is no watchdog then, and
	// nobody is asked but it. nil asks /proc.
	Spaces func(tid uint32) *mm.AddressSpace
	// HangAfter is when a request counts as hung; 0 is one minute.
	HangAfter time.Duration
}

// FileSystem serves one image. It embeds go-fuse's answers for what is not implemented.
type FileSystem struct {
	fuse.RawFileSystem                // immutable
	fs                 *super.FS      // immutable
	inodes             *inode.Cache   // immutable
	eng                *inline.Engine // immutable
	opts               Options        // immutable
	log                *slog.Logger   // immutable
	stateless          bool           // immutable; no OPEN, RELEASE, OPENDIR, RELEASEDIR

	renameMu   lock.Mutex
	orphanMu   lock.Mutex
	orphans    *inode.Inode // guarded by orphanMu; head of the list
	orphanFile *orphanFile  // guarded by orphanMu; nil when there is none
	watch      *watchdog    // immutable, nil unless observing
	shadow     *mm.Shadow   // immutable, nil unless observing; the clients' locks
	client     atomic.Pointer[Notifier]
	ended      chan struct{} // immutable; closed by Stop
	leaving    atomic.Int64  // FORGET requests being served, inodes being evicted
	freed      atomic.Uint64 // deleted inodes freed so far
}

const (
	rootNode = fuse.FUSE_ROOT_ID
	// timeout is how long the kernel may keep entries and attributes: nobody else changes the image.
	timeout = 24 * time.Hour
)

// New puts a file system over an opened image; Start must follow.
func New(s *super.FS, o Options) (*FileSystem, error) {
	st, err := inline.ByName(o.Strategy)
	if err != nil {
		return nil, err
	}
	if err := openJournal(s, o.Commit, o.Spaces != nil); err != nil {
		return nil, err
	}
	f := &FileSystem{RawFileSystem: fuse.NewDefaultRawFileSystem(), fs: s, opts: o, log: o.Log, inodes: inode.NewCache(s), ended: make(chan struct{})}
	f.eng = &inline.Engine{FS: s, Strategy: st, Window: o.Window, Budget: mm.NewBudget(s.Opts.CacheSize / 4)}
	lock.NameMutex(&f.renameMu, lock.Rename, 0)
	lock.NameMutex(&f.orphanMu, lock.Orphans, 0)
	f.inodes.Observe = o.Mmap.observes()
	f.inodes.Evict = f.evict
	f.stateless = !o.Mmap.observes()
	if f.inodes.Observe {
		f.shadow = mm.NewShadow()
		f.shadow.Spaces = o.Spaces
		f.shadow.OnCycle = f.lockCycle
		f.watch = newWatchdog(f, o.HangAfter)
		if o.Spaces == nil {
			f.watch.start()
		}
	}
	return f, nil
}

// EventsOf gives the last events of an inode, for super.Options.Events.
func (f *FileSystem) EventsOf(ino uint64) []event.Event {
	i := f.inodes.Peek(uint32(ino))
	if i == nil || i.Ring == nil {
		return nil
	}
	ev := i.Ring.Last()
	// The reference is given back by a goroutine of its own: the caller may hold locks that eviction takes.
	go f.inodes.Put(i)
	return ev
}

// Start marks the image as mounted and finishes what an earlier crash left on the orphan list.
func (f *FileSystem) Start() error {
	root, err := f.inodes.Get(ondisk.RootIno)
	if err != nil {
		return fmt.Errorf("root directory: %w", err)
	}
	if !root.IsDir() { // the reference is kept for the life of the mount
		return ondisk.Corrupt("inode 2", "the root is not a directory (mode 0%o)", root.Mode())
	}
	if err := f.fs.Begin(); err != nil {
		return err
	}
	if !f.fs.ReadOnly() {
		if err := errors.Join(f.cleanOrphans(), f.openOrphanFile()); err != nil {
			f.log.Error("orphans not finished", "err", err)
		}
	}
	return nil
}

// Stop ends the file system: open-unlinked files stay on the orphan list for the next mount if the kernel still held them.
func (f *FileSystem) Stop() error {
	select {
	case <-f.ended:
		return nil
	default:
		close(f.ended)
	}
	if f.watch != nil && f.opts.Spaces == nil {
		f.watch.stop()
	}
	err := f.reapAll()
	f.closeOrphanFile()
	return errors.Join(err, f.fs.Close())
}

// ino turns a node id into an inode number: the kernel's root is 1, ext4's is 2.
func ino(node uint64) uint32 {
	if node == rootNode {
		return ondisk.RootIno
	}
	return uint32(node)
}

// node is the reverse of ino.
func node(ino uint32) uint64 {
	if ino == ondisk.RootIno {
		return rootNode
	}
	return uint64(ino)
}

// get returns the inode of a node id with a reference; put gives it back.
func (f *FileSystem) get(n uint64) (*inode.Inode, error) { return f.inodes.Get(ino(n)) }

func (f *FileSystem) put(i *inode.Inode) { f.inodes.Put(i) }

// task begins a request.
func (f *FileSystem) task(op string, h *fuse.InHeader) *journal.Task {
	t := f.fs.Journal.NewTask(op, h.Pid)
	t.UID = h.Uid
	if f.watch != nil {
		t.Mm = f.shadow.Begin(h.Pid, op, t.ID)
		t.NoRetry = t.Mm.Space != nil && t.Mm.Space.NoRetry
		f.watch.begin(t)
	}
	return t
}

// end closes a request and maps its outcome to errno; a handle left open is a violation and EIO.
func (f *FileSystem) end(t *journal.Task, err error) fuse.Status {
	if f.watch != nil {
		f.watch.end(t)
	}
	if e := t.End(); err == nil {
		err = e
	}
	return errno(err)
}

// lockCycle counts a lock order that can deadlock, or a deadlock that the watchdog broke.
func (f *FileSystem) lockCycle(th *mm.Thread, text string) {
	if strings.HasPrefix(text, "deadlock: ") { // each one, since a client paid for it; violations are logged once for each class
		f.log.Error("clients waited for each other's locks", "cycle", text)
	}
	// The caller of the request hears of a broken deadlock by EDEADLK; this is the record.
	_ = f.fs.Journal.V.Raise(journal.LockCycle, f.watch.taskOf(th), 0, nil, "%s", text)
}

// with runs fn under a handle of the given size and stops it.
func (f *FileSystem) with(t *journal.Task, typ journal.Type, credits int, fn func(h *journal.Handle) error) error {
	h, err := f.fs.Journal.Start(t, typ, credits)
	if err != nil {
		return err
	}
	err = fn(h)
	if e := h.Stop(); err == nil {
		err = e
	}
	return err
}

// attr fills the kernel's attributes from the inode.
func (f *FileSystem) attr(i *inode.Inode, a *fuse.Attr) {
	lock.Reading(&i.Mu)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	r := i.Raw
	a.Ino = node(i.Ino)
	if i.Ino == ondisk.RootIno {
		a.Ino = ondisk.RootIno
	}
	a.Size = r.Size()
	a.Blocks = r.Sectors(f.fs.HugeFile, f.fs.BlockSize)
	if r.Has(ondisk.FlInlineData) {
		a.Blocks += (a.Size + 511) >> 9
	}
	at, mt, ct := r.Time(ondisk.Atime), r.Time(ondisk.Mtime), r.Time(ondisk.Ctime)
	a.SetTimes(&at, &mt, &ct)
	a.Mode = uint32(r.Mode())
	a.Nlink = uint32(r.Links())
	a.Owner = fuse.Owner{Uid: r.UID(), Gid: r.GID()}
	a.Blksize = uint32(f.fs.BlockSize)
	if m := a.Mode & ondisk.ModeFmt; m == ondisk.ModeChr || m == ondisk.ModeBlk {
		major, minor := r.Rdev()
		a.Rdev = minor&0xFF | major<<8 | (minor&^0xFF)<<12
	}
}

// entry fills the answer to a lookup and counts it: the kernel will forget it.
func (f *FileSystem) entry(i *inode.Inode, out *fuse.EntryOut) {
	f.inodes.Hold(i, 1)
	out.NodeId = node(i.Ino)
	out.Generation = uint64(i.Generation)
	out.SetEntryTimeout(timeout)
	out.SetAttrTimeout(timeout)
	f.attr(i, &out.Attr)
}

// String names the file system in go-fuse's log.
func (f *FileSystem) String() string { return "inlinefs" }

// Init remembers the server, for notifications.
func (f *FileSystem) Init(s *fuse.Server) { f.SetNotifier(s) }

// Report is the mount's account of itself.
func (f *FileSystem) Report() event.Report {
	v := f.fs.Journal.V
	return event.Report{Schema: 1, Version: f.opts.Version, Image: f.opts.Image, Strategy: f.eng.Strategy.Name(), MmapMode: string(f.opts.Mmap),
		Journal: f.fs.Journal.Name(), Counters: f.fs.Live.Snapshot(), Violations: v.Counts(), First: v.First()}
}

// Commit makes every change so far durable in the log, as the timer of a mount does every few seconds.
func (f *FileSystem) Commit() error { return f.fs.Journal.Commit() }

// BusyBlocks is the number of free blocks that are kept from use: freed and not committed, or held for a conversion. 0 after Stop.
func (f *FileSystem) BusyBlocks() int { return f.fs.Busy() }

// StatFs answers statfs(2): the blocks that mkfs used for metadata do not count (bsddf).
func (f *FileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	free := max(f.fs.FreeBlocks(), 0)
	out.Bsize, out.Frsize = uint32(f.fs.BlockSize), uint32(f.fs.BlockSize)
	out.Blocks = f.fs.Blocks - min(f.fs.Overhead(), f.fs.Blocks)
	out.Bfree = uint64(free)
	out.Bavail = uint64(max(free-int64(f.fs.Reserved), 0))
	out.Files = uint64(f.fs.Inodes)
	out.Ffree = uint64(max(f.fs.FreeInodes(), 0))
	out.NameLen = ondisk.MaxName
	return fuse.OK
}
