package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"inlinefs/extent"
	"inlinefs/inline"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/mm"
	"inlinefs/ondisk"
)

// fhObserved marks a handle whose faults are seen: direct I/O with mappings allowed. Handles carry no other state, so that a READ or
// WRITE with handle 0 is served as well.
const fhObserved = 1

// openFlags decides how the kernel may cache a file (DESIGN: only a handle that may write to an inode that is still inline needs observing;
// mmap=direct wants it of every handle that may write).
func (f *FileSystem) openFlags(i *inode.Inode, flags uint32, out *fuse.OpenOut) {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_NOFLUSH
	if !f.opts.Mmap.observes() || flags&unix.O_ACCMODE == unix.O_RDONLY {
		return
	}
	// Page cache and direct writes must not mix while pages are merged: once observed, always, until the kernel forgets the inode.
	if f.opts.Mmap == MmapDirect || i.HasInline() || i.MayInline.Load() || i.WasObserved.Load() {
		i.WasObserved.Store(true)
		out.Fh = fhObserved
		out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH
	}
}

// Open opens a file. Without observation there is nothing to remember, and the kernel is told to stop asking.
func (f *FileSystem) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if f.stateless {
		return fuse.ENOSYS
	}
	i, err := f.get(in.NodeId)
	if err != nil {
		return errno(err)
	}
	defer f.put(i)
	if fl := i.Flags(); in.Flags&unix.O_ACCMODE != unix.O_RDONLY && (fl&ondisk.FlImmutable != 0 || fl&ondisk.FlAppend != 0 && in.Flags&unix.O_APPEND == 0) {
		return fuse.EPERM
	}
	f.openFlags(i, in.Flags, out)
	return fuse.OK
}

// Release has nothing to give back.
func (f *FileSystem) Release(<-chan struct{}, *fuse.ReleaseIn) {}

// Flush is not needed: every WRITE was answered with its outcome.
func (f *FileSystem) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Read answers read(2) and fills pages. A fill on an observed handle is the first touch of a page: a fault of the race.
func (f *FileSystem) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	fault := in.Fh == fhObserved && in.ReadFlags&fuse.READ_LOCKOWNER == 0
	op := "read"
	if fault {
		op = "fault"
	}
	t := f.task(op, &in.InHeader)
	t.InFault = fault
	n, err := f.read(t, in, buf, fault)
	if st := f.end(t, err); st != fuse.OK {
		return nil, st
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (f *FileSystem) read(t *journal.Task, in *fuse.ReadIn, buf []byte, fault bool) (int, error) {
	i, err := f.get(in.NodeId)
	if err != nil {
		return 0, err
	}
	defer f.put(i)
	if !fault {
		return f.readFile(i, in, buf, false)
	}
	n := 0
	err = f.eng.Fault(t, i, func() (err error) {
		n, err = f.readFile(i, in, buf, true)
		return err
	})
	return n, err
}

// readFile reads into buf, and remembers what a page was filled with.
func (f *FileSystem) readFile(i *inode.Inode, in *fuse.ReadIn, buf []byte, fault bool) (int, error) {
	size := i.Size()
	if in.Offset >= size {
		return 0, nil
	}
	buf = buf[:min(uint64(len(buf)), size-in.Offset)]
	if err := f.readData(i, buf, in.Offset); err != nil {
		return 0, err
	}
	if fault || in.ReadFlags&fuse.READ_LOCKOWNER == 0 && i.WasObserved.Load() {
		i.Map.Filled(f.eng.Budget, int64(in.Offset), buf)
	}
	return len(buf), nil
}

// readData reads from wherever the bytes are.
func (f *FileSystem) readData(i *inode.Inode, dst []byte, off uint64) error {
	for range 2 {
		if i.HasInline() {
			if ok, err := inline.Read(i, dst, off); ok || err != nil {
				return err
			}
		}
		if err := extent.Read(i, dst, off); err != nil || !i.HasInline() {
			return err
		}
		// It was inline again when the map was read (a conversion was undone): once more.
	}
	return nil
}

// Write answers write(2), and takes what mappings write back.
func (f *FileSystem) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	op := "write"
	if in.WriteFlags&fuse.WRITE_CACHE != 0 {
		op = "writepage"
	}
	t := f.task(op, &in.InHeader)
	n, err := f.write(t, in, data)
	if n > 0 && err != nil && errno(err) == fuse.Status(unix.ENOSPC) {
		err = nil // a short write
	}
	return uint32(n), f.end(t, err)
}

func (f *FileSystem) write(t *journal.Task, in *fuse.WriteIn, data []byte) (int, error) {
	i, err := f.get(in.NodeId)
	if err != nil {
		return 0, err
	}
	defer f.put(i)
	if f.fs.ReadOnly() {
		return 0, fserr.ReadOnly
	}
	if in.WriteFlags&fuse.WRITE_CACHE != 0 {
		return f.writeback(t, i, in, data)
	}
	old := i.Size()
	grows := in.Fh == fhObserved && old%mm.PageSize != 0 && in.Offset+uint64(len(data)) > old
	if grows {
		i.Map.Grow(int64(old))
	}
	n := 0
	err = f.again(func() (err error) {
		i.LockRw(t)
		defer i.UnlockRw(t)
		var done int
		done, err = f.writeLocked(t, i, in, data[n:], in.Offset+uint64(n))
		n += done
		return err
	})
	if grows {
		f.raise(in, data[:n], old)
		if i.Map.Grown() { // kernels without the invalidation after a direct write keep the page
			f.dropPage(in.NodeId, old)
		}
	}
	if err == nil && in.Flags&unix.O_DSYNC != 0 {
		err = f.sync(i)
	} else if err == nil {
		err = f.syncIf(t, i, false)
	}
	return n, err
}

// writeLocked stores data at off; in says how it was written. The caller holds i.Rw exclusively.
func (f *FileSystem) writeLocked(t *journal.Task, i *inode.Inode, in *fuse.WriteIn, data []byte, off uint64) (int, error) {
	if fl := i.Flags(); fl&ondisk.FlImmutable != 0 || fl&ondisk.FlAppend != 0 && in.Flags&unix.O_APPEND == 0 {
		return 0, fserr.NotPermitted
	}
	f.fs.Live.Writes.Add(1)
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		if err := f.killPriv(t, i); err != nil {
			return 0, err
		}
	}
	return f.eng.Write(t, i, data, off)
}

// writeback takes what mappings stored, cut at i_size. It holds no lock of the inode: the strategy decides which one to take.
func (f *FileSystem) writeback(t *journal.Task, i *inode.Inode, in *fuse.WriteIn, data []byte) (int, error) {
	f.fs.Live.Writepages.Add(1)
	if i.Flags()&ondisk.FlImmutable != 0 {
		return 0, fserr.NotPermitted
	}
	size := i.Size()
	if in.Offset >= size {
		return len(data), nil // truncated meanwhile
	}
	keep := data[:min(uint64(len(data)), size-in.Offset)]
	apply := func(at int64, p []byte) error {
		return f.again(func() error { return f.eng.WriteMapped(t, i, p, uint64(at)) })
	}
	var err error
	if in.Fh == fhObserved {
		err = i.Map.Merge(int64(in.Offset), keep, apply)
	} else {
		err = apply(int64(in.Offset), keep)
	}
	if err == nil {
		err = f.syncIf(t, i, false)
	}
	if err != nil {
		return 0, err
	}
	return len(data), nil
}

// Fsync makes a file durable: its bytes, its inode, and the names that lead to it.
func (f *FileSystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	i, err := f.get(in.NodeId)
	if err != nil {
		return errno(err)
	}
	defer f.put(i)
	i.Map.Settle()
	return errno(f.sync(i))
}

// FsyncDir does so for a directory.
func (f *FileSystem) FsyncDir(c <-chan struct{}, in *fuse.FsyncIn) fuse.Status { return f.Fsync(c, in) }

// sync waits for the transaction that last changed the inode, or without a journal writes all dirty metadata: an inline file's data is
// its inode table block, and the names that lead to it are in blocks that only this writes.
func (f *FileSystem) sync(i *inode.Inode) error {
	if f.fs.Dev.ReadOnly() {
		return nil
	}
	if !f.fs.Journal.Journalled() {
		return f.fs.Sync()
	}
	waited, err := f.fs.Journal.WaitTid(i.SyncTid.Load())
	if err != nil || waited {
		return err
	}
	// Bytes that were overwritten in place since then are in no transaction.
	return f.fs.Dev.Flush()
}

// syncIf makes a change durable where the mount (sync, dirsync) or the inode (chattr +S, +D) asks for it.
func (f *FileSystem) syncIf(_ *journal.Task, i *inode.Inode, names bool) error {
	fl := i.Flags()
	if f.fs.Opts.Sync || fl&ondisk.FlSync != 0 || names && (f.fs.Opts.DirSync || fl&ondisk.FlDirSync != 0) {
		return f.sync(i)
	}
	return nil
}

// Lseek answers SEEK_DATA and SEEK_HOLE. Inline bytes are data up to i_size.
func (f *FileSystem) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	i, err := f.get(in.NodeId)
	if err != nil {
		return errno(err)
	}
	defer f.put(i)
	if in.Whence != unix.SEEK_DATA && in.Whence != unix.SEEK_HOLE {
		return fuse.EINVAL
	}
	i.Rw.RLock()
	defer i.Rw.RUnlock()
	size, hole := i.Size(), in.Whence == unix.SEEK_HOLE
	if in.Offset >= size {
		return errno(fserr.NoAddress)
	}
	if i.HasInline() {
		out.Offset = in.Offset
		if hole {
			out.Offset = size
		}
		return fuse.OK
	}
	at, err := extent.Seek(i, in.Offset, size, hole)
	if err == nil && at >= size && !hole {
		err = fserr.NoAddress
	}
	out.Offset = min(at, size)
	return errno(err)
}
