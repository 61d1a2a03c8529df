package stress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"
)

// moreFds are descriptors that some sibling races need beside the worker's own; 0: not open. They live for a round.
type moreFds struct {
	direct, readOnly, sink, procMem, side, sideDirect int
}

// siblingRound takes the actor's turns.
func (w *worker) siblingRound() {
	rng := w.rng()
	a := &w.sib.actors[w.id]
	for ; !w.cutShort(); w.turns++ {
		if a.follows && w.turns > 0 && w.sh.done[w.file].Load() >= w.leaders() || !a.follows && w.turns >= w.p.Writes {
			return
		}
		a.turn(w, rng)
		w.beat()
		spin(rng.IntN(jitterSpins))
	}
}

func (w *worker) closeMore() {
	m := &w.more
	for _, fd := range []*int{&m.direct, &m.readOnly, &m.sink, &m.procMem, &m.side, &m.sideDirect} {
		if *fd > 0 {
			w.check("close", unix.Close(*fd))
		}
		*fd = 0
	}
}

// extra opens one of the further descriptors when it is first wanted.
func (w *worker) extra(fd *int, call string, open func() (int, error)) (int, bool) {
	if *fd != 0 {
		return *fd, true
	}
	got, err := open()
	if !w.check(call, err) {
		return 0, false
	}
	*fd = got
	return got, true
}

// directFd is the file opened with O_DIRECT, where the file system has that.
func (w *worker) directFd() (int, bool) {
	return w.extra(&w.more.direct, "open-direct", func() (int, error) { return openDirect(w.path) })
}

func openDirect(path string) (int, error) {
	fd, err := unix.Open(path, openFlags|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EINVAL) {
		return unix.Open(path, openFlags|unix.O_CLOEXEC, 0)
	}
	return fd, err
}

// did counts a call that is neither write nor fault, and its error; true: it worked.
func (w *worker) did(call string, err error) bool {
	w.me.calls.Add(1)
	return w.check(call, err)
}

// present tells if the file has the cell, as far as its only resizer knows.
func (w *worker) present(cell int) bool {
	return int64(w.lay.offset(cell))+cellSize <= w.me.size.Load()
}

// settle finds out, after a call that failed, whether the size changed; the caller is the only one that changes it.
func (w *worker) settle() {
	size, _, err := sizeAndBlocks(w.fd)
	if !w.check("statx", err) {
		return
	}
	if size == w.me.size.Load() || size == w.me.maybe.Load() {
		w.me.size.Store(size)
		w.me.maybe.Store(sizeUnknown)
	}
}

// sizeAndBlocks asks the file system, not the kernel's cache of attributes.
func sizeAndBlocks(fd int) (size, blocks int64, err error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_SIZE|unix.STATX_BLOCKS, &st); err != nil {
		return 0, 0, fmt.Errorf("statx: %w", err)
	}
	return int64(st.Size), int64(st.Blocks), nil
}

// setSize truncates, down or up, and forgets the cells that are beyond the new end or have come back as zeros. false: it failed.
func (w *worker) setSize(size int) bool {
	was := w.me.size.Load()
	w.me.maybe.Store(int64(size))
	if !w.did("truncate", unix.Ftruncate(w.fd, int64(size))) {
		w.settle()
		return false
	}
	for i := range w.count {
		if end := int64(w.lay.offset(w.first+i)) + cellSize; end > int64(size) || end > was {
			w.me.cells[w.first+i].reset(0)
		}
	}
	w.sized(size)
	return true
}

// extend writes a cell beyond the end, so that the file grows. false: it did not.
func (w *worker) extend(fd, cell int, buf []byte) bool {
	v := w.nextStamp()
	binary.LittleEndian.PutUint64(buf, v)
	off := w.lay.offset(cell)
	w.me.cells[cell].issue(v)
	w.me.maybe.Store(int64(off + len(buf)))
	begin := time.Now()
	n, err := unix.Pwrite(fd, buf, int64(off))
	w.took(w.write, begin)
	if err != nil || n != len(buf) {
		w.wrote(cell, []uint64{v}, min(n, cellSize), err)
		w.settle()
		return false
	}
	w.wrote(cell, []uint64{v}, cellSize, nil)
	w.sized(off + len(buf))
	return true
}

// writeTurn writes, or sometimes reads back, one cell of the actor's own.
func writeTurn(w *worker, rng *rand.Rand) {
	cell := w.first + rng.IntN(w.count)
	if rng.IntN(8) == 0 {
		w.readBack(cell)
		return
	}
	w.writeOne(cell)
}

// storeTurn maps, stores, syncs, unmaps.
func storeTurn(w *worker, rng *rand.Rand) { w.mapOnce(rng) }

// announceTurn maps and unmaps without touching anything: each time the client's mmap_lock is wanted for writing.
func announceTurn(w *worker, _ *rand.Rand) {
	w.me.calls.Add(1)
	if mem, ok := w.mapShared(w.fd); ok {
		w.check("munmap", unix.Munmap(mem))
	}
}

// growTurn moves the end of the file back and forth over the actor's cells, which stand one after the other at the file's end: it
// appends, cuts off, and stretches the file, which must bring zeros and nothing that was there before.
func growTurn(w *worker, rng *rand.Rand) {
	if w.me.maybe.Load() != sizeUnknown {
		return
	}
	base := w.lay.offset(w.first)
	have := (int(w.me.size.Load()) - base) / cellSize
	switch x := rng.IntN(8); {
	case x < 2 && have > 0:
		w.setSize(base + rng.IntN(have)*cellSize)
	case x < 4 && have < w.count:
		to := have + 1 + rng.IntN(w.count-have)
		if w.setSize(base + to*cellSize) {
			w.readBack(w.first + have + rng.IntN(to-have))
		}
	case x < 6 && have < w.count:
		w.extend(w.fd, w.first+have, make([]byte, cellSize))
	case have > 0 && x == 6:
		w.readBack(w.first + rng.IntN(have))
	case have > 0:
		w.writeOne(w.first + rng.IntN(have))
	}
}

// spreadTurn writes cells that lie far apart, which moves the file out of its inode and gives it further blocks, and cuts it short again.
func spreadTurn(w *worker, rng *rand.Rand) {
	cell := w.first + rng.IntN(w.count)
	switch {
	case w.present(cell) && rng.IntN(3) == 0:
		w.readBack(cell)
	case w.present(cell):
		w.writeOne(cell)
	case w.me.maybe.Load() != sizeUnknown:
	case w.turns > 0 && rng.IntN(3) == 0:
		w.extend(w.fd, cell, make([]byte, cellSize))
		// What lies between the old end and the new one is a hole.
		for i := w.first; i < cell; i++ {
			if w.present(i) {
				w.readBack(i)
			}
		}
	default:
		w.writeOne(w.first)
	}
	if rng.IntN(8) == 0 && w.me.maybe.Load() == sizeUnknown && int(w.me.size.Load()) > w.lay.size() {
		w.setSize(w.lay.size())
	}
}

// observeTurn reads a cell of somebody else's while it is raced on.
func observeTurn(w *worker, rng *rand.Rand) {
	fd := w.fd
	if rng.IntN(2) == 0 {
		ro, ok := w.extra(&w.more.readOnly, "open", func() (int, error) { return unix.Open(w.path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
		if !ok {
			return
		}
		fd = ro
	}
	w.observe(rng.IntN(len(w.sib.cells)), fd)
}

// observe reads a cell of another. What it may hold: what was acknowledged when the read began, or anything issued up to its end.
func (w *worker) observe(cell, fd int) {
	c := w.sib.cells[cell]
	s := &w.sh.slots[c.owner]
	low := s.cells[cell].acked.Load()
	look := func() (v uint64, n int, ok bool) {
		var buf [cellSize]byte
		w.me.calls.Add(1)
		n, err := unix.Pread(fd, buf[:], c.off)
		return binary.LittleEndian.Uint64(buf[:]), n, w.check("read", err)
	}
	fits := func(v uint64, n int) bool {
		return n == cellSize && plausible(c, w.round, low, s.seq.Load(), v) || c.gone && n < cellSize
	}
	v, n, ok := look()
	if !ok || fits(v, n) {
		return
	}
	class := classMismatch
	if n == cellSize {
		f := FileWant{Round: w.round}
		class = f.classify(CellWant{Owner: c.owner, Mapper: w.p.isMapper(c.owner), Acked: low}, v)
	}
	for i := 0; i < lookAgain && class != ClassTornRead; i++ {
		if v2, n2, ok := look(); ok && fits(v2, n2) {
			class = ClassTornRead
		}
		spin(jitterSpins * (i + 1))
	}
	w.find(class, "cell %d at byte %d of worker %d, read by another: %d bytes, %s, want %s or a later one", cell, c.off, c.owner, n, stampText(v),
		stampText(low))
}

// plausible tells if a value may have stood in a cell between the time when low was acknowledged and that when the owner's last stamp was
// high.
func plausible(c siblingCell, round uint64, low uint64, high uint32, v uint64) bool {
	if v == low || c.gone && v == 0 {
		return true
	}
	owner, r, seq, ok := unstamp(v)
	if !ok || owner != c.owner || r != uint16(round) || seq > high {
		return false
	}
	_, _, least, known := unstamp(low)
	return c.gone || known && seq >= least
}
