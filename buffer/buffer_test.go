package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"inlinefs/blockdev"
)

const bs = 1024

// bench is a cache over a device in memory that counts and fails on demand.
type bench struct {
	mem *blockdev.Mem
	dev *blockdev.Faulty
	c   *Cache
}

func newBench(blocks int, limit int64) *bench {
	b := &bench{mem: blockdev.NewMem(make([]byte, blocks*bs))}
	b.dev = blockdev.NewFaulty(b.mem)
	b.c = New(b.dev, bs, limit)
	return b
}

// put changes a block and marks it dirty.
func (b *bench) put(t *testing.T, blk uint64, v byte) {
	t.Helper()
	h, err := b.c.Read(blk)
	if err != nil {
		t.Fatal(err)
	}
	h.Lock()
	h.Data()[0] = v
	h.Unlock()
	h.MarkDirty()
	h.Release()
}

func (b *bench) stored(blk uint64) byte { return b.mem.Snapshot()[blk*bs] }

// TestEviction: clean, unused blocks go, the oldest first; held and dirty ones stay.
func TestEviction(t *testing.T) {
	const limit = 16 * shards // blocks
	b := newBench(4096, limit*bs)
	held, err := b.c.Read(1)
	if err != nil {
		t.Fatal(err)
	}
	b.put(t, 2, 9)
	for blk := uint64(3); blk < 4096; blk++ {
		h, err := b.c.Read(blk)
		if err != nil {
			t.Fatal(err)
		}
		h.Release()
		if n := b.c.Len(); n > limit+2 {
			t.Fatalf("%d blocks cached, want at most %d", n, limit+2)
		}
	}
	for _, blk := range []uint64{1, 2} {
		h := b.c.Peek(blk)
		if h == nil {
			t.Fatalf("block %d was evicted though it is in use or dirty", blk)
		}
		h.Release()
	}
	if b.c.Peek(100) != nil {
		t.Error("block 100, long unused, is still cached")
	}
	held.Release()
	if err := b.c.Sync(); err != nil {
		t.Fatal(err)
	}
	b.c.Drop()
	if n := b.c.Len(); n != 0 {
		t.Errorf("%d blocks are cached after a drop of clean ones, want 0", n)
	}
	if b.stored(2) != 9 {
		t.Error("the dirty block was not written")
	}
}

// TestOneHead: there is one copy of each block, whoever asks.
func TestOneHead(t *testing.T) {
	b := newBench(64, 1<<20)
	heads := make([]*Head, 8)
	var wg sync.WaitGroup
	for k := range heads {
		wg.Go(func() {
			h, err := b.c.Read(7)
			if err != nil {
				t.Error(err)
				return
			}
			heads[k] = h
		})
	}
	wg.Wait()
	for _, h := range heads {
		if h != heads[0] {
			t.Fatal("two copies of one block")
		}
	}
	if n := b.dev.Count(blockdev.OpRead); n != 1 {
		t.Errorf("%d reads, want 1", n)
	}
}

// TestCoalescing: contiguous dirty blocks go out in one write, others in one each, in the order of the device.
func TestCoalescing(t *testing.T) {
	for _, tc := range []struct {
		name   string
		blocks []uint64
		writes int
	}{
		{"one", []uint64{5}, 1},
		{"run", []uint64{9, 5, 7, 6, 8}, 1},
		{"two runs", []uint64{1, 2, 3, 5, 6}, 2},
		{"apart", []uint64{1, 3, 5, 7}, 4},
		{"none", nil, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(64, 1<<20)
			for _, blk := range tc.blocks {
				b.put(t, blk, byte(blk))
			}
			if n := b.c.DirtyBlocks(); n != int64(len(tc.blocks)) {
				t.Errorf("%d dirty blocks, want %d", n, len(tc.blocks))
			}
			if err := b.c.WriteDirty(); err != nil {
				t.Fatal(err)
			}
			if n := b.dev.Count(blockdev.OpWrite); n != tc.writes {
				t.Errorf("%d writes, want %d", n, tc.writes)
			}
			for _, blk := range tc.blocks {
				if b.stored(blk) != byte(blk) {
					t.Errorf("block %d holds %d", blk, b.stored(blk))
				}
			}
			if n := b.c.DirtyBlocks(); n != 0 {
				t.Errorf("%d dirty blocks are left", n)
			}
			if n := b.dev.Count(blockdev.OpFlush); n != 0 {
				t.Errorf("%d flushes by a write-back without sync", n)
			}
		})
	}
}

// TestLongRun: a run beyond the limit of one write is cut, and every byte arrives.
func TestLongRun(t *testing.T) {
	const n = runMax/bs*2 + 3
	b := newBench(n, 64<<20)
	for blk := range uint64(n) {
		b.put(t, blk, byte(blk%251)+1)
	}
	if err := b.c.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := b.dev.Count(blockdev.OpWrite); got != 3 {
		t.Errorf("%d writes, want 3", got)
	}
	img := b.mem.Snapshot()
	for blk := range n {
		if img[blk*bs] != byte(blk%251)+1 {
			t.Fatalf("block %d holds %d", blk, img[blk*bs])
		}
	}
	if got := b.dev.Count(blockdev.OpFlush); got != 1 {
		t.Errorf("%d flushes by a sync, want 1", got)
	}
}

// TestWriteErrors: what could not be written stays dirty, what could does not, the error names the block and is kept for fsync.
func TestWriteErrors(t *testing.T) {
	b := newBench(64, 1<<20)
	for _, blk := range []uint64{3, 10, 11, 12, 30} {
		b.put(t, blk, 1)
	}
	b.dev.Add(blockdev.Rule{Op: blockdev.OpWrite, Start: 10 * bs, End: 13 * bs, Err: syscall.EIO})
	err := b.c.Sync()
	if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "block 10") {
		t.Errorf("sync says %v, want EIO at block 10", err)
	}
	if n := b.dev.Count(blockdev.OpFlush); n != 0 {
		t.Error("the device was flushed after a failed write")
	}
	if n := b.c.DirtyBlocks(); n != 3 {
		t.Errorf("%d blocks are dirty, want 3", n)
	}
	if b.stored(3) != 1 || b.stored(30) != 1 || b.stored(11) != 0 {
		t.Error("the wrong blocks were written")
	}
	if err := b.c.WriteError(); !errors.Is(err, syscall.EIO) {
		t.Errorf("the kept error is %v", err)
	}
	if err := b.c.WriteError(); err != nil {
		t.Errorf("the kept error is given twice: %v", err)
	}
	b.dev.Clear()
	if err := b.c.Sync(); err != nil {
		t.Fatal(err)
	}
	if b.stored(10) != 1 || b.stored(11) != 1 || b.stored(12) != 1 || b.c.DirtyBlocks() != 0 {
		t.Error("the blocks were not written once the device worked again")
	}
}

// TestReadError: the block is named, not kept as up to date, and read again later.
func TestReadError(t *testing.T) {
	b := newBench(64, 1<<20)
	b.dev.Add(blockdev.Rule{Op: blockdev.OpRead, Err: syscall.EIO})
	if h, err := b.c.Read(7); h != nil || !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "block 7") {
		t.Fatalf("read gives %v, %v", h, err)
	}
	b.dev.Clear()
	h, err := b.c.Read(7)
	if err != nil {
		t.Fatal(err)
	}
	h.Release()
	b.c.Drop()
	if n := b.c.Len(); n != 0 {
		t.Errorf("%d blocks stay: a failed read leaked a reference", n)
	}
	if _, err := b.c.Read(64); err == nil {
		t.Error("a block past the device's end was read")
	}
}

// TestForget: a freed block is not written, and read anew.
func TestForget(t *testing.T) {
	b := newBench(64, 1<<20)
	b.put(t, 5, 1)
	b.put(t, 6, 1)
	b.c.Forget(5)
	b.c.Forget(50) // not cached
	if err := b.c.Sync(); err != nil {
		t.Fatal(err)
	}
	if b.stored(5) != 0 || b.stored(6) != 1 {
		t.Errorf("blocks 5 and 6 hold %d and %d, want 0 and 1", b.stored(5), b.stored(6))
	}
	h, err := b.c.Read(5)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Release()
	if h.Data()[0] != 0 {
		t.Error("a forgotten block was not read anew")
	}
}

// gate stops writes on their way.
type gate struct {
	blockdev.Device
	on             atomic.Bool
	entered, leave chan struct{}
	err            error
}

func (g *gate) WriteAt(p []byte, off int64) (int, error) {
	if g.on.Load() {
		g.entered <- struct{}{}
		<-g.leave
		if g.err != nil {
			return 0, g.err
		}
	}
	return g.Device.WriteAt(p, off)
}

// TestForgetDuringWriteBack: Forget returns only when the old bytes are on their way no more, and a failed write-back does not bring
// the freed block back.
func TestForgetDuringWriteBack(t *testing.T) {
	for _, tc := range []struct {
		name   string
		blocks []uint64
		err    error
	}{
		{"one block", []uint64{5}, nil},
		{"run", []uint64{4, 5, 6}, nil},
		{"one block, write fails", []uint64{5}, syscall.EIO},
		{"run, write fails", []uint64{4, 5, 6}, syscall.EIO},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mem := blockdev.NewMem(make([]byte, 64*bs))
			g := &gate{Device: mem, entered: make(chan struct{}), leave: make(chan struct{}), err: tc.err}
			b := &bench{mem: mem, c: New(g, bs, 1<<20)}
			for _, blk := range tc.blocks {
				b.put(t, blk, 1)
			}
			g.on.Store(true)
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := b.c.WriteDirty(); !errors.Is(err, tc.err) {
					t.Errorf("write-back says %v, want %v", err, tc.err)
				}
			})
			<-g.entered // the write is under way
			var written atomic.Bool
			forgotten := make(chan struct{})
			wg.Go(func() {
				b.c.Forget(5)
				if !written.Load() {
					t.Error("forgotten while the write was under way")
				}
				close(forgotten)
			})
			written.Store(true)
			close(g.leave)
			<-forgotten
			g.on.Store(false)
			// The next owner's data goes to the device directly.
			if _, err := mem.WriteAt([]byte{7}, 5*bs); err != nil {
				t.Fatal(err)
			}
			wg.Wait()
			if err := b.c.Sync(); err != nil {
				t.Fatal(err)
			}
			if v := b.stored(5); v != 7 {
				t.Errorf("the next owner's data was overwritten with %d", v)
			}
		})
	}
}

// TestWriteBlocks: only those given, and only the dirty ones of them.
func TestWriteBlocks(t *testing.T) {
	b := newBench(64, 1<<20)
	for blk := range uint64(6) {
		b.put(t, blk, 1)
	}
	h1, h3 := b.c.Get(1), b.c.Get(3)
	defer h1.Release()
	defer h3.Release()
	if !h3.ClearDirty() || h3.ClearDirty() {
		t.Error("ClearDirty does not say what it did")
	}
	if err := b.c.WriteBlocks([]*Head{h3, h1}); err != nil {
		t.Fatal(err)
	}
	if b.stored(1) != 1 || b.stored(3) != 0 || b.stored(0) != 0 {
		t.Error("the wrong blocks were written")
	}
	if n := b.c.DirtyBlocks(); n != 4 {
		t.Errorf("%d dirty blocks, want 4", n)
	}
}

// TestFlusher writes when there is too much, without waiting for its interval, and reports failures.
func TestFlusher(t *testing.T) {
	b := newBench(4096, 16*shards*bs)
	stop, done := make(chan struct{}), make(chan struct{})
	failed := make(chan error, 64)
	b.dev.Add(blockdev.Rule{Op: blockdev.OpWrite, Nth: 1, Err: syscall.EIO})
	go func() {
		defer close(done)
		b.c.Flusher(time.Hour, stop, func(err error) { failed <- err })
	}()
	for blk := range uint64(16 * shards) {
		b.put(t, 2*blk, 1)
	}
	select {
	case err := <-failed:
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("flusher reports %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("the flusher was not woken by many dirty blocks")
	}
	close(stop)
	<-done
}

// TestParallel changes blocks under write-back; in the end every counter is on the device.
func TestParallel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const blocks, workers, rounds = 96, 4, 400
	b := newBench(blocks, 64*bs)
	var want [blocks]atomic.Uint32
	stop := make(chan struct{})
	var flush, wg sync.WaitGroup
	flush.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := b.c.WriteDirty(); err != nil {
				t.Error(err)
			}
			b.c.Drop()
		}
	})
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			for range rounds {
				blk := rng.Uint64N(blocks)
				h, err := b.c.Read(blk)
				if err != nil {
					t.Error(err)
					return
				}
				h.Lock()
				binary.LittleEndian.PutUint32(h.Data(), binary.LittleEndian.Uint32(h.Data())+1)
				h.Unlock()
				want[blk].Add(1)
				h.MarkDirty()
				h.Release()
			}
		})
	}
	wg.Wait()
	close(stop)
	flush.Wait()
	if err := b.c.Sync(); err != nil {
		t.Fatal(err)
	}
	img := b.mem.Snapshot()
	for blk := range want {
		if got := binary.LittleEndian.Uint32(img[blk*bs:]); got != want[blk].Load() {
			t.Errorf("block %d counts %d, want %d", blk, got, want[blk].Load())
		}
	}
	if !bytes.Equal(img[4:bs], make([]byte, bs-4)) {
		t.Error("bytes changed that nobody wrote")
	}
}
