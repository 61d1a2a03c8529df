//go:build !deadlock && !explore

package lock

import (
	"sync"
	"sync/atomic"
)

// Mutex is sync.Mutex: the plain build pays nothing.
type Mutex = sync.Mutex

// RWMutex is sync.RWMutex. A waiting writer stops new readers, as rw_semaphore does.
type RWMutex = sync.RWMutex

// Mine says whether the caller holds m, where the build can tell (known).
func Mine(*Mutex) (mine, known bool) { return false, false }

// Bool is a flag that the kernel reads and changes without a lock.
type Bool = atomic.Bool

// Checking says whether lock order is checked in this build, Exploring whether a scheduler decides who runs.
const (
	Checking  = false
	Exploring = false
)

// NameMutex gives m its class and instance (an inode number, a process id, a group, a block).
func NameMutex(*Mutex, *Class, uint64) {}

// NameRW is NameMutex for a RWMutex.
func NameRW(*RWMutex, *Class, uint64) {}

// NameBool names a flag, for the explorer's report.
func NameBool(*Bool, string, uint64) {}

// Enter says that the caller now holds something that is ordered like a lock and is none (a handle); Leave that it does no more.
func Enter(*Class, uint64) {}

// Leave is the end of Enter.
func Leave(*Class, uint64) {}

// Point is a step that others may see: where what is a kind of shared state ("alloc", "commit"), instance which one of it.
func Point(string, uint64) {}

// ReadPoint is Point for a step that only looks.
func ReadPoint(string, uint64) {}

// Reading says that the caller's next Lock of m only reads what m guards: two such critical sections commute.
func Reading(*Mutex) {}

// Touching says that the caller's next Lock of m touches only parts of what m guards: critical sections on different parts commute.
func Touching(*Mutex, Part) {}

// Note puts a step into the trace of an exploration.
func Note(fn, kernel, detail string) {}

// Scheduled says whether a scheduler decides who runs now.
func Scheduled() bool { return false }
