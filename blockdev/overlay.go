package blockdev

import "sync"

const overlayPage = 4096

// Overlay keeps writes in memory above a device that is only read: a dirty journal can be replayed for a read-only mount.
type Overlay struct {
	below Device // immutable
	mu    sync.RWMutex
	pages map[int64][]byte // guarded by mu; by page number
}

// NewOverlay returns a writable view of below. Close closes below.
func NewOverlay(below Device) *Overlay {
	return &Overlay{below: below, pages: map[int64][]byte{}}
}

// ReadAt reads written pages from memory and the rest from below.
func (o *Overlay) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.below.ReadAt(p, off)
	if err != nil {
		return n, err
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	if len(o.pages) == 0 {
		return n, nil
	}
	end := off + int64(len(p))
	for at := off; at < end; {
		pg, in := at/overlayPage, at%overlayPage
		l := min(end-at, overlayPage-in)
		if b := o.pages[pg]; b != nil {
			copy(p[at-off:at-off+l], b[in:])
		}
		at += l
	}
	return n, nil
}

// WriteAt stores p in memory, reading the rest of a page from below the first time.
func (o *Overlay) WriteAt(p []byte, off int64) (int, error) {
	if err := checkRange("write", off, len(p), o.below.Size()); err != nil {
		return 0, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	end := off + int64(len(p))
	for at := off; at < end; {
		pg, in := at/overlayPage, at%overlayPage
		l := min(end-at, overlayPage-in)
		b := o.pages[pg]
		if b == nil {
			b = make([]byte, overlayPage)
			have := min(overlayPage, o.below.Size()-pg*overlayPage)
			if _, err := o.below.ReadAt(b[:have], pg*overlayPage); err != nil {
				return int(at - off), err
			}
			o.pages[pg] = b
		}
		copy(b[in:in+l], p[at-off:])
		at += l
	}
	return len(p), nil
}

// Fork is a second view of the device below with the same writes, which then goes its own way. The device below is shared.
func (o *Overlay) Fork() *Overlay {
	o.mu.RLock()
	defer o.mu.RUnlock()
	f := NewOverlay(o.below)
	for n, p := range o.pages {
		f.pages[n] = append([]byte(nil), p...)
	}
	return f
}

// Flush does nothing.
func (o *Overlay) Flush() error { return nil }

// Size is that of the device below.
func (o *Overlay) Size() int64 { return o.below.Size() }

// ReadOnly is false: the overlay takes writes, in memory.
func (o *Overlay) ReadOnly() bool { return false }

// Close drops the written pages and closes the device below.
func (o *Overlay) Close() error { return o.below.Close() }
