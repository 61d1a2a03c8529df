package stress

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	sharedMagic  = 0x696e6c66_73747231
	sharedFd     = 3 // of a worker: the first of ExtraFiles
	maxPending   = 8
	spinRounds   = 3000
	futexWait    = 0
	futexWake    = 1
	futexTimeout = 200 * time.Millisecond
)

// errBroken ends every wait at a barrier: a worker died, the watchdog struck or the campaign gave up.
var errBroken = errors.New("barrier broken")

// shared is the memory in which the leader and the workers meet. It is mapped by each process, so all of it is atomic and holds no
// pointer.
type shared struct {
	magic   atomic.Uint64
	gen     atomic.Uint32 // generation of the barrier; the futex
	waiting atomic.Uint32 // how many have arrived at it
	stop    atomic.Uint32 // no further round
	cut     atomic.Uint32 // end this round early
	broken  atomic.Uint32
	round   atomic.Uint64
	epoch   atomic.Int64  // CLOCK_MONOTONIC when the race began, nanoseconds
	beat    atomic.Uint64 // the leader's progress
	idle    atomic.Uint32 // the leader waits at the barrier
	done    [maxFiles]atomic.Uint32
	made    [maxFiles]atomic.Uint32
	slots   [maxWorkers]slot
}

// slot is one worker's part. The worker alone writes it, the leader reads it.
type slot struct {
	beat    atomic.Uint64    // moves whenever the worker does
	idle    atomic.Uint32    // it waits at the barrier
	seq     atomic.Uint32    // of the last stamp that it made
	calls   atomic.Uint64    // other calls that change the file or ask for its layout
	mapped  [2]atomic.Uint64 // files mapped and never stored to: not touched, loaded from
	left    [2]atomic.Uint64 // of those, files that left the inode
	writes  atomic.Uint64    // writes acknowledged
	touches atomic.Uint64    // first touches of a fresh mapping that came through
	sigbus  atomic.Uint64
	refused atomic.Uint64 // mmaps refused
	size    atomic.Int64  // the first writer's: size of the file, as acknowledged
	maybe   atomic.Int64  // a size that a call without acknowledgement asked for, -1: none
	cells   [maxCells]cellState
}

// cellState is what may be found in a cell: the value last acknowledged, or one of those issued since.
type cellState struct {
	acked   atomic.Uint64
	n       atomic.Uint32 // issued since; over maxPending: more than are kept
	pending [maxPending]atomic.Uint64
}

func (c *cellState) reset(v uint64) {
	c.acked.Store(v)
	c.n.Store(0)
}

// issue notes a value before it is written.
func (c *cellState) issue(v uint64) {
	n := c.n.Load()
	if c.acked.Load() == v {
		// Writing the value that is there already adds nothing to what may be found.
		return
	}
	for i := range min(n, maxPending) {
		if c.pending[i].Load() == v {
			return
		}
	}
	if n < maxPending {
		c.pending[n].Store(v)
	}
	c.n.Store(n + 1)
}

// ack notes that a value is there for good.
func (c *cellState) ack(v uint64) { c.reset(v) }

// want copies the state for the judge.
func (c *cellState) want(owner int, mapper bool, off int64) CellWant {
	w := CellWant{Owner: owner, Mapper: mapper, Acked: c.acked.Load(), Off: off}
	n := c.n.Load()
	w.Overflow = n > maxPending
	for i := range min(n, maxPending) {
		w.Pending = append(w.Pending, c.pending[i].Load())
	}
	return w
}

// newShared makes the memory and the file that is handed to workers. The mapping stays until the process ends: a watchdog or a
// waiter may look at it at any time.
func newShared() (*shared, *os.File, error) {
	fd, err := unix.MemfdCreate("inlinefs-stress", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, fmt.Errorf("memfd for the workers: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inlinefs-stress")
	if err := f.Truncate(int64(unsafe.Sizeof(shared{}))); err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("memfd for the workers: %w", err)
	}
	s, err := mapShared(fd)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	s.magic.Store(sharedMagic)
	return s, f, nil
}

// mapShared maps the memory out of its descriptor.
func mapShared(fd int) (*shared, error) {
	mem, err := unix.Mmap(fd, 0, int(unsafe.Sizeof(shared{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping of the shared memory, descriptor %d: %w", fd, err)
	}
	return (*shared)(unsafe.Pointer(&mem[0])), nil
}

// openShared maps the memory in a worker.
func openShared(fd int) (*shared, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("shared memory, descriptor %d: %w", fd, err)
	}
	if want := int64(unsafe.Sizeof(shared{})); st.Size != want {
		return nil, fmt.Errorf("shared memory, descriptor %d: %d bytes, want %d", fd, st.Size, want)
	}
	s, err := mapShared(fd)
	if err != nil {
		return nil, err
	}
	if m := s.magic.Load(); m != sharedMagic {
		return nil, fmt.Errorf("shared memory: magic %#x, want %#x", m, uint64(sharedMagic))
	}
	return s, nil
}

// wait is the barrier: it returns when all parties are in it, and errBroken when it was broken.
func (s *shared) wait(parties int) error {
	gen := s.gen.Load()
	if s.broken.Load() != 0 {
		return errBroken
	}
	if int(s.waiting.Add(1)) == parties {
		s.waiting.Store(0)
		s.gen.Add(1)
		s.wake()
		return nil
	}
	// A short spin lets the parties leave within a microsecond of each other where there is a processor for each.
	for range spinRounds {
		if s.gen.Load() != gen {
			return nil
		}
	}
	for s.gen.Load() == gen {
		if s.broken.Load() != 0 {
			return errBroken
		}
		ts := unix.NsecToTimespec(int64(futexTimeout))
		// Every outcome (woken, timed out, interrupted, value changed) is answered by looking again.
		unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&s.gen)), futexWait, uintptr(gen), uintptr(unsafe.Pointer(&ts)), 0, 0)
	}
	return nil
}

func (s *shared) wake() {
	unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&s.gen)), futexWake, 1<<30, 0, 0, 0)
}

// breakOff ends all waiting, now and later.
func (s *shared) breakOff() {
	s.broken.Store(1)
	s.wake()
}

// since is the time since the race began, in seconds.
func (s *shared) since() float64 { return float64(monotonic()-s.epoch.Load()) / 1e9 }

func monotonic() int64 {
	var ts unix.Timespec
	// It cannot fail for this clock.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

// pulse is what one party shows of itself to the watchdog.
type pulse struct {
	beat uint64
	idle bool
	last time.Time // when it was seen to move, or to wait
}

// look reads the party's state and tells for how long it has neither moved nor waited for the others.
func (p *pulse) look(now time.Time, beat uint64, idle bool) time.Duration {
	if beat != p.beat || idle || p.last.IsZero() {
		p.beat, p.idle, p.last = beat, idle, now
	}
	return now.Sub(p.last)
}

// total adds one counter over all slots.
func (s *shared) total(counter func(*slot) *atomic.Uint64) int64 {
	var sum int64
	for i := range s.slots {
		sum += int64(counter(&s.slots[i]).Load())
	}
	return sum
}
