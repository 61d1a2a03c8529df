package blockdev

import "sync"

// Mem is a device in memory, for tests and for images that must not be touched.
type Mem struct {
	mu sync.RWMutex
	b  []byte // guarded by mu
	ro bool   // immutable
}

// NewMem wraps b without copying it.
func NewMem(b []byte) *Mem { return &Mem{b: b} }

// NewMemReadOnly wraps b as a device that refuses writes.
func NewMemReadOnly(b []byte) *Mem { return &Mem{b: b, ro: true} }

// ReadAt copies from memory.
func (m *Mem) ReadAt(p []byte, off int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := checkRange("read", off, len(p), int64(len(m.b))); err != nil {
		return 0, err
	}
	return copy(p, m.b[off:]), nil
}

// WriteAt copies into memory.
func (m *Mem) WriteAt(p []byte, off int64) (int, error) {
	if m.ro {
		return 0, ErrReadOnly
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := checkRange("write", off, len(p), int64(len(m.b))); err != nil {
		return 0, err
	}
	return copy(m.b[off:], p), nil
}

// Flush does nothing: memory is as durable as it gets.
func (m *Mem) Flush() error { return nil }

// Size is the length of the memory.
func (m *Mem) Size() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return int64(len(m.b))
}

// ReadOnly says whether writes are refused.
func (m *Mem) ReadOnly() bool { return m.ro }

// Close does nothing.
func (m *Mem) Close() error { return nil }

// Snapshot returns a copy of the content.
func (m *Mem) Snapshot() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return append([]byte(nil), m.b...)
}
