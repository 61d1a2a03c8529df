package stress

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fallocTurn preallocates, punches and zeroes.
func fallocTurn(w *worker, rng *rand.Rand) {
	const keep = unix.FALLOC_FL_KEEP_SIZE
	cell := w.first + rng.IntN(w.count)
	off := int64(w.lay.offset(cell))
	zero := func(mode uint32) {
		w.me.cells[cell].issue(0)
		if w.did("fallocate", unix.Fallocate(w.fd, mode, off, cellSize)) {
			w.me.cells[cell].ack(0)
		}
	}
	switch x := rng.IntN(8); {
	case x == 0:
		w.did("fallocate", unix.Fallocate(w.fd, keep, 0, 8192))
	case x == 1 && w.me.maybe.Load() == sizeUnknown:
		size := int(w.me.size.Load()) + 1 + rng.IntN(500)
		w.me.maybe.Store(int64(size))
		if w.did("fallocate", unix.Fallocate(w.fd, 0, 0, int64(size))) {
			w.sized(size)
		} else {
			w.settle()
		}
	case x == 2:
		zero(keep | unix.FALLOC_FL_PUNCH_HOLE)
	case x == 3:
		zero(keep | unix.FALLOC_FL_ZERO_RANGE)
	case x == 4:
		w.readBack(cell)
	default:
		w.writeOne(cell)
	}
}

const attrName = "user.a"

// attrTurn sets and removes an attribute, so that the room for inline data shrinks and grows, and reads it back.
func attrTurn(w *worker, rng *rand.Rand) {
	if rng.IntN(3) == 0 {
		if err := unix.Fremovexattr(w.fd, attrName); err == nil || !errors.Is(err, unix.ENODATA) {
			w.did("removexattr", err)
		}
		return
	}
	value := bytes.Repeat([]byte{byte('a' + w.turns%26)}, 1+rng.IntN(64))
	if !w.did("setxattr", unix.Fsetxattr(w.fd, attrName, value, 0)) {
		return
	}
	var buf [128]byte
	n, err := unix.Fgetxattr(w.fd, attrName, buf[:])
	if w.did("getxattr", err) && !bytes.Equal(buf[:n], value) {
		w.find(classMismatch, "attribute %s reads as %q, want %q", attrName, buf[:n], value)
	}
}

// page gives a page of memory, as O_DIRECT wants it.
func (w *worker) page() ([]byte, bool) {
	mem, err := unix.Mmap(-1, 0, w.pageSz, rightsShared, unix.MAP_PRIVATE|unix.MAP_ANON)
	return mem, w.check("mmap-anonymous", err)
}

// directTurn writes a block past the end with O_DIRECT, truncates it away, writes through the page cache, and grows the file again.
func directTurn(w *worker, rng *rand.Rand) {
	stay, far := w.first, w.first+1
	if w.me.maybe.Load() != sizeUnknown || rng.IntN(3) == 0 {
		w.writeOne(stay)
		return
	}
	fd, ok := w.directFd()
	if !ok {
		return
	}
	buf, ok := w.page()
	if !ok {
		return
	}
	defer func() { w.check("munmap", unix.Munmap(buf)) }()
	if w.extend(fd, far, buf) {
		w.readBack(far)
		if !w.setSize(w.lay.size()) {
			return
		}
	}
	w.writeOne(stay)
	w.readBack(stay)
	if w.me.maybe.Load() != sizeUnknown || !w.setSize(w.lay.offset(far)+2*cellSize) {
		return
	}
	w.readBack(far)
	w.setSize(w.lay.size())
}

const (
	bigSize  = 50 << 20
	sendSize = 256 << 10
)

// sendTurn grows the file to 50 MB, sends parts of it elsewhere by sendfile, and cuts it short again.
func sendTurn(w *worker, rng *rand.Rand) {
	stay, far := w.first, w.first+1
	if w.me.maybe.Load() != sizeUnknown || rng.IntN(4) != 0 {
		w.writeOne(stay)
		return
	}
	if !w.setSize(bigSize) {
		w.send(0, sendSize, w.lay.size())
		return
	}
	w.writeOne(far)
	w.send(0, sendSize, sendSize)
	off := w.pageSz * (8 + rng.IntN(bigSize/w.pageSz-64))
	w.send(int64(off), 16*w.pageSz, 16*w.pageSz)
	if w.setSize(w.lay.size()) {
		w.send(0, w.pageSz, w.lay.size())
	}
}

// send copies n bytes from off by sendfile, of which want must come, and looks at them: zeros but for the cells.
func (w *worker) send(off int64, n, want int) {
	sink, ok := w.extra(&w.more.sink, "memfd", func() (int, error) { return unix.MemfdCreate("sink", unix.MFD_CLOEXEC) })
	if !ok || !w.check("sink", errors.Join(unix.Ftruncate(sink, 0), seekTo(sink, 0))) {
		return
	}
	at, got := off, 0
	for got < n {
		m, err := unix.Sendfile(sink, w.fd, &at, n-got)
		if !w.did("sendfile", err) {
			return
		}
		if m == 0 {
			break
		}
		got += m
	}
	if got != want {
		w.find(classMismatch, "sendfile of %d bytes at %d gave %d, want %d", n, off, got, want)
		return
	}
	data := make([]byte, got)
	if _, err := unix.Pread(sink, data, 0); !w.check("sink", err) {
		return
	}
	for i, c := range w.sib.cells {
		rel := c.off - off
		if rel < 0 || rel+cellSize > int64(got) {
			continue
		}
		if v := binary.LittleEndian.Uint64(data[rel:]); c.owner == w.id {
			w.look(i, v, "sendfile", nil)
		}
		clear(data[rel : rel+cellSize])
	}
	if i := bytes.IndexFunc(data, func(r rune) bool { return r != 0 }); i >= 0 {
		w.find(ClassStaleBytes, "sendfile gave byte %#x at %d, where nothing was ever written", data[i], off+int64(i))
	}
}

func seekTo(fd int, off int64) error {
	_, err := unix.Seek(fd, off, unix.SEEK_SET)
	return err
}

const farByte = 1<<40 + 5

// farTurn writes one byte at 2^40+5: what a length of 32 bits takes for byte 5.
func farTurn(w *worker, rng *rand.Rand) {
	if w.me.maybe.Load() != sizeUnknown || rng.IntN(3) != 0 {
		writeTurn(w, rng)
		return
	}
	w.me.maybe.Store(farByte + 1)
	begin := time.Now()
	n, err := unix.Pwrite(w.fd, []byte{0xEE}, farByte)
	w.took(w.write, begin)
	if !w.did("pwrite-far", err) {
		w.settle()
		return
	}
	w.me.writes.Add(1)
	if n != 1 {
		w.find(classMismatch, "write of 1 byte at 2^40+5 took %d", n)
		w.settle()
		return
	}
	w.sized(farByte + 1)
	var b [1]byte
	if n, err := unix.Pread(w.fd, b[:], farByte); w.did("read", err) && (n != 1 || b[0] != 0xEE) {
		w.find(ClassLostWrite, "byte 2^40+5 reads as %d bytes, %#x, want 0xee", n, b[0])
	}
	w.readBack(w.first)
	w.setSize(w.lay.size())
}

const (
	stepBytes = 64
	stepsMost = 8
)

// stepTurn appends 64 bytes at a time, as dd bs=64 does, and asks for data and hole right after each.
func stepTurn(w *worker, rng *rand.Rand) {
	if w.me.maybe.Load() != sizeUnknown || rng.IntN(4) == 0 {
		w.writeOne(w.first)
		return
	}
	size := int(w.me.size.Load())
	if size >= stepBytes*stepsMost {
		w.setSize(w.lay.size())
		return
	}
	step := bytes.Repeat([]byte{byte('A' + size/stepBytes)}, stepBytes)
	w.me.maybe.Store(int64(size + stepBytes))
	begin := time.Now()
	n, err := unix.Pwrite(w.fd, step, int64(size))
	w.took(w.write, begin)
	if !w.check("write", err) || n != stepBytes {
		w.settle()
		return
	}
	w.me.writes.Add(1)
	w.seek(0, unix.SEEK_DATA, 0)
	w.seek(0, unix.SEEK_HOLE, int64(size+stepBytes))
	w.seek(int64(size), unix.SEEK_DATA, int64(size))
	w.sized(size + stepBytes)
	if _, err := unix.Seek(w.fd, int64(size+stepBytes), unix.SEEK_DATA); !errors.Is(err, unix.ENXIO) {
		w.find(classMismatch, "SEEK_DATA at the end of the file, %d: %v, want ENXIO", size+stepBytes, err)
	}
	back := make([]byte, stepBytes)
	if n, err := unix.Pread(w.fd, back, int64(size)); w.did("read", err) && (n != stepBytes || !bytes.Equal(back, step)) {
		w.find(ClassLostWrite, "64 bytes at %d read as %d bytes, %q", size, n, back[:n])
	}
}

// seek asks for data or a hole and wants a certain answer.
func (w *worker) seek(off int64, whence int, want int64) {
	got, err := unix.Seek(w.fd, off, whence)
	if w.did("lseek", err) && got != want {
		name := map[int]string{unix.SEEK_DATA: "SEEK_DATA", unix.SEEK_HOLE: "SEEK_HOLE"}[whence]
		w.find(classMismatch, "%s at %d gives %d, want %d", name, off, got, want)
	}
}

// seekTurn asks for data and hole while the file grows: it is never empty and has no hole before its end.
func seekTurn(w *worker, _ *rand.Rand) {
	w.seek(0, unix.SEEK_DATA, 0)
	got, err := unix.Seek(w.fd, 0, unix.SEEK_HOLE)
	if least := int64(w.lay.size()); w.did("lseek", err) && (got < least || got > stepBytes*stepsMost) {
		w.find(classMismatch, "SEEK_HOLE at 0 gives %d, want %d to %d", got, least, stepBytes*stepsMost)
	}
}

// mappedWriteTurn writes out of a mapping of the same file: the fault comes out of write(2) (Kara's example).
func mappedWriteTurn(w *worker, rng *rand.Rand) {
	if rng.IntN(4) == 0 || w.src == nil {
		w.writeOne(w.target(rng))
		return
	}
	w.writeMapped(rng, w.src)
}

// gupTurn has the kernel store to a fresh mapping itself, by get_user_pages.
func gupTurn(w *worker, rng *rand.Rand) {
	cell := w.first + rng.IntN(w.count)
	mem, ok := w.mapShared(w.fd)
	if !ok {
		return
	}
	defer func() { w.check("munmap", unix.Munmap(mem)) }()
	v := w.nextStamp()
	var buf [cellSize]byte
	binary.LittleEndian.PutUint64(buf[:], v)
	off := w.lay.offset(cell)
	to := mem[off : off+cellSize]
	w.me.cells[cell].issue(v)
	begin := time.Now()
	n, err := w.gup(rng.IntN(3), to, buf[:])
	w.took(w.fault, begin)
	w.me.calls.Add(1)
	if !w.check("gup", err) || n != cellSize {
		w.me.sigbus.Add(1) // it is the same failure, told otherwise
		return
	}
	w.me.touches.Add(1)
	// The invalidation after a direct write drops pages that are pinned (invalidate_complete_folio2 ignores references): then the store
	// went to a page that is no longer the file's, and the mapping shows what was there before. That is the client's kernel's doing.
	var seen uint64
	if !w.guard(func() { seen = load(mem, off) }) {
		return
	}
	if seen != v {
		w.out.Errors["gup:dropped-page"]++
		return
	}
	if w.check("msync", unix.Msync(mem, unix.MS_SYNC)) {
		w.me.cells[cell].ack(v)
		w.readBack(cell)
	}
}

// gup stores buf to a mapping in one of three ways.
func (w *worker) gup(way int, to, buf []byte) (int, error) {
	addr := uintptr(unsafe.Pointer(&to[0]))
	switch way {
	case 0:
		local := []unix.Iovec{{Base: &buf[0], Len: cellSize}}
		remote := []unix.RemoteIovec{{Base: addr, Len: cellSize}}
		return unix.ProcessVMWritev(unix.Getpid(), local, remote, 0)
	case 1:
		fd, ok := w.extra(&w.more.procMem, "open-mem", func() (int, error) { return unix.Open("/proc/self/mem", unix.O_RDWR|unix.O_CLOEXEC, 0) })
		if !ok {
			return 0, nil
		}
		return unix.Pwrite(fd, buf, int64(addr))
	}
	if !w.openSide() {
		return 0, nil
	}
	if _, err := unix.Pwrite(w.more.side, buf, 0); !w.check("write-side", err) {
		return 0, nil
	}
	return unix.Pread(w.more.sideDirect, to, 0)
}

// openSide makes another file, without a name, open twice: to be written and to be read with O_DIRECT.
func (w *worker) openSide() bool {
	path := filepath.Join(w.c.Dir, "s"+strconv.FormatUint(w.round, 10))
	_, ok := w.extra(&w.more.side, "open-side", func() (int, error) {
		fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, uint32(filePerm))
		if err != nil {
			return 0, err
		}
		direct, err := openDirect(path)
		if err = errors.Join(err, unix.Unlink(path)); err != nil {
			return 0, errors.Join(err, unix.Close(fd))
		}
		w.more.sideDirect = direct
		return fd, nil
	})
	return ok
}

// unstoredTurn maps a file of its own, shared and writable, and does not store to it. An actor with an odd number reads through the
// mapping. It counts the files that leave their inodes all the same.
func unstoredTurn(w *worker, _ *rand.Rand) {
	path := filepath.Join(w.c.Dir, fmt.Sprintf("m%d-%d", w.id, w.turns))
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, uint32(filePerm))
	if !w.check("create", err) {
		return
	}
	data := bytes.Repeat([]byte{byte('a' + w.turns%26)}, stepBytes)
	_, err = unix.Write(fd, data)
	if !w.check("write", errors.Join(err, unix.Close(fd))) {
		return
	}
	w.me.writes.Add(1)
	defer func() { w.did("unlink", unix.Unlink(path)) }()
	if fd, err = unix.Open(path, openFlags|unix.O_CLOEXEC, 0); !w.check("open", err) {
		return
	}
	defer func() { w.check("close", unix.Close(fd)) }()
	before, ok := w.inInode(fd)
	if !ok || !before {
		return
	}
	mem, ok := w.mapShared(fd)
	if !ok {
		return
	}
	kind := w.id % 2
	if kind == 1 {
		begin := time.Now()
		if w.guard(func() { load(mem, 0) }) {
			w.me.touches.Add(1)
		}
		w.took(w.fault, begin)
	}
	w.check("munmap", unix.Munmap(mem))
	w.me.mapped[kind].Add(1)
	if after, ok := w.inInode(fd); ok && !after {
		w.me.left[kind].Add(1)
	}
	back := make([]byte, stepBytes)
	if n, err := unix.Pread(fd, back, 0); w.check("read", err) && !bytes.Equal(back[:n], data) {
		w.find(ClassLostWrite, "file of 64 bytes reads as %q, want %q", back[:n], data)
	}
}

// inInode tells if a small file has no block of its own: then its blocks are those that its bytes would fill.
func (w *worker) inInode(fd int) (inside, ok bool) {
	size, blocks, err := sizeAndBlocks(fd)
	return blocks <= (size+511)/512, w.check("statx", err)
}
