package fs

import (
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/lock"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// The kernel leaves clearing set-user-id and set-group-id to this side (CAP_HANDLE_KILLPRIV_V2). In return it remembers that a file has
// no security.capability, and does not ask for that attribute before every write.

// killed is mode without the bits that a write, a truncation or a change of owner by somebody else takes away: set-user-id, and
// set-group-id where the group may execute (setattr_should_drop_suidgid).
func killed(mode uint16) uint16 {
	if mode&ondisk.ModeFmt == ondisk.ModeDir {
		return mode
	}
	mode &^= 04000
	if mode&010 != 0 {
		mode &^= 02000
	}
	return mode
}

// killPriv clears the bits and writes the inode, if there are any. The caller holds i.Rw exclusively.
func (f *FileSystem) killPriv(t *journal.Task, i *inode.Inode) error {
	mode := i.Mode()
	if killed(mode) == mode {
		return nil
	}
	if f.fs.ReadOnly() {
		return fserr.ReadOnly
	}
	return f.with(t, journal.InodeOp, 2, func(h *journal.Handle) error {
		h.SetInode(i.Ino)
		lock.Touching(&i.Mu, lock.RawFlags)
		i.Mu.Lock()
		i.Raw.SetMode(killed(i.Raw.Mode()))
		i.Mu.Unlock()
		return i.MarkDirty(h)
	})
}
