package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"sync"
	"testing"
	"time"

	"inlinefs/blockdev"
	"inlinefs/buffer"
	"inlinefs/internal/event"
	"inlinefs/internal/fserr"
	"inlinefs/journal/recovery"
	"inlinefs/ondisk/jbd2"
)

const (
	logAt     = 1000 // first device block of the log
	logLen    = 4*testCredits + 1
	devBlocks = logAt + logLen
)

func init() {
	labs["jbd2"] = func(t *testing.T) *lab { return newLog(t).lab }
}

// logLab is a jbd2 journal over a device in memory.
type logLab struct {
	*lab
	mem    *blockdev.Mem
	faults *blockdev.Faulty
	blocks []uint64
}

func newLog(t testing.TB) *logLab {
	t.Helper()
	l := &logLab{mem: blockdev.NewMem(make([]byte, devBlocks*testBlock))}
	for n := range uint64(logLen) {
		l.blocks = append(l.blocks, logAt+n)
	}
	sb := jbd2.Superblock{Type: jbd2.TypeSuperblockV2, BlockSize: testBlock, MaxLen: logLen, First: 1, Sequence: 1, NrUsers: 1}
	p := make([]byte, testBlock)
	if err := sb.Encode(p); err != nil {
		t.Fatal(err)
	}
	if _, err := l.mem.WriteAt(p, logAt*testBlock); err != nil {
		t.Fatal(err)
	}
	l.faults = blockdev.NewFaulty(l.mem)
	bufs := buffer.New(l.faults, testBlock, 1<<20)
	v := NewViolations(quiet(), "test", func(ino uint64) []event.Event { return []event.Event{{Op: "seen", Task: ino}} })
	j, err := NewJBD2(Options{Log: quiet(), Violations: v, Bufs: bufs},
		LogOptions{Dev: l.faults, Blocks: l.blocks, FS64Bit: true, Csum: true, Interval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	l.lab = &lab{j: j, bufs: bufs}
	t.Cleanup(func() {
		if err := j.Close(); err != nil && j.Aborted() == nil {
			t.Errorf("close: %v", err)
		}
	})
	return l
}

// put stores value v at the start of block blk under h.
func (l *logLab) put(t testing.TB, h *Handle, blk, v uint64) {
	t.Helper()
	b, err := l.bufs.Read(blk)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	if err := h.GetWriteAccess(b); err != nil {
		t.Fatal(err)
	}
	b.Lock()
	binary.LittleEndian.PutUint64(b.Data(), v)
	b.Unlock()
	if err := h.DirtyMetadata(b); err != nil {
		t.Fatal(err)
	}
}

// change stores v in each block under one handle and returns its transaction.
func (l *logLab) change(t testing.TB, v uint64, blks ...uint64) uint32 {
	t.Helper()
	task := l.j.NewTask("test", 0)
	h, err := l.j.Start(task, Misc, len(blks))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blks {
		l.put(t, h, b, v)
	}
	tid := h.Tid()
	if err := errors.Join(h.Stop(), task.End()); err != nil {
		t.Fatal(err)
	}
	return tid
}

// forget frees blocks under one handle.
func (l *logLab) forget(t testing.TB, blks ...uint64) {
	t.Helper()
	task := l.j.NewTask("test", 0)
	h, err := l.j.Start(task, Misc, 4)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blks {
		if err := h.Forget(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(h.Stop(), task.End()); err != nil {
		t.Fatal(err)
	}
}

// crash returns the device as it would be after a crash now and the recovery of its log.
func (l *logLab) crash(t testing.TB) []byte {
	t.Helper()
	img := l.mem.Snapshot()
	d := dev{img, l.blocks}
	if _, err := recovery.Recover(d, target{d}, recovery.Options{BlockSize: testBlock, LogBlocks: logLen, FSBlocks: devBlocks}); err != nil {
		t.Fatalf("recovery: %v", err)
	}
	return img
}

func at(img []byte, blk uint64) uint64 { return binary.LittleEndian.Uint64(img[blk*testBlock:]) }

// dev is a crashed device: its log, and through target its blocks.
type dev struct {
	img []byte
	log []uint64
}

func (d dev) ReadBlock(n uint32, p []byte) error  { copy(p, d.img[d.log[n]*testBlock:]); return nil }
func (d dev) WriteBlock(n uint32, p []byte) error { copy(d.img[d.log[n]*testBlock:], p); return nil }
func (d dev) Flush() error                        { return nil }

type target struct{ d dev }

func (t target) WriteBlock(n uint64, p []byte) error { copy(t.d.img[n*testBlock:], p); return nil }
func (t target) Flush() error                        { return nil }

func TestCommitAndRecover(t *testing.T) {
	l := newLog(t)
	l.change(t, 7, 10, 11, 12)
	if img := l.crash(t); at(img, 10) != 0 {
		t.Fatal("a change is on the device before its commit")
	}
	if err := l.j.Commit(); err != nil {
		t.Fatal(err)
	}
	l.change(t, 8, 11)
	if img := l.crash(t); at(img, 10) != 7 || at(img, 11) != 7 || at(img, 12) != 7 {
		t.Fatalf("blocks after recovery: %d %d %d, want 7 7 7", at(img, 10), at(img, 11), at(img, 12))
	}
}

func TestEscape(t *testing.T) {
	l := newLog(t)
	magic := uint64(binary.LittleEndian.Uint32([]byte{0xC0, 0x3B, 0x39, 0x98})) | 0xABCD<<32
	l.change(t, magic, 20)
	if err := l.j.Commit(); err != nil {
		t.Fatal(err)
	}
	if img := l.crash(t); at(img, 20) != magic {
		t.Fatalf("block with the journal's magic number after recovery: %x, want %x", at(img, 20), magic)
	}
}

// TestManyTransactions goes around the log many times: checkpoints, wrap-around, blocks changed again while they commit. After each
// commit a crash must find exactly that state or a later one.
func TestManyTransactions(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewSource(seed))
	l := newLog(t)
	model := map[uint64]uint64{}
	for v := uint64(1); v <= 400; v++ {
		blks := map[uint64]bool{}
		for range rng.Intn(20) + 1 {
			blks[uint64(rng.Intn(60)+10)] = true
		}
		var list []uint64
		for b := range blks {
			list = append(list, b)
			model[b] = v
		}
		tid := l.change(t, v, list...)
		if rng.Intn(4) == 0 {
			continue
		}
		if _, err := l.j.WaitTid(tid); err != nil {
			t.Fatal(err)
		}
		if rng.Intn(3) == 0 {
			if err := l.bufs.WriteDirty(); err != nil {
				t.Fatal(err)
			}
		}
		img := l.crash(t)
		for b, want := range model {
			if got := at(img, b); got != want {
				t.Fatalf("after transaction %d: block %d has %d, want %d", tid, b, got, want)
			}
		}
	}
}

// TestRevoke frees a logged block and lets file data take its place: recovery must not put the old copy over it.
func TestRevoke(t *testing.T) {
	l := newLog(t)
	l.change(t, 5, 30)
	if err := l.j.Commit(); err != nil {
		t.Fatal(err)
	}
	l.forget(t, 30)
	if err := l.j.Commit(); err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte{9}, testBlock)
	if _, err := l.mem.WriteAt(data, 30*testBlock); err != nil {
		t.Fatal(err)
	}
	if img := l.crash(t); !bytes.Equal(img[30*testBlock:31*testBlock], data) {
		t.Fatal("recovery wrote a revoked block")
	}
}

// TestCancelRevoke frees a block and logs it again in the same transaction: recovery must write it.
func TestCancelRevoke(t *testing.T) {
	l := newLog(t)
	l.change(t, 5, 31)
	if err := l.j.Commit(); err != nil {
		t.Fatal(err)
	}
	l.forget(t, 31)
	task := l.j.NewTask("test", 0)
	h, err := l.j.Start(task, Misc, 1)
	if err != nil {
		t.Fatal(err)
	}
	b := l.bufs.Get(31)
	b.Lock()
	if err := h.GetCreateAccess(b); err != nil {
		t.Fatal(err)
	}
	clear(b.Data())
	binary.LittleEndian.PutUint64(b.Data(), 6)
	b.SetUptodate()
	b.Unlock()
	if err := errors.Join(h.DirtyMetadata(b), h.Stop(), task.End(), l.j.Commit()); err != nil {
		t.Fatal(err)
	}
	b.Release()
	if img := l.crash(t); at(img, 31) != 6 {
		t.Fatalf("block after recovery: %d, want 6", at(img, 31))
	}
}

func TestExtendAndRestart(t *testing.T) {
	l := newLog(t)
	task := l.j.NewTask("test", 0)
	h, err := l.j.Start(task, Truncate, 1)
	if err != nil {
		t.Fatal(err)
	}
	first := h.Tid()
	if err := h.EnsureCredits(10); err != nil || h.Tid() != first || h.Credits() < 10 {
		t.Fatalf("extend: %v, transaction %d, want %d, credits %d", err, h.Tid(), first, h.Credits())
	}
	for b := range uint64(10) {
		l.put(t, h, 40+b, 1)
	}
	if err := h.EnsureCredits(testCredits - 1); err != nil || h.Tid() == first {
		t.Fatalf("restart: %v, transaction %d, want a later one than %d", err, h.Tid(), first)
	}
	l.put(t, h, 40, 2)
	if err := errors.Join(h.Stop(), task.End(), l.j.Commit()); err != nil {
		t.Fatal(err)
	}
	if img := l.crash(t); at(img, 40) != 2 || at(img, 49) != 1 {
		t.Fatalf("blocks after recovery: %d %d, want 2 1", at(img, 40), at(img, 49))
	}
}

// TestGroupCommit lets four tasks wait for their transactions at once: they share commits.
func TestGroupCommit(t *testing.T) {
	l := newLog(t)
	const tasks, each = 4, 100
	before := l.faults.Count(blockdev.OpFlush)
	var wg sync.WaitGroup
	errs := make(chan error, tasks*each)
	for k := range uint64(tasks) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for v := range uint64(each) {
				if _, err := l.j.WaitTid(l.change(t, v, 50+k)); err != nil {
					errs <- err
				}
			}
		}()
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	// Alone, each commit takes two flushes; checkpoints take a few more.
	t.Logf("%d waits, %d flushes", tasks*each, l.faults.Count(blockdev.OpFlush)-before)
}

// TestAbort fails the nth write and the nth flush of the device: the journal aborts, whoever waits hears of it, later handles get
// fserr.ReadOnly, and what was committed before is found by recovery.
func TestAbort(t *testing.T) {
	for _, op := range []blockdev.Op{blockdev.OpWrite, blockdev.OpFlush} {
		for nth := 1; nth <= 8; nth++ {
			t.Run(fmt.Sprintf("%s %d", op, nth), func(t *testing.T) { abortCase(t, op, nth) })
		}
	}
}

func abortCase(t *testing.T, op blockdev.Op, nth int) {
	l := newLog(t)
	l.faults.Add(blockdev.Rule{Op: op, Nth: nth, From: true, Err: errors.New("medium error")})
	var acked uint64
	for v := uint64(1); v <= 20; v++ {
		task := l.j.NewTask("test", 0)
		h, err := l.j.Start(task, Misc, 1)
		if err != nil {
			if !errors.Is(err, fserr.ReadOnly) {
				t.Fatalf("start after the abort: %v, want a read-only error", err)
			}
			break
		}
		l.put(t, h, 60, v)
		tid := h.Tid()
		if err := h.Stop(); err != nil {
			break
		}
		if _, err := l.j.WaitTid(tid); err != nil {
			continue
		}
		acked = v
	}
	if l.j.Aborted() == nil {
		t.Fatal("the journal lives on after a write error")
	}
	if got := at(l.crash(t), 60); got < acked {
		t.Fatalf("block has %d after recovery, %d was acknowledged", got, acked)
	}
}

// TestOnCommit calls back once the handle's transaction is on the device, not before.
func TestOnCommit(t *testing.T) {
	l := newLog(t)
	task := l.j.NewTask("test", 0)
	h, err := l.j.Start(task, Misc, 1)
	if err != nil {
		t.Fatal(err)
	}
	called := make(chan uint64, 1)
	h.OnCommit(func() { called <- at(l.crash(t), 70) })
	l.put(t, h, 70, 3)
	if err := errors.Join(h.Stop(), task.End()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-called:
		t.Fatal("called before the commit")
	default:
	}
	if err := l.j.Commit(); err != nil {
		t.Fatal(err)
	}
	if v := <-called; v != 3 {
		t.Fatalf("block has %d at the call, want 3", v)
	}
}
