package stress

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"time"
	"unsafe"

	"inlinefs/internal/control"

	"golang.org/x/sys/unix"
)

// jitterSpins bounds the idle turns between two steps, so that writers and mappers meet at ever different points.
const jitterSpins = 400

func (w *worker) rng() *rand.Rand {
	return rand.New(rand.NewPCG(w.p.Seed+w.round, uint64(w.id)+100))
}

// cutShort says that the round is to end before its time.
func (w *worker) cutShort() bool { return w.sh.cut.Load() != 0 || w.sh.broken.Load() != 0 }

//go:noinline
func spin(n int) (x int) {
	for i := range n {
		x ^= i
	}
	return x
}

// writerRound writes again and again: mostly one cell, sometimes all of its own, sometimes out of a mapping; the first writer of a
// file also appends and truncates; now and then what is there is read back.
func (w *worker) writerRound() {
	rng := w.rng()
	if w.p.MappedBuffer && w.p.LateOpen {
		w.src = w.openSource()
	}
	for range w.p.Writes {
		if w.cutShort() {
			return
		}
		switch x := rng.IntN(32); {
		case x == 0 && w.p.Resize && w.id == w.p.firstWriter(w.file):
			w.resize(rng)
		case x == 1:
			w.writeChunk()
		case x == 2:
			w.readBack(w.target(rng))
		case w.src != nil && x%2 == 1:
			w.writeMapped(rng, w.src)
		default:
			w.writeOne(w.target(rng))
		}
		w.beat()
		spin(rng.IntN(jitterSpins))
	}
}

// targets are the base cells that the worker may write: a source for mapped writes never changes.
func (w *worker) targets() (first, n int) {
	if w.p.MappedBuffer && !w.p.isMapper(w.id) {
		return w.first + 2, w.count - 2
	}
	return w.first, w.count
}

func (w *worker) target(rng *rand.Rand) int {
	first, n := w.targets()
	return first + rng.IntN(n)
}

// wrote settles a write of cells: the first n bytes are acknowledged.
func (w *worker) wrote(cell int, vals []uint64, n int, err error) {
	if !w.check("write", err) {
		return
	}
	for i, v := range vals {
		if (i+1)*cellSize <= n {
			w.me.cells[cell+i].ack(v)
		}
	}
	if n != len(vals)*cellSize {
		w.find(classMismatch, "write of %d bytes took %d", len(vals)*cellSize, n)
		return
	}
	w.me.writes.Add(1)
}

func (w *worker) writeOne(cell int) {
	v := w.nextStamp()
	var buf [cellSize]byte
	binary.LittleEndian.PutUint64(buf[:], v)
	w.me.cells[cell].issue(v)
	begin := time.Now()
	n, err := unix.Pwrite(w.fd, buf[:], int64(w.lay.offset(cell)))
	w.took(w.write, begin)
	w.wrote(cell, []uint64{v}, n, err)
}

// writeChunk writes all of the worker's cells with lseek and write(2).
func (w *worker) writeChunk() {
	first, n := w.targets()
	vals := make([]uint64, n)
	buf := make([]byte, 0, n*cellSize)
	for i := range vals {
		vals[i] = w.nextStamp()
		buf = binary.LittleEndian.AppendUint64(buf, vals[i])
		w.me.cells[first+i].issue(vals[i])
	}
	if _, err := unix.Seek(w.fd, int64(w.lay.offset(first)), unix.SEEK_SET); !w.check("lseek", err) {
		return
	}
	begin := time.Now()
	got, err := unix.Write(w.fd, buf)
	w.took(w.write, begin)
	w.wrote(first, vals, got, err)
}

func (w *worker) readBack(cell int) {
	var buf [cellSize]byte
	n, err := unix.Pread(w.fd, buf[:], int64(w.lay.offset(cell)))
	if !w.check("read", err) {
		return
	}
	if n != cellSize {
		w.find(classMismatch, "read of %d bytes at %d gave %d", cellSize, w.lay.offset(cell), n)
		return
	}
	w.look(cell, binary.LittleEndian.Uint64(buf[:]), "read", func() (uint64, bool) {
		n, err := unix.Pread(w.fd, buf[:], int64(w.lay.offset(cell)))
		return binary.LittleEndian.Uint64(buf[:]), n == cellSize && w.check("read", err)
	})
}

// resize appends a cell or cuts appended ones off. After a call without acknowledgement the size is no longer known, and nothing
// more is tried in this round.
func (w *worker) resize(rng *rand.Rand) {
	if w.me.maybe.Load() != sizeUnknown {
		return
	}
	size := int(w.me.size.Load())
	have := (size - w.lay.size()) / cellSize
	if have == w.lay.append || have > 0 && rng.IntN(3) == 0 {
		w.truncate(w.lay.size() + rng.IntN(have+1)*cellSize)
		return
	}
	if have < w.lay.append {
		w.appendCell(len(w.lay.owner)+have, size)
	}
}

func (w *worker) truncate(size int) {
	w.me.maybe.Store(int64(size))
	if !w.check("truncate", unix.Ftruncate(w.fd, int64(size))) {
		return
	}
	w.sized(size)
}

// appendCell appends with O_APPEND: through the worker's own descriptor, or with LateOpen through one opened for it.
func (w *worker) appendCell(cell, size int) {
	fd, back := w.fd, func() error {
		_, err := unix.FcntlInt(uintptr(w.fd), unix.F_SETFL, 0)
		return err
	}
	var err error
	if w.p.LateOpen {
		fd, err = unix.Open(w.path, unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
		back = func() error { return unix.Close(fd) }
	} else {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND)
	}
	if !w.check("open-append", err) {
		return
	}
	v := w.nextStamp()
	var buf [cellSize]byte
	binary.LittleEndian.PutUint64(buf[:], v)
	w.me.cells[cell].reset(v)
	w.me.maybe.Store(int64(size + cellSize))
	begin := time.Now()
	n, err := unix.Write(fd, buf[:])
	w.took(w.write, begin)
	w.wrote(cell, []uint64{v}, n, err)
	if w.check("close-append", back()) && err == nil && n == cellSize {
		w.sized(size + cellSize)
	}
}

// sized notes the size after a call that was acknowledged and asks the mount for it.
func (w *worker) sized(size int) {
	w.me.size.Store(int64(size))
	w.me.maybe.Store(sizeUnknown)
	var st unix.Stat_t
	if w.check("fstat", unix.Fstat(w.fd, &st)) && st.Size != int64(size) {
		w.find(classMismatch, "fstat gives size %d, want %d", st.Size, size)
	}
}

func (w *worker) took(h interface{ RecordValue(int64) error }, begin time.Time) {
	ns := min(max(time.Since(begin).Nanoseconds(), histMin), histMax)
	if err := h.RecordValue(ns); err != nil {
		w.out.Errors["histogram:"+err.Error()]++
	}
}

// source is where mapped writes take their bytes from: two cells that never change, in this file or in the other.
type source struct {
	fd  int
	own bool // fd is another than the worker's
	off int
	val [2]uint64
}

// openSource finds the source; nil when the other file is not there.
func (w *worker) openSource() *source {
	file := w.file
	if w.p.TwoFiles {
		file = (file + 1) % w.p.Files
	}
	owner, lay := w.id, w.lay
	s := &source{fd: w.fd}
	if file != w.file {
		owner, lay = w.p.firstWriter(file), w.p.layout(w.round, file)
		fd, err := unix.Open(filepath.Join(w.c.Dir, fileName(w.round, file)), openFlags|unix.O_CLOEXEC, 0)
		if !w.check("open", err) {
			return nil
		}
		s.fd, s.own = fd, true
	}
	first, _ := lay.chunk(owner)
	s.off = lay.offset(first)
	for i := range s.val {
		s.val[i] = stamp(owner, w.round, uint32(first+i))
	}
	return s
}

func (w *worker) closeSource(s *source) {
	if s != nil && s.own {
		w.check("close", unix.Close(s.fd))
	}
}

// writeMapped writes one cell out of a fresh mapping: the write itself takes the fault on its source. Where the mapping is refused
// it writes plainly.
func (w *worker) writeMapped(rng *rand.Rand, s *source) {
	mem, ok := w.mapShared(s.fd)
	cell := w.target(rng)
	if !ok {
		w.writeOne(cell)
		return
	}
	k := rng.IntN(2)
	w.me.cells[cell].issue(s.val[k])
	off := s.off + k*cellSize
	begin := time.Now()
	n, err := unix.Pwrite(w.fd, mem[off:off+cellSize], int64(w.lay.offset(cell)))
	w.took(w.write, begin)
	w.wrote(cell, []uint64{s.val[k]}, n, err)
	w.check("munmap", unix.Munmap(mem))
}

// mapShared announces a mapping and makes it. false: refused, and counted so.
func (w *worker) mapShared(fd int) ([]byte, bool) {
	if w.c.Announce {
		err := control.AnnounceMmap(fd)
		switch {
		case err == nil || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS):
			// Nobody listens, or all is well.
		default:
			w.out.Errors["announce:"+errnoName(err)]++
			w.me.refused.Add(1)
			return nil, false
		}
	}
	mem, err := unix.Mmap(fd, 0, w.pageSz, rightsShared, unix.MAP_SHARED)
	if !w.check("mmap", err) {
		w.me.refused.Add(1)
		return nil, false
	}
	return mem, true
}

// mapperRound maps, touches, stores, syncs and unmaps until the writers of its file are through.
func (w *worker) mapperRound() {
	rng := w.rng()
	for i := 0; i == 0 || w.sh.done[w.file].Load() < w.leaders(); i++ {
		if w.cutShort() {
			return
		}
		w.mapOnce(rng)
		w.beat()
		spin(rng.IntN(jitterSpins))
	}
}

func (w *worker) mapOnce(rng *rand.Rand) {
	mem, ok := w.mapShared(w.fd)
	if !ok {
		return
	}
	defer func() { w.check("munmap", unix.Munmap(mem)) }()
	cells, vals := w.choose(rng)
	storeFirst := rng.IntN(2) == 0
	begin := time.Now()
	ok = w.guard(func() {
		if !storeFirst {
			w.look(cells[0], load(mem, w.lay.offset(cells[0])), "load", nil)
		}
		w.store(mem, cells[0], vals[0])
	})
	w.took(w.fault, begin)
	if !ok {
		return
	}
	w.me.touches.Add(1)
	if !w.guard(func() {
		for i := 1; i < len(cells); i++ {
			w.store(mem, cells[i], vals[i])
		}
	}) {
		return
	}
	if rng.IntN(4) == 0 {
		return // left to munmap, close and write-back
	}
	if !w.check("msync", unix.Msync(mem, unix.MS_SYNC)) {
		return
	}
	for i, c := range cells {
		w.me.cells[c].ack(vals[i])
	}
	if rng.IntN(4) == 0 {
		w.readBack(cells[rng.IntN(len(cells))])
	}
}

// choose picks the cells of one turn and their new values.
func (w *worker) choose(rng *rand.Rand) (cells []int, vals []uint64) {
	n := 1 + rng.IntN(w.count)
	for i := range n {
		cells = append(cells, w.first+i)
		vals = append(vals, w.nextStamp())
	}
	return cells, vals
}

func (w *worker) store(mem []byte, cell int, v uint64) {
	w.me.cells[cell].issue(v)
	save(mem, w.lay.offset(cell), v)
}

// load and save move one aligned word of a mapping at once; a fault in them is a signal, not a torn word.
//
//go:noinline
func load(mem []byte, off int) uint64 { return *(*uint64)(unsafe.Pointer(&mem[off])) }

//go:noinline
func save(mem []byte, off int, v uint64) { *(*uint64)(unsafe.Pointer(&mem[off])) = v }

// guard runs f and counts a SIGBUS (or SIGSEGV) in it; false: there was one.
func (w *worker) guard(f func()) (ok bool) {
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		_, isRuntime := r.(runtime.Error)
		if _, hasAddr := r.(interface{ Addr() uintptr }); !isRuntime || !hasAddr {
			panic(r)
		}
		w.me.sigbus.Add(1)
	}()
	f()
	return true
}
