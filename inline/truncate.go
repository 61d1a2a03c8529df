package inline

import (
	"time"

	"inlinefs/inode"
	"inlinefs/internal/lock"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// Truncate sets the size of an inline file. It returns false, having changed nothing but the mode, when the file is (now) an ordinary
// one and the caller must truncate its blocks. Growing past the bytes that the inode holds now converts first, as ext4 does since 7.0;
// any smaller size, 0 included, stays inline. The caller holds i.Rw exclusively.
func (e *Engine) Truncate(t *journal.Task, i *inode.Inode, size uint64) (done bool, err error) {
	if !i.HasInline() {
		if size > 0 {
			i.MayInline.Store(false) // a new file that is grown by truncate becomes an ordinary one
		}
		return false, nil
	}
	have, ok, err := Size(i)
	if err != nil || !ok {
		return false, err // a fault has converted it meanwhile
	}
	if size > have {
		return false, e.Convert(t, i)
	}
	h, err := e.FS.Journal.Start(t, journal.InodeOp, writeCredits)
	if err != nil {
		return false, err
	}
	h.SetInode(i.Ino)
	done, err = e.setInlineSize(h, i, size)
	if s := h.Stop(); err == nil {
		err = s
	}
	return done, err
}

// setInlineSize asks again under XattrSem whether the file is inline: a fault may have converted it.
func (e *Engine) setInlineSize(h *journal.Handle, i *inode.Inode, size uint64) (done bool, err error) {
	i.XattrSem.Lock()
	defer i.XattrSem.Unlock()
	i.DataSem.Lock()
	defer i.DataSem.Unlock()
	lock.Touching(&i.Mu, lock.RawMap|lock.RawArea|lock.RawSize|lock.RawRest)
	lock.Looking(&i.Mu, lock.RawFlags)
	i.Mu.Lock()
	if !i.Raw.Has(ondisk.FlInlineData) {
		i.Mu.Unlock()
		return false, nil
	}
	if size < i.Raw.Size() {
		err = shrink(i.Raw, size)
	}
	if err == nil {
		i.Raw.SetSize(size)
		now := time.Now()
		i.Raw.SetTime(ondisk.Mtime, now)
		i.Raw.SetTime(ondisk.Ctime, now)
	}
	i.Mu.Unlock()
	if err != nil {
		return true, named(i, err)
	}
	return true, i.MarkDirty(h)
}
