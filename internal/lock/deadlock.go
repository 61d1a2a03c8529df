//go:build deadlock && !explore

package lock

import (
	"os"
	"sync/atomic"
	"time"

	deadlock "github.com/sasha-s/go-deadlock"
)

// Mutex reports inversions, recursion and waits over the timeout.
type Mutex = deadlock.Mutex

// RWMutex does the same for readers and writers.
type RWMutex = deadlock.RWMutex

// Bool is a flag that the kernel reads and changes without a lock.
type Bool = atomic.Bool

// Checking says whether lock order is checked in this build, Exploring whether a scheduler decides who runs.
const (
	Checking  = true
	Exploring = false
)

func NameMutex(*Mutex, *Class, uint64) {}
func NameRW(*RWMutex, *Class, uint64)  {}
func NameBool(*Bool, string, uint64)   {}
func Enter(*Class, uint64)             {}
func Leave(*Class, uint64)             {}
func Point(string, uint64)             {}
func ReadPoint(string, uint64)         {}
func Reading(*Mutex)                   {}

func init() {
	// A legitimate hold may span slow I/O on a loaded machine; a real deadlock never ends.
	deadlock.Opts.DeadlockTimeout = 60 * time.Second
	deadlock.Opts.OnPotentialDeadlock = func() { os.Exit(2) }
}

// Touching says that the caller's next Lock of m touches only parts of what m guards: critical sections on different parts commute.
func Touching(*Mutex, Part) {}
