//go:build deadlock

package lock

import (
	"os"
	"time"

	deadlock "github.com/sasha-s/go-deadlock"
)

// Mutex reports inversions, recursion and waits over the timeout.
type Mutex = deadlock.Mutex

// RWMutex does the same for readers and writers.
type RWMutex = deadlock.RWMutex

// Checking says whether lock order is checked in this build.
const Checking = true

func init() {
	// A legitimate hold may span slow I/O on a loaded machine; a real deadlock never ends.
	deadlock.Opts.DeadlockTimeout = 60 * time.Second
	deadlock.Opts.OnPotentialDeadlock = func() { os.Exit(2) }
}
