//go:build deadlock && !explore

package lock

import (
	"sync"
	"sync/atomic"

	"github.com/petermattis/goid"
	deadlock "github.com/sasha-s/go-deadlock"
)

// Checking says whether lock order is checked in this build, Exploring whether a scheduler decides who runs.
const (
	Checking  = true
	Exploring = false
)

// Bool is a flag that the kernel reads and changes without a lock.
type Bool = atomic.Bool

// Mutex is a mutex that is checked by class; go-deadlock below it watches how long others wait, and locks without a name.
type Mutex struct {
	mu   deadlock.Mutex // own lock
	name tag            // immutable after NameMutex
	// busy is how many goroutines hold the mutex or are about to.
	busy atomic.Int32
}

// Lock takes the mutex after checking the order.
func (m *Mutex) Lock() {
	m.busy.Add(1)
	take(&m.name, exclusive)
	m.mu.Lock()
	taken(&m.name)
}

// Unlock releases it.
func (m *Mutex) Unlock() {
	drop(&m.name)
	m.mu.Unlock()
	m.busy.Add(-1)
}

// TryLock takes the mutex if nobody has it or is about to have it. As in lockdep it breaks no rule, and what is taken under it is checked.
//
// A TryLock of go-deadlock that fails erases its record of the real holder. So it is asked only when nobody has the mutex, and fails then
// only if another goroutine comes in between the two steps.
func (m *Mutex) TryLock() bool {
	if !m.busy.CompareAndSwap(0, 1) {
		return false
	}
	if attempt(&m.name, exclusive, m.mu.TryLock) {
		return true
	}
	m.busy.Add(-1)
	return false
}

// Mine says whether the caller holds m, where the build can tell (known): here always.
func Mine(m *Mutex) (mine, known bool) {
	id := goid.Get()
	s := shardOf(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.m[id]
	return g != nil && g.last(&m.name, true) >= 0, true
}

// RWMutex is a Mutex with shared holders. They are checked like exclusive ones: a writer who waits stops new readers.
type RWMutex struct {
	mu   deadlock.RWMutex // own lock
	name tag              // immutable after NameRW
	// writers and readers are how many goroutines hold the lock or are about to.
	writers, readers atomic.Int32
}

// Lock takes the lock for writing after checking the order.
func (m *RWMutex) Lock() {
	m.writers.Add(1)
	take(&m.name, exclusive)
	m.mu.Lock()
	taken(&m.name)
}

// Unlock ends Lock.
func (m *RWMutex) Unlock() {
	drop(&m.name)
	m.mu.Unlock()
	m.writers.Add(-1)
}

// RLock takes the lock for reading after checking the order.
func (m *RWMutex) RLock() {
	m.readers.Add(1)
	take(&m.name, shared)
	m.mu.RLock()
	taken(&m.name)
}

// RUnlock ends RLock.
func (m *RWMutex) RUnlock() {
	drop(&m.name)
	m.mu.RUnlock()
	m.readers.Add(-1)
}

// TryLock is Mutex.TryLock.
func (m *RWMutex) TryLock() bool {
	if m.readers.Load() != 0 || !m.writers.CompareAndSwap(0, 1) {
		return false
	}
	if attempt(&m.name, exclusive, m.mu.TryLock) {
		return true
	}
	m.writers.Add(-1)
	return false
}

// TryRLock takes the lock for reading if no writer has it or waits for it.
func (m *RWMutex) TryRLock() bool {
	if m.writers.Load() != 0 {
		return false
	}
	m.readers.Add(1)
	if attempt(&m.name, shared, m.mu.TryRLock) {
		return true
	}
	m.readers.Add(-1)
	return false
}

// RLocker is the lock's reading side.
func (m *RWMutex) RLocker() sync.Locker { return (*reader)(m) }

type reader RWMutex

// Lock is RLock.
func (r *reader) Lock() { (*RWMutex)(r).RLock() }

// Unlock is RUnlock.
func (r *reader) Unlock() { (*RWMutex)(r).RUnlock() }

// tag is what a lock is called: its class, and which one of the class it is.
type tag struct {
	class *Class // nil for a lock without a name
	num   int    // the class's number
	inst  uint64
	id    uint64 // of the lock itself: an instance that is gone may come back as another lock
}

var tags atomic.Uint64

func name(t *tag, c *Class, inst uint64) {
	*t = tag{class: c, num: number(c), inst: inst, id: tags.Add(1)}
}

// NameMutex gives m its class and instance (an inode number, a process id, a group, a block).
func NameMutex(m *Mutex, c *Class, inst uint64) { name(&m.name, c, inst) }

// NameRW is NameMutex for a RWMutex.
func NameRW(m *RWMutex, c *Class, inst uint64) { name(&m.name, c, inst) }

// NameBool names a flag, for the explorer's report.
func NameBool(*Bool, string, uint64) {}

// Enter says that the caller now holds something that is ordered like a lock and is none (a handle); call it before waiting for it.
func Enter(c *Class, inst uint64) {
	t := tag{class: c, num: number(c), inst: inst}
	take(&t, pseudo)
	taken(&t)
}

// Leave is the end of Enter. It panics when nobody entered: a report would then speak of what is not held.
func Leave(c *Class, inst uint64) {
	if !drop(&tag{class: c, num: number(c), inst: inst}) {
		panic("lock: " + c.Name + " is left and was not entered")
	}
}

// Point is a step of the explorer's.
func Point(string, uint64) {}

// ReadPoint is a step of the explorer's.
func ReadPoint(string, uint64) {}

// Reading is a word to the explorer.
func Reading(*Mutex) {}

// Touching says that the caller's next Lock of m touches only parts of what m guards: critical sections on different parts commute.
func Touching(*Mutex, Part) {}

// Note puts a step into the trace of an exploration.
func Note(fn, kernel, detail string) {}

// Scheduled says whether a scheduler decides who runs now.
func Scheduled() bool { return false }
