package inline

import (
	"bytes"
	"errors"
	"fmt"

	"inlinefs/alloc"
	"inlinefs/extent"
	"inlinefs/inode"
	"inlinefs/internal/lock"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// snapshot is the file's content now; ok is false when it is not inline. It takes XattrSem shared.
func snapshot(i *inode.Inode) (data []byte, ok bool, err error) {
	i.XattrSem.RLock()
	defer i.XattrSem.RUnlock()
	lock.Reading(&i.Mu)
	lock.Touching(&i.Mu, dataParts|lock.RawSize)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	if !i.Raw.Has(ondisk.FlInlineData) {
		return nil, false, nil
	}
	if data, err = content(i.Raw); err != nil {
		return nil, false, named(i, err)
	}
	return data, true, nil
}

// flipLocked makes an inline inode an ordinary one whose first block is blk, 0 for none: the one step in which the mode changes. The caller
// holds XattrSem exclusively and h.
func (e *Engine) flipLocked(h *journal.Handle, i *inode.Inode, blk uint64) error {
	i.DataSem.Lock()
	defer i.DataSem.Unlock()
	lock.Touching(&i.Mu, dataParts|lock.RawNone)
	i.Mu.Lock()
	err := destroy(i)
	i.Mu.Unlock()
	if err == nil && blk != 0 {
		// The tree is the empty root: mapping one block in it cannot fail for want of space.
		err = extent.SetLocked(h, i, 0, 1, blk, false)
	}
	if err != nil {
		return named(i, err)
	}
	i.MayInline.Store(false)
	i.Gen.Add(1)
	i.Event(h.Task(), "inline.flipLocked", "set_mapping, ext4_destroy_inline_data_nolock", "INLINE_DATA_FL=0 MAY_INLINE_DATA=0")
	if blk != 0 {
		if err := i.AddSectors(int64(e.FS.BlockSize / 512)); err != nil {
			return err
		}
	}
	return i.MarkDirty(h)
}

// under runs fn under a handle for a conversion.
func (e *Engine) under(t *journal.Task, i *inode.Inode, fn func(h *journal.Handle) error) error {
	h, err := e.FS.Journal.Start(t, journal.WritePage, convertCredits)
	if err != nil {
		return err
	}
	h.SetInode(i.Ino)
	err = fn(h)
	if s := e.FS.Journal.Stop(t, h, i.Ino); err == nil {
		err = s
	}
	return err
}

// convertFlipTwice is flip as it was proposed: one handle allocates the block, the bytes are written to it, another handle flips the
// inode. Between the two a crash leaks the block, and between a write(2)'s begin and end the flip shows.
func (e *Engine) convertFlipTwice(t *journal.Task, i *inode.Inode) error {
	data, ok, err := snapshot(i)
	if err != nil || !ok {
		if err == nil {
			i.MayInline.Store(false)
		}
		return err
	}
	var blk uint64
	if len(data) > 0 {
		err = e.under(t, i, func(h *journal.Handle) (err error) {
			blk, err = e.newBlock(h, i, data)
			return err
		})
	}
	if err != nil {
		e.count(t, i, err)
		return err
	}
	err = e.under(t, i, func(h *journal.Handle) error {
		i.XattrSem.Lock()
		defer i.XattrSem.Unlock()
		again, err := e.stillInline(i)
		if err != nil || again == nil {
			return errors.Join(err, e.freeSpare(h, i, blk))
		}
		return e.flipChecked(h, i, blk, data, again)
	})
	e.count(t, i, err)
	return err
}

// stillInline is the content under XattrSem, nil when somebody else has converted the file.
func (e *Engine) stillInline(i *inode.Inode) ([]byte, error) {
	lock.Reading(&i.Mu)
	lock.Touching(&i.Mu, dataParts|lock.RawSize)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	if !i.Raw.Has(ondisk.FlInlineData) {
		return nil, nil
	}
	data, err := content(i.Raw)
	if err != nil {
		return nil, named(i, err)
	}
	return data[:len(data):len(data)], nil
}

func (e *Engine) freeSpare(h *journal.Handle, i *inode.Inode, blk uint64) error {
	if blk == 0 {
		return nil
	}
	return alloc.FreeBlocks(h, i, blk, 1, false)
}

// flipChecked flips, after writing the block again if the bytes have changed since it was written. The caller holds XattrSem exclusively
// and owns blk, 0 when none was taken yet.
func (e *Engine) flipChecked(h *journal.Handle, i *inode.Inode, blk uint64, wrote, now []byte) error {
	var err error
	switch {
	case blk == 0 && len(now) > 0:
		blk, err = e.newBlock(h, i, now)
	case !bytes.Equal(wrote, now):
		err = e.writeBlock(i, blk, now)
	}
	if err != nil {
		return err
	}
	return e.flipLocked(h, i, blk)
}

// convertFlipFolio holds a block in memory, writes the bytes to it, and only then opens a short handle which, with folio 0 locked, checks
// that they are still the file's, claims the block and flips the inode. Failing before that changes nothing, on disk or in core.
func (e *Engine) convertFlipFolio(t *journal.Task, i *inode.Inode) error {
	data, ok, err := snapshot(i)
	if err != nil {
		return err
	}
	if !ok && !i.MayInline.Load() {
		return nil // an ordinary file already
	}
	var blk uint64
	if len(data) > 0 {
		if blk, err = alloc.Hold(t, i, alloc.Goal(i)); err == nil {
			if err = e.writeBlock(i, blk, data); err != nil {
				alloc.Unhold(i, blk)
			}
		}
		if err != nil {
			e.count(t, i, err)
			return err
		}
	}
	held := blk != 0
	err = e.under(t, i, func(h *journal.Handle) error { return e.flipUnderFolio(h, i, blk, data, &held) })
	if held {
		alloc.Unhold(i, blk)
	}
	e.count(t, i, err)
	return err
}

// flipUnderFolio is the short handle of convertFlipFolio; held says that blk (0 when the file was empty) is still only held.
func (e *Engine) flipUnderFolio(h *journal.Handle, i *inode.Inode, blk uint64, wrote []byte, held *bool) error {
	i.Map.Folio.Lock()
	defer i.Map.Folio.Unlock()
	i.XattrSem.Lock()
	defer i.XattrSem.Unlock()
	now, err := e.stillInline(i)
	if err != nil {
		return err
	}
	if now == nil {
		i.MayInline.Store(false) // converted by somebody else, or new and without bytes
		return nil
	}
	if *held {
		*held = false
		if err := alloc.Claim(h, i, blk); err != nil {
			return err
		}
	}
	return e.flipChecked(h, i, blk, wrote, now)
}

// copyUnlocked is the write-back of writepages_copy: by the i_size that it sees, without the inode lock.
func (e *Engine) copyUnlocked(t *journal.Task, i *inode.Inode, p []byte, off uint64) error {
	size := i.Size()
	e.window(t, i, pointSizeCopy)
	if off >= size {
		return nil
	}
	p = p[:min(uint64(len(p)), size-off)]
	var moved bool
	err := e.under(t, i, func(h *journal.Handle) error {
		i.XattrSem.Lock()
		defer i.XattrSem.Unlock()
		lock.Touching(&i.Mu, lock.RawMap|lock.RawArea|lock.RawSize)
		lock.Looking(&i.Mu, lock.RawFlags)
		i.Mu.Lock()
		moved = !i.Raw.Has(ondisk.FlInlineData)
		var err error
		if !moved {
			if err = resize(i.Raw, off+uint64(len(p))); err == nil {
				err = store(i.Raw, p, off)
			}
			i.Event(t, "inline.copyUnlocked", "write-back copies into the inode", fmt.Sprintf("%d bytes at %d by i_size=%d, i_size now %d", len(p), off, size, i.Raw.Size()))
		}
		i.Mu.Unlock()
		if err != nil || moved {
			return err
		}
		return i.MarkDirty(h)
	})
	if err != nil || !moved {
		return err
	}
	return e.storeMapped(t, i, p, off)
}

// destroyForWriteback is the write-back of writepages_destroy: the inode becomes an ordinary one without a block, and the page, for which
// none was reserved, is skipped.
func (e *Engine) destroyForWriteback(t *journal.Task, i *inode.Inode) error {
	return e.under(t, i, func(h *journal.Handle) error {
		i.XattrSem.Lock()
		defer i.XattrSem.Unlock()
		if !i.HasInline() {
			return nil
		}
		return e.flipLocked(h, i, 0)
	})
}
