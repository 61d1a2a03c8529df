// Package mm shadows the client's address space as far as the daemon can see it: what bytes each mapped page was last filled with.
//
// Under direct I/O with mappings allowed, the kernel may write a stale dirty page back over bytes that write(2) has just stored
// (Documentation/filesystems/fuse/fuse-io.rst; the post-write invalidation launders it). A page's last fill tells which of its bytes
// were stored through the mapping: those that differ. Only they are applied, so that no write(2) byte is lost.
package mm

import (
	"bytes"
	"sync"

	"inlinefs/internal/lock"
)

// PageSize is the client's page size in bytes.
const PageSize = 4096

// Mapping is the shadow of one inode's mapped pages. The zero value remembers nothing.
type Mapping struct {
	// Invalidate is mapping->invalidate_lock: shared in a fault, exclusive in truncate and hole operations. It has its own lock order.
	Invalidate lock.RWMutex // own lock
	// Folio is the lock of folio 0: an inline write(2) holds it from begin to end.
	Folio lock.Mutex // own lock

	ino   uint64 // immutable, for the explorer
	mu    sync.Mutex
	fills map[int64]*fill // guarded by mu; by page index
	cut   bool            // guarded by mu; some fill may have cuts
	space *Budget         // guarded by mu
	// writes that make the file longer and are not known to the client yet, and the least size that it may still have; guarded by mu
	growing int
	from    int64
}

// Name gives the mapping's locks their place in the order, for inode ino.
func (m *Mapping) Name(ino uint64) {
	lock.NameRW(&m.Invalidate, lock.Invalidate, ino)
	lock.NameMutex(&m.Folio, lock.Folio, ino)
	m.ino = ino
}

type fill struct {
	m    *Mapping
	page int64
	data [PageSize]byte
	cuts []cut
	soft int // from here on a zero is no store, 0: none is; see Grow
	// links of the budget's list, guarded by the budget's mu.
	prev, next *fill
}

// cut is a part of a page that was punched: until the kernel has zeroed its page too, it may write the part back as it was, and that is no
// store. It ends when the page is filled anew, when the part comes back otherwise, and by Settle.
type cut struct {
	from int
	was  []byte
}

// stale takes the cuts that data (at byte in of the page) brings back unchanged for what was there, so that they do not differ, and forgets
// those that come back changed. The caller holds the mapping's mu.
func (f *fill) stale(in int, data, was []byte) {
	keep := f.cuts[:0]
	for _, c := range f.cuts {
		lo, hi := max(c.from, in), min(c.from+len(c.was), in+len(data))
		switch {
		case lo >= hi:
			keep = append(keep, c)
		case bytes.Equal(data[lo-in:hi-in], c.was[lo-c.from:hi-c.from]):
			copy(was[lo:hi], data[lo-in:hi-in])
			keep = append(keep, c)
		}
	}
	f.cuts = keep
}

// store makes data, at byte in, the content that the page was last known to have; cuts stay zeros. The caller holds the mapping's mu.
func (f *fill) store(in int, data []byte) {
	copy(f.data[in:], data)
	for _, c := range f.cuts {
		clear(f.data[c.from : c.from+len(c.was)])
	}
}

// blank takes the zeros of data (at byte in of the page) that lie in the soft part for what was there. The caller holds the mapping's mu.
func (f *fill) blank(in int, data, was []byte) {
	if f.soft == 0 {
		return
	}
	for k := max(f.soft, in); k < in+len(data); k++ {
		if data[k-in] == 0 {
			was[k] = 0
		}
	}
}

// Grow says that a write(2) begins which may make the file longer than from bytes, Grown that the client's i_size is known to be past the page of
// that byte, or that the write has failed. In between a page may be filled with bytes behind the client's i_size. Write-back zeroes the page behind
// i_size as it is when it begins (iomap_writeback_handle_eof, Linux 6.17) and is cut at i_size as it is when it is sent (fuse_send_writepage):
// where that was raised meanwhile, the zeros come with the request. So in a page that was filled in between, zeros behind from are no stores. A
// mapping that does store zeros there stores them while the write is under way, and either order is right.
//
// Writes may overlap (asynchronous ones of one call): then from is the least.
func (m *Mapping) Grow(from int64) {
	lock.Point("page fills", m.ino)
	m.mu.Lock()
	if m.growing == 0 || from < m.from {
		m.from = from
	}
	m.growing++
	m.mu.Unlock()
}

// Grown ends what Grow began. filled says that a page was filled meanwhile: it may lack bytes of the file, and is to be dropped.
func (m *Mapping) Grown() (filled bool) {
	lock.Point("page fills", m.ino)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.growing--
	f := m.fills[m.from/PageSize]
	return f != nil && f.soft > 0
}

// Budget bounds the memory of all fills of a mount; the oldest are forgotten first. A forgotten page's write-back is applied whole.
type Budget struct {
	mu   sync.Mutex
	max  int  // immutable, pages
	n    int  // guarded by mu
	head fill // guarded by mu; ring, head.next is the oldest
}

// NewBudget returns a budget of bytes.
func NewBudget(bytes int64) *Budget {
	b := &Budget{max: max(int(bytes/PageSize), 16)}
	b.head.prev, b.head.next = &b.head, &b.head
	return b
}

// Bytes is how much memory the fills take now.
func (b *Budget) Bytes() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(b.n) * PageSize
}

// Filled remembers data, sent as the content of the pages from byte offset off on (a multiple of PageSize). A short last page was
// zero filled by the kernel.
func (m *Mapping) Filled(b *Budget, off int64, data []byte) {
	for len(data) > 0 {
		n := min(len(data), PageSize)
		m.fillPage(b, off/PageSize, data[:n])
		data, off = data[n:], off+PageSize
	}
}

func (m *Mapping) fillPage(b *Budget, page int64, data []byte) {
	lock.Point("page fills", m.ino)
	m.mu.Lock()
	if m.fills == nil {
		m.fills = map[int64]*fill{}
	}
	m.space = b
	f := m.fills[page]
	isNew := f == nil
	if isNew {
		f = &fill{m: m, page: page}
		m.fills[page] = f
	}
	n := copy(f.data[:], data)
	clear(f.data[n:])
	f.cuts, f.soft = nil, 0
	if m.growing > 0 && page == m.from/PageSize {
		f.soft = int(m.from % PageSize)
	}
	m.mu.Unlock()
	if !isNew {
		return
	}
	b.add(f)
	m.mu.Lock()
	dropped := m.fills[page] != f
	m.mu.Unlock()
	if dropped { // before it was in the list
		b.mu.Lock()
		b.unlink(f)
		b.mu.Unlock()
	}
}

func (b *Budget) add(f *fill) {
	b.mu.Lock()
	f.prev, f.next = b.head.prev, &b.head
	f.prev.next, b.head.prev = f, f
	b.n++
	var old *fill
	if b.n > b.max {
		old = b.head.next
		b.unlink(old)
	}
	b.mu.Unlock()
	if old != nil {
		old.m.mu.Lock()
		if old.m.fills[old.page] == old {
			delete(old.m.fills, old.page)
		}
		old.m.mu.Unlock()
	}
}

// unlink takes f off the list. The caller holds b.mu.
func (b *Budget) unlink(f *fill) {
	if f.prev != nil {
		f.prev.next, f.next.prev = f.next, f.prev
		f.prev, f.next = nil, nil
		b.n--
	}
}

// Merge calls apply for each run of bytes in data, written back from a mapping to byte offset off, that was stored since the page was
// filled; for pages never filled, or forgotten, that is all of it. Afterwards the page counts as filled with data. It returns the
// first error of apply.
func (m *Mapping) Merge(off int64, data []byte, apply func(off int64, p []byte) error) error {
	for len(data) > 0 {
		page, in := off/PageSize, int(off%PageSize)
		n := min(len(data), PageSize-in)
		if err := m.mergePage(page, in, data[:n], apply); err != nil {
			return err
		}
		data, off = data[n:], off+int64(n)
	}
	return nil
}

// mergePage merges what lies in one page, at byte in of it.
func (m *Mapping) mergePage(page int64, in int, data []byte, apply func(off int64, p []byte) error) error {
	base := page*PageSize + int64(in)
	lock.Point("page fills", m.ino)
	m.mu.Lock()
	f := m.fills[page]
	if f == nil {
		m.mu.Unlock()
		return apply(base, data)
	}
	var was [PageSize]byte
	copy(was[:], f.data[:])
	f.stale(in, data, was[:])
	f.blank(in, data, was[:])
	m.mu.Unlock()
	old := was[in : in+len(data)]
	if bytes.Equal(old, data) {
		return nil
	}
	for i := 0; i < len(data); {
		if data[i] == old[i] {
			i++
			continue
		}
		j := i + 1
		for j < len(data) && data[j] != old[j] {
			j++
		}
		if err := apply(base+int64(i), data[i:j]); err != nil {
			return err
		}
		i = j
	}
	// Only now: bytes that could not be stored still differ when they come again.
	m.mu.Lock()
	if m.fills[page] == f {
		f.store(in, data)
	}
	m.mu.Unlock()
	return nil
}

// Drop forgets the fills of the pages that lie wholly in [from, to): the file was truncated there. In a page that lies there in part the
// kernel keeps the rest and zeroes the part, and so does this. No page is on its way meanwhile: the kernel waits for write-back before it
// sends a change of size, and holds back what would follow (FUSE_NOWRITE).
func (m *Mapping) Drop(from, to int64) { m.drop(from, to, false) }

// Punch is Drop for a hole, [from, to) being what the client asked for. The kernel (fuse_file_fallocate) writes back, sends the request, and
// only after its answer takes the pages that lie in the range as a whole out of the page cache and zeroes the parts of others in place. Until
// then a page that was dirtied meanwhile may be written back as it was before.
//
// A whole page keeps its fill: what comes back before it is filled anew is based on that, and who stores to it later must fault. A part stays
// in the cache, and a store to it needs no fill: what comes back may be based on the old bytes or on zeros. Where all of the part comes back as it
// was, it is taken for the old bytes. So a mapping that stores into the part exactly what was there, all of it, before a Settle loses that.
func (m *Mapping) Punch(from, to int64) { m.drop(from, to, true) }

// Settle says that the kernel has done with all punches answered so far: it sent a request for which it holds i_rwsem, as it does from before
// a punch to the zeroing of its pages, and for which it has waited until write-back was answered (fsync, fallocate of a hole).
func (m *Mapping) Settle() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.cut {
		return
	}
	m.cut = false
	for _, f := range m.fills {
		f.cuts = nil
	}
}

func (m *Mapping) drop(from, to int64, late bool) {
	lock.Point("page fills", m.ino)
	m.mu.Lock()
	var gone []*fill
	for p, f := range m.fills {
		start, end := p*PageSize, (p+1)*PageSize
		switch {
		case end <= from || start >= to:
		case start >= from && end <= to && late: // as it is
		case start >= from && end <= to:
			delete(m.fills, p)
			gone = append(gone, f)
		default:
			part := f.data[max(from, start)-start : min(to, end)-start]
			if late {
				f.cuts = append(f.cuts, cut{int(max(from, start) - start), bytes.Clone(part)})
				m.cut = true
			}
			clear(part)
		}
	}
	b := m.space
	m.mu.Unlock()
	if b == nil {
		return
	}
	b.mu.Lock()
	for _, f := range gone {
		b.unlink(f)
	}
	b.mu.Unlock()
}

// Pages is the number of remembered fills.
func (m *Mapping) Pages() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.fills)
}
