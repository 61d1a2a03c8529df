// Package event holds what the mount tells about itself: the steps of the race as they happened, violations with the stacks of
// both parties, and counters. The same types travel as JSON from the daemon (extended attribute "inlinefs.report" of the root)
// to the stress harness.
package event

import (
	"sync"
	"sync/atomic"
	"time"
)

// Event is one step of an operation on an inode.
type Event struct {
	// Nsec is nanoseconds since the mount started (monotonic).
	Nsec int64 `json:"ns"`
	// Task is the number of the request's task; one task is one column of a timeline.
	Task uint64 `json:"task"`
	// Op is the request's name: "write", "fault", "writepage", "setattr"...
	Op string `json:"op"`
	// Pid is the client's thread id, 0 for write-back.
	Pid uint32 `json:"pid"`
	// Func is the function of this code, Kernel the ext4 function that it stands for.
	Func   string `json:"func"`
	Kernel string `json:"kernel"`
	// Detail is the value tested or changed at this step.
	Detail string `json:"detail"`
}

// Violation is one broken rule of the handle layer or of inline data.
type Violation struct {
	Class    string `json:"class"`
	Strategy string `json:"strategy"`
	Ino      uint64 `json:"ino"`
	// Mirror is the kernel's check that would have fired here.
	Mirror  string   `json:"mirror"`
	Message string   `json:"message"`
	Opener  []string `json:"opener,omitempty"`
	Breaker []string `json:"breaker,omitempty"`
	// Task is the breaker's task: the first column of the timeline.
	Task   uint64  `json:"task"`
	Events []Event `json:"events,omitempty"`
}

// Report is the state of a mount, schema 1.
type Report struct {
	Schema     int              `json:"schema"`
	Version    string           `json:"version"`
	Image      string           `json:"image,omitempty"` // path of the image or device
	Strategy   string           `json:"strategy"`
	MmapMode   string           `json:"mmap"`
	Journal    string           `json:"journal"`
	Counters   Counters         `json:"counters"`
	Violations map[string]int64 `json:"violations"`
	First      *Violation       `json:"first_violation,omitempty"`
}

// Counters count what the mount did since it began.
type Counters struct {
	Writes            int64 `json:"writes"`
	Faults            int64 `json:"faults"`
	Writepages        int64 `json:"writepages"`
	Announced         int64 `json:"announced"`
	Conversions       int64 `json:"conversions"`
	ConversionsFailed int64 `json:"conversions_failed"`
	Restores          int64 `json:"restores"`
	Flips             int64 `json:"flips"`
	Hangs             int64 `json:"hangs"`
}

// Live are the counters while they move.
type Live struct {
	Writes, Faults, Writepages, Announced, Conversions, ConversionsFailed, Restores, Flips, Hangs atomic.Int64
}

// Snapshot reads the counters.
func (l *Live) Snapshot() Counters {
	return Counters{
		Writes: l.Writes.Load(), Faults: l.Faults.Load(), Writepages: l.Writepages.Load(), Announced: l.Announced.Load(),
		Conversions: l.Conversions.Load(), ConversionsFailed: l.ConversionsFailed.Load(), Restores: l.Restores.Load(),
		Flips: l.Flips.Load(), Hangs: l.Hangs.Load(),
	}
}

const ringSize = 48

// Ring keeps the last events of one inode.
type Ring struct {
	mu   sync.Mutex
	next int             // guarded by mu
	ev   [ringSize]Event // guarded by mu
}

// Add records one event, forgetting the oldest.
func (r *Ring) Add(e Event) {
	r.mu.Lock()
	r.ev[r.next%ringSize] = e
	r.next++
	r.mu.Unlock()
}

// Last returns the recorded events, oldest first.
func (r *Ring) Last() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(r.next, ringSize)
	out := make([]Event, 0, n)
	for i := r.next - n; i < r.next; i++ {
		out = append(out, r.ev[i%ringSize])
	}
	return out
}

var epoch = time.Now()

// Now is the monotonic time since the process started, in nanoseconds.
func Now() int64 { return int64(time.Since(epoch)) }
