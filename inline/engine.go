package inline

import (
	"errors"
	"fmt"
	"time"

	"inlinefs/extent"
	"inlinefs/inode"
	"inlinefs/internal/lock"
	"inlinefs/journal"
	"inlinefs/mm"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// Engine is the inline data of one mount.
type Engine struct {
	FS       *super.FS     // immutable
	Strategy Strategy      // immutable
	Window   time.Duration // immutable; extra delay at the named points, 0 for none
	Budget   *mm.Budget    // immutable
}

// The points at which Window widens a race.
const (
	pointBeginEnd       = "between write_begin and write_end"
	pointDestroyMap     = "between destroy and map_blocks"
	pointDestroyRestore = "between map_blocks and restore"
	pointSizeCopy       = "between i_size and copy"
)

func (e *Engine) window(t *journal.Task, i *inode.Inode, point string) {
	if e.Window > 0 {
		i.Event(t, "inline.window", "-", point)
		time.Sleep(e.Window)
	}
}

// Mode is how a write(2) stores its bytes.
type Mode uint8

// The modes.
const (
	BlockMode Mode = iota
	InlineMode
)

// String is "block" or "inline".
func (m Mode) String() string { return [...]string{"block", "inline"}[m] }

// Token carries what WriteBegin decided to WriteEnd. It is used once.
type Token struct {
	Mode   Mode
	handle *journal.Handle
	gen    uint64
	folio  *lock.Mutex // folio 0, held by an inline write from begin to end
}

// unlockFolio gives folio 0 back, once.
func (tok *Token) unlockFolio() {
	if tok.folio != nil {
		tok.folio.Unlock()
		tok.folio = nil
	}
}

// writeCredits is the inode's block and what a conversion inside the write needs.
const writeCredits = 4

// WriteBegin decides whether the bytes [off, off+n) go into the inode, and opens the handle of an inline write, which stays open to
// WriteEnd (ext4_da_write_begin, ext4_generic_write_inline_data). A file that outgrows its inode is converted here. The caller holds
// i.Rw exclusively.
func (e *Engine) WriteBegin(t *journal.Task, i *inode.Inode, off uint64, n int) (Token, error) {
	at := i.Now()
	may := i.MayInline.Load()
	if i.Observed() {
		i.EventAt(at, t, "inline.WriteBegin", "ext4_da_write_begin", fmt.Sprintf("MAY_INLINE_DATA=%v pos=%d len=%d", may, off, n))
	}
	if !may {
		return Token{Mode: BlockMode, gen: i.Gen.Load()}, nil
	}
	end := off + uint64(n)
	if end > Max(i) {
		if err := e.Convert(t, i); err != nil {
			return Token{}, err
		}
		return Token{Mode: BlockMode, gen: i.Gen.Load()}, nil
	}
	h, err := e.FS.Journal.Start(t, journal.InodeOp, writeCredits)
	if err != nil {
		return Token{}, err
	}
	h.SetInode(i.Ino)
	i.Event(t, "journal.Start", "ext4_journal_start", "handle opened")
	// As in the kernel, folio 0 is locked after the handle is open, and until write_end.
	i.Map.Folio.Lock()
	ok, err := e.prepare(i, end)
	if err == nil && ok {
		return Token{Mode: InlineMode, handle: h, gen: i.Gen.Load(), folio: &i.Map.Folio}, nil
	}
	i.Map.Folio.Unlock()
	if err := errors.Join(err, e.FS.Journal.Stop(t, h, i.Ino)); err != nil {
		return Token{}, err
	}
	// Moved, or out of room, since Max was asked: the block path, as the kernel falls back to it.
	if i.HasInline() {
		if err := e.Convert(t, i); err != nil {
			return Token{}, err
		}
	}
	return Token{Mode: BlockMode, gen: i.Gen.Load()}, nil
}

// prepare makes the inline area long enough for end bytes (ext4_prepare_inline_data); ok is false when the file is not to be inline.
func (e *Engine) prepare(i *inode.Inode, end uint64) (ok bool, err error) {
	i.XattrSem.Lock()
	defer i.XattrSem.Unlock()
	if !i.MayInline.Load() {
		return false, nil
	}
	if err := e.FS.Inject("xattr-grow", uint64(i.Ino)); err != nil {
		return false, err
	}
	parts := dataParts
	if lock.Exploring && i.HasInline() { // then flags and i_block stay as they are
		parts = lock.RawArea
	}
	lock.Touching(&i.Mu, parts)
	lock.Looking(&i.Mu, lock.RawFlags)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	err = resize(i.Raw, end)
	if errors.Is(err, ondisk.ErrIbodyNoSpace) {
		return false, nil
	}
	return err == nil, err
}

// WriteEnd stores p at off and closes what WriteBegin opened (ext4_da_write_end); without a p it stores nothing. Like the kernel it asks the
// inode again whether it is inline; an answer that differs from the token's is a violation and stores nothing.
func (e *Engine) WriteEnd(t *journal.Task, i *inode.Inode, tok Token, p []byte, off uint64) (int, error) {
	has, may := i.HasInline(), i.MayInline.Load()
	at := i.Now()
	now := BlockMode
	if has && may {
		now = InlineMode
	}
	if i.Observed() {
		i.EventAt(at, t, "inline.WriteEnd", "ext4_da_write_end", fmt.Sprintf("has_inline=%v MAY_INLINE_DATA=%v, begun as %s", has, may, tok.Mode))
	}
	if tok.gen != i.Gen.Load() && now == tok.Mode {
		e.FS.Live.Flips.Add(1)
	}
	switch {
	case now == InlineMode && tok.Mode == BlockMode:
		// ext4_write_inline_data_end would now stop current's handle, and there is none.
		i.Event(t, "journal.Stop", "__ext4_journal_stop", "handle=NULL: BUG_ON(ref_cnt == 0)")
		return 0, e.FS.Journal.Stop(t, t.Current(), i.Ino)
	case now != tok.Mode:
		tok.unlockFolio()
		err := e.FS.Journal.V.Raise(journal.ModeMismatch, t, uint64(i.Ino), nil, "write of %d bytes at %d began inline and ends in block mode, inode %d", len(p), off, i.Ino)
		return 0, errors.Join(err, e.FS.Journal.Stop(t, tok.handle, i.Ino))
	case now == InlineMode:
		return e.endInline(t, i, tok, p, off)
	}
	return e.endBlock(t, i, p, off)
}

// endInline is ext4_write_inline_data_end.
func (e *Engine) endInline(t *journal.Task, i *inode.Inode, tok Token, p []byte, off uint64) (int, error) {
	h := tok.handle
	flipped, err := e.storeInline(i, p, off)
	tok.unlockFolio()
	if flipped {
		err = e.FS.Journal.V.Raise(journal.ModeMismatch, t, uint64(i.Ino), nil, "write of %d bytes at %d finds no inline data under xattr_sem, inode %d", len(p), off, i.Ino)
	}
	if err == nil && len(p) > 0 {
		i.Touch(time.Now(), ondisk.Mtime, ondisk.Ctime)
		err = i.MarkDirty(h)
	}
	i.Event(t, "journal.Stop", "__ext4_journal_stop", "handle closed")
	if e := e.FS.Journal.Stop(t, h, i.Ino); err == nil {
		err = e
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// storeInline copies p into the inode and grows i_size; flipped says that the file is not inline any more.
func (e *Engine) storeInline(i *inode.Inode, p []byte, off uint64) (flipped bool, err error) {
	if len(p) == 0 {
		return false, nil
	}
	i.XattrSem.Lock()
	defer i.XattrSem.Unlock()
	lock.Touching(&i.Mu, lock.RawMap|lock.RawArea|lock.RawSize)
	lock.Looking(&i.Mu, lock.RawFlags)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	if !i.Raw.Has(ondisk.FlInlineData) {
		return true, nil
	}
	if err := resize(i.Raw, off+uint64(len(p))); err != nil {
		return false, err
	}
	if err := store(i.Raw, p, off); err != nil {
		return false, err
	}
	if end := off + uint64(len(p)); end > i.Raw.Size() {
		i.Raw.SetSize(end)
	}
	return false, nil
}

// endBlock stores p in blocks. A file found inline when a block is to be mapped is the violation that ext4_do_writepages meets.
func (e *Engine) endBlock(t *journal.Task, i *inode.Inode, p []byte, off uint64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, dirtied, err := extent.Write(t, i, p, off)
	if errors.Is(err, extent.ErrInline) {
		err = e.FS.Journal.V.Raise(journal.InlineWriteback, t, uint64(i.Ino), nil, "block write of %d bytes at %d meets inline data, inode %d", len(p), off, i.Ino)
	}
	if n == 0 && err != nil {
		return 0, err
	}
	if !dirtied || n < len(p) || i.Size() < off+uint64(n) {
		if e := e.finishBlock(t, i, off+uint64(n)); err == nil {
			err = e
		}
	}
	return n, err
}

// finishBlock writes times and size after an overwrite.
func (e *Engine) finishBlock(t *journal.Task, i *inode.Inode, end uint64) error {
	h, err := e.FS.Journal.Start(t, journal.InodeOp, 2)
	if err != nil {
		return err
	}
	h.SetInode(i.Ino)
	lock.Touching(&i.Mu, lock.RawSize)
	i.Mu.Lock()
	if end > i.Raw.Size() {
		i.Raw.SetSize(end)
	}
	i.Mu.Unlock()
	i.Touch(time.Now(), ondisk.Mtime, ondisk.Ctime)
	err = i.MarkDirty(h)
	if e := h.Stop(); err == nil {
		err = e
	}
	return err
}

// Write is write(2) on a regular file: begin, end. The caller holds i.Rw exclusively.
func (e *Engine) Write(t *journal.Task, i *inode.Inode, p []byte, off uint64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if off+uint64(len(p)) < off || off+uint64(len(p)) > 1<<62 {
		return 0, fmt.Errorf("%s: %d bytes at %d: %w", i.Name(), len(p), off, errTooBig)
	}
	for {
		t.Mm.CopyFromUser() // fault_in_iov_iter_readable, under i_rwsem
		tok, err := e.WriteBegin(t, i, off, len(p))
		if err != nil {
			return 0, err
		}
		e.window(t, i, pointBeginEnd)
		if e.FS.Inject("user-copy", uint64(i.Ino)) == nil {
			return e.WriteEnd(t, i, tok, p, off)
		}
		// The buffer was reclaimed since it was faulted in, and the copy is made with faults disabled: nothing is copied, the write ends so,
		// and is begun anew (generic_perform_write).
		if _, err := e.WriteEnd(t, i, tok, nil, off); err != nil {
			return 0, err
		}
	}
}
