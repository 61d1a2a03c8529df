package super

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"inlinefs/journal"
	"inlinefs/ondisk"
)

// FreeBlocks is the number of free blocks, reserved ones included.
func (f *FS) FreeBlocks() int64 { return f.freeBlocks.Load() }

// FreeInodes is the number of free inodes.
func (f *FS) FreeInodes() int64 { return f.freeInodes.Load() }

// AddFree changes the counts of free blocks and inodes.
func (f *FS) AddFree(blocks, inodes int64) {
	f.freeBlocks.Add(blocks)
	f.freeInodes.Add(inodes)
}

// PutGroupDesc writes g's descriptor into its block, checksummed. The caller holds g.Mu. One credit.
func (f *FS) PutGroupDesc(h *journal.Handle, g *Group) error {
	dpb := f.descsPerBlock()
	b, err := f.Bufs.Read(f.descBlock(g.No / dpb))
	if err != nil {
		return err
	}
	defer b.Release()
	if err := h.GetWriteAccess(b); err != nil {
		return err
	}
	g.Desc.UpdateChecksum(f.SB, f.Seed, g.No)
	b.Lock()
	copy(b.Data()[int(g.No%dpb)*f.DescSize:], g.Desc)
	b.Unlock()
	return h.DirtyMetadata(b)
}

// LastOrphan is the head of the orphan list.
func (f *FS) LastOrphan() uint32 {
	f.sbMu.Lock()
	defer f.sbMu.Unlock()
	return f.sb.LastOrphan()
}

// SetLastOrphan changes the head of the orphan list under h. One credit.
func (f *FS) SetLastOrphan(h *journal.Handle, ino uint32) error {
	return f.PutSuper(h, func(s ondisk.Super) { s.SetLastOrphan(ino) })
}

// PutSuper changes the superblock under a handle. One credit.
func (f *FS) PutSuper(h *journal.Handle, change func(ondisk.Super)) error {
	if err := h.GetWriteAccess(f.sbHead); err != nil {
		return err
	}
	f.sbMu.Lock()
	change(f.sb)
	f.fill()
	f.sbMu.Unlock()
	return h.DirtyMetadata(f.sbHead)
}

// fill copies the superblock, with current counts, into its buffer. The caller holds sbMu.
func (f *FS) fill() {
	f.sb.SetFreeBlocks(uint64(max(f.freeBlocks.Load(), 0)))
	f.sb.SetFreeInodes(uint32(max(f.freeInodes.Load(), 0)))
	f.sb.SetWtime(time.Now().Unix())
	f.sb.UpdateChecksum()
	f.sbHead.Lock()
	copy(f.sbHead.Data()[f.sbOff:], f.sb)
	f.sbHead.Unlock()
}

// CommitSuper writes the superblock to the device at once, outside any transaction (ext4_commit_super).
func (f *FS) CommitSuper() error {
	f.sbMu.Lock()
	f.fill()
	raw := append([]byte(nil), f.sb...)
	f.sbMu.Unlock()
	if _, err := f.Dev.WriteAt(raw, ondisk.SuperOffset); err != nil {
		return fmt.Errorf("write of the superblock: %w", err)
	}
	return nil
}

// UpdateSuper changes the superblock and writes it at once.
func (f *FS) UpdateSuper(change func(ondisk.Super)) error {
	f.sbMu.Lock()
	change(f.sb)
	f.sbMu.Unlock()
	return f.CommitSuper()
}

// errno codes of s_last_error_errcode (ext4.h EXT4_ERR_*).
const (
	errUnknown   = 1
	errIO        = 2
	errBadCsum   = 4
	errCorrupted = 5
	errNoSpace   = 6
)

func errCode(err error) uint8 {
	var c *ondisk.CorruptError
	switch {
	case errors.As(err, &c) && c.Checksum:
		return errBadCsum
	case errors.As(err, &c):
		return errCorrupted
	case errors.Is(err, syscall.EIO):
		return errIO
	case errors.Is(err, syscall.ENOSPC):
		return errNoSpace
	}
	return errUnknown
}

// Error is ext4_error: the finding is logged, recorded in the superblock (by a goroutine of its own, since the caller may hold
// locks), and errors= decides what becomes of the mount. ino and block are 0 when there is none; fn is the function that found it.
func (f *FS) Error(ino uint32, block uint64, fn string, err error) {
	if n := f.errCount.Add(1); n <= 100 || n%1000 == 0 {
		f.Log.Error("file system error", "in", fn, "ino", ino, "block", block, "err", err, "count", n)
	}
	if f.Dev.ReadOnly() {
		return
	}
	f.sbMu.Lock()
	f.sb.RecordError(time.Now().Unix(), ino, block, fn, 0, errCode(err))
	f.sb.SetState(f.sb.State() | ondisk.StateError)
	behave := f.sb.Errors()
	f.dirty = true
	f.sbMu.Unlock()
	if f.Opts.Errors != 0 {
		behave = f.Opts.Errors
	}
	switch behave {
	case ondisk.ErrorsRO:
		f.remountRO(err)
	case ondisk.ErrorsPanic:
		f.remountRO(err)
		if f.Opts.OnPanic != nil {
			f.Opts.OnPanic(err)
		}
	}
	select {
	case f.errWake <- struct{}{}:
	default:
	}
}

// remountRO refuses changes from here on. A journal is aborted (ext4_handle_error): what stands half done in the running transaction, under
// handles whose next step fails now, must not be committed.
func (f *FS) remountRO(err error) {
	if f.readOnly.Swap(true) {
		return
	}
	f.Log.Error("remounting file system read-only", "because", err)
	if f.Journal.Journalled() {
		f.Journal.Abort(err)
	}
	f.Journal.SetReadOnly()
}

// Corrupted reports err when it is about corruption or I/O and returns it, so that it can stand in a return statement.
func (f *FS) Corrupted(ino uint32, block uint64, fn string, err error) error {
	f.Error(ino, block, fn, err)
	return err
}

// ErrorCount is how many errors this mount has seen.
func (f *FS) ErrorCount() int64 { return f.errCount.Load() }

func (f *FS) errorWriter() {
	defer f.done.Done()
	for {
		select {
		case <-f.stop:
			return
		case <-f.errWake:
			if err := f.flushErrors(); err != nil {
				f.Log.Error("superblock not written", "err", err)
			}
		}
	}
}

func (f *FS) flushErrors() error {
	f.sbMu.Lock()
	d := f.dirty
	f.dirty = false
	f.sbMu.Unlock()
	if !d {
		return nil
	}
	err := f.CommitSuper()
	if err != nil {
		f.sbMu.Lock()
		f.dirty = true // for the next error, or the unmount
		f.sbMu.Unlock()
	}
	return err
}

// GroupError marks group n's bitmap as corrupt, once: nothing is allocated there any more (ext4_mark_group_bitmap_corrupted). The
// caller holds the group's Mu.
func (f *FS) GroupError(g *Group, inodes bool, fn string, err error) error {
	if inodes {
		g.InodesCorrupt = true
	} else {
		g.BlocksCorrupt = true
	}
	f.Error(0, 0, fn, err)
	return err
}
