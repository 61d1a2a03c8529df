package fs

import (
	"sync"
	"time"

	"inlinefs/journal"
	"inlinefs/mm"
)

// watchdog reports requests that do not end. Only an observing mount has one.
type watchdog struct {
	fs    *FileSystem   // immutable
	after time.Duration // immutable
	quit  chan struct{} // immutable

	mu     sync.Mutex
	active map[*journal.Task]time.Time // guarded by mu; zero once reported
}

func newWatchdog(f *FileSystem, after time.Duration) *watchdog {
	if after == 0 {
		after = time.Minute
	}
	return &watchdog{fs: f, after: after, quit: make(chan struct{}), active: map[*journal.Task]time.Time{}}
}

// start begins to watch; stop ends it.
func (w *watchdog) start() {
	go w.run()
	go w.breakDeadlocks()
}

func (w *watchdog) begin(t *journal.Task) {
	now := time.Now()
	w.mu.Lock()
	w.active[t] = now
	w.mu.Unlock()
}

func (w *watchdog) end(t *journal.Task) {
	w.mu.Lock()
	delete(w.active, t)
	w.mu.Unlock()
}

func (w *watchdog) stop() { close(w.quit) }

// deadlockAge is how long a wait may last before it is looked for in a cycle; breaking one costs a client an error, so not at once.
const deadlockAge = 200 * time.Millisecond

// taskOf is the running request of a client's thread.
func (w *watchdog) taskOf(th *mm.Thread) *journal.Task {
	w.mu.Lock()
	defer w.mu.Unlock()
	for t := range w.active {
		if t.Mm == th {
			return t
		}
	}
	return &journal.Task{Op: th.Name()}
}

func (w *watchdog) breakDeadlocks() {
	tick := time.NewTicker(deadlockAge / 4)
	defer tick.Stop()
	for {
		select {
		case <-w.quit:
			return
		case <-tick.C:
			w.fs.shadow.BreakDeadlocks(deadlockAge)
		}
	}
}

func (w *watchdog) run() {
	tick := time.NewTicker(w.after / 4)
	defer tick.Stop()
	for {
		select {
		case <-w.quit:
			return
		case now := <-tick.C:
			for _, t := range w.late(now) {
				w.fs.fs.Live.Hangs.Add(1)
				w.fs.fs.Journal.V.Raise(journal.Hang, t, 0, nil, "task %d (%s, pid %d) has not ended for %v", t.ID, t.Op, t.Pid, w.after)
			}
		}
	}
}

// late lists what is overdue, each task once.
func (w *watchdog) late(now time.Time) (out []*journal.Task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for t, since := range w.active {
		if !since.IsZero() && now.Sub(since) > w.after {
			out = append(out, t)
			w.active[t] = time.Time{}
		}
	}
	return out
}
