package inline

import (
	"errors"
	"fmt"

	"inlinefs/alloc"
	"inlinefs/extent"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/internal/lock"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

var errTooBig = fserr.TooBig

// convertCredits is one block, its mapping, the inode, and the attribute block that may be touched.
const convertCredits = alloc.Credits + extent.SetCredits + 4

// Convert moves the file to a block, or makes a new one an ordinary file (ext4_convert_inline_data): the block is taken and written
// first, then one step under XattrSem and DataSem empties the inode and maps it. Failing changes nothing. All of it is one handle, so
// that no crash point leaves anything between. Callers: write, truncate, fallocate and the strategies that hold i.Rw.
func (e *Engine) Convert(t *journal.Task, i *inode.Inode) error {
	if !i.HasInline() {
		i.MayInline.Store(false)
		return nil
	}
	err := e.under(t, i, func(h *journal.Handle) error { return e.convertFlip(h, i) })
	e.count(t, i, err)
	return err
}

// count records the outcome of a conversion.
func (e *Engine) count(t *journal.Task, i *inode.Inode, err error) {
	if err != nil {
		e.FS.Live.ConversionsFailed.Add(1)
	} else {
		e.FS.Live.Conversions.Add(1)
	}
	if i.Observed() {
		i.Event(t, "inline.Convert", "ext4_convert_inline_data", fmt.Sprintf("done, err=%v", err))
	}
}

// convertFlip allocates and writes first; only then does the inode change.
func (e *Engine) convertFlip(h *journal.Handle, i *inode.Inode) error {
	i.XattrSem.Lock()
	defer i.XattrSem.Unlock()
	now, err := e.stillInline(i)
	if err != nil || now == nil {
		return err
	}
	return e.flipChecked(h, i, 0, nil, now)
}

// newBlock takes a block and writes data to it, zero filled.
func (e *Engine) newBlock(h *journal.Handle, i *inode.Inode, data []byte) (uint64, error) {
	blk, err := alloc.NewBlock(h, i, alloc.Goal(i))
	if err != nil {
		return 0, err
	}
	if err := e.writeBlock(i, blk, data); err != nil {
		return 0, errors.Join(err, alloc.FreeBlocks(h, i, blk, 1, false))
	}
	return blk, nil
}

func (e *Engine) writeBlock(i *inode.Inode, blk uint64, data []byte) error {
	b := make([]byte, e.FS.BlockSize)
	copy(b, data)
	if _, err := e.FS.Dev.WriteAt(b, int64(blk)*int64(e.FS.BlockSize)); err != nil {
		return e.FS.Corrupted(i.Ino, blk, "ext4_convert_inline_data", err)
	}
	return nil
}

// ConvertRestoring is the kernel's order of 4.12 and later: the inline data is destroyed, then a block is allocated, and when that
// fails the inline data and the flag are put back (ext4_convert_inline_data_nolock, ext4_restore_inline_data). A write between its
// begin and end sees the flag go and come back. The image stays sound all the same: everything is one handle, and nobody else may map
// blocks meanwhile (Inode.Converting).
func (e *Engine) ConvertRestoring(t *journal.Task, i *inode.Inode) error {
	if !i.HasInline() {
		i.MayInline.Store(false)
		return nil
	}
	err := e.under(t, i, func(h *journal.Handle) error { return e.convertRestoring(t, h, i) })
	e.count(t, i, err)
	return err
}

func (e *Engine) convertRestoring(t *journal.Task, h *journal.Handle, i *inode.Inode) error {
	i.XattrSem.Lock()
	defer i.XattrSem.Unlock()
	data, old, err := e.destroyNolock(t, i)
	if err != nil || old == nil {
		return err
	}
	e.window(t, i, pointDestroyMap)
	var blk uint64
	if len(data) > 0 {
		if blk, err = e.newBlock(h, i, data); err != nil {
			e.window(t, i, pointDestroyRestore)
			e.restoreNolock(t, i, old)
			// Another task may have written the emptied inode out meanwhile (a change of times): write the restored one.
			return errors.Join(err, i.MarkDirty(h))
		}
	}
	i.DataSem.Lock()
	defer i.DataSem.Unlock()
	i.Converting = false
	if blk != 0 {
		if err := extent.SetLocked(h, i, 0, 1, blk, false); err != nil {
			return named(i, err)
		}
		if err := i.AddSectors(int64(e.FS.BlockSize / 512)); err != nil {
			return err
		}
	}
	return i.MarkDirty(h)
}

// destroyNolock empties the inode; data is the file's content and old the parts of the raw inode to restore, nil when it was not inline.
func (e *Engine) destroyNolock(t *journal.Task, i *inode.Inode) (data []byte, old ondisk.Inode, err error) {
	i.DataSem.Lock()
	defer i.DataSem.Unlock()
	lock.Touching(&i.Mu, dataParts|lock.RawNone)
	lock.Looking(&i.Mu, lock.RawSize|lock.RawRest)
	i.Mu.Lock()
	if !i.Raw.Has(ondisk.FlInlineData) {
		i.Mu.Unlock()
		return nil, nil, nil
	}
	old = append(ondisk.Inode(nil), i.Raw...)
	if data, err = content(i.Raw); err == nil {
		err = destroy(i)
	}
	i.Mu.Unlock()
	if err != nil {
		return nil, nil, named(i, err)
	}
	i.Converting = true
	i.MayInline.Store(false)
	i.Gen.Add(1)
	i.Event(t, "inline.destroyNolock", "ext4_destroy_inline_data_nolock", "INLINE_DATA_FL=0 MAY_INLINE_DATA=0")
	return data, old, nil
}

// restoreNolock puts the inline data back (ext4_restore_inline_data).
func (e *Engine) restoreNolock(t *journal.Task, i *inode.Inode, old ondisk.Inode) {
	i.DataSem.Lock()
	defer i.DataSem.Unlock()
	lock.Touching(&i.Mu, dataParts)
	i.Mu.Lock()
	copy(i.Raw.Block(), old.Block())
	copy(i.Raw[ondisk.GoodOldInode+old.ExtraIsize():], old[ondisk.GoodOldInode+old.ExtraIsize():])
	i.Raw.SetFlags(i.Raw.Flags()&^ondisk.FlExtents | ondisk.FlInlineData)
	i.Mu.Unlock()
	i.Converting = false
	i.MayInline.Store(true)
	i.Gen.Add(1)
	e.FS.Live.Restores.Add(1)
	i.Event(t, "inline.restoreNolock", "ext4_restore_inline_data", "INLINE_DATA_FL=1 MAY_INLINE_DATA=1")
}
