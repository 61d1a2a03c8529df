// Package blockdev is the bottom of the stack: a byte-addressed device with an explicit flush, and the wrappers that tests put
// around it (faults by rule, a copy-on-write overlay, a write recorder). It knows nothing of ext4.
package blockdev

import (
	"errors"
	"fmt"
	"io"
)

// Device is a byte-addressed block device or image. Offsets and lengths are in bytes. Implementations are safe for concurrent use;
// two overlapping concurrent writes leave either one's bytes, as a disk does.
type Device interface {
	// ReadAt fills p from offset off. Fewer than len(p) bytes is an error (io.ErrUnexpectedEOF past the end).
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt stores p at offset off. It may stay in a volatile cache until Flush returns. ErrReadOnly when the device is.
	WriteAt(p []byte, off int64) (int, error)
	// Flush makes every completed write durable, as REQ_PREFLUSH does.
	Flush() error
	// Size is the length of the device in bytes.
	Size() int64
	// ReadOnly says whether WriteAt is refused.
	ReadOnly() bool
	// Close releases the device; it does not flush.
	Close() error
}

// Preallocator is a Device that can give a range its place on the medium ahead of the writes to it.
type Preallocator interface {
	// Preallocate makes later writes to the n bytes from off overwrite blocks that exist, so that a Flush after them need not change the
	// medium's own metadata. The content stays what it was. Nobody may write to the range meanwhile.
	Preallocate(off, n int64) error
}

// ErrReadOnly is returned by WriteAt of a device opened for reading only.
var ErrReadOnly = errors.New("device is read-only")

// ErrBusy is returned by OpenFile when another process holds the image.
var ErrBusy = errors.New("image is in use by another process")

// checkRange refuses a request outside [0, size).
func checkRange(what string, off int64, n int, size int64) error {
	if off < 0 || off+int64(n) > size {
		return fmt.Errorf("%s of %d bytes at offset %d: beyond the device's %d bytes: %w", what, n, off, size, io.ErrUnexpectedEOF)
	}
	return nil
}
