package crash

import (
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"sync"
	"time"

	"inlinefs/blockdev"
)

// Config of a campaign.
type Config struct {
	Variants []Variant
	Seed     int64         // of the first run; the next ones follow
	Points   int           // crash points to try
	Workers  int           // runs at a time; 0 is 1
	Ops      int           // operations of a run; 0 is 250
	Mixes    int           // besides each plain crash: crashes that lose or tear writes
	PerRun   int           // crash points of a run, chosen at random; 0 for all
	For      time.Duration // no run begins after this time; 0 for no bound
	Fsck     int           // one point in how many e2fsck judges; 0 for none
	Dir      string
	// Save is where the log and base image of a run that failed go, in dm-log-writes format; empty for nowhere.
	Save string
	// Progress hears of every finished run; calls do not overlap.
	Progress func(Total)
}

// Total is what a campaign did.
type Total struct {
	Runs, Points, Fscks int
	Journals            int // writes of a journal's superblock: checkpoints and the like
	Wraps               int // times a log began again at its start
}

// Failure is a crash point that breaks a promise, or a run that went wrong before any crash.
type Failure struct {
	Variant string
	Seed    int64
	Ops     int
	Point   Point
	Log     string // where the run's log was saved
	Err     error
}

// Error says what is wrong and how to see it again.
func (f *Failure) Error() string {
	return fmt.Sprintf("%s: seed %d, crash after entry %d, mix %d: %v\n%s", f.Variant, f.Seed, f.Point.N, f.Point.Mix, f.Err, f.Replay())
}

// Unwrap is the reason.
func (f *Failure) Unwrap() error { return f.Err }

// Replay is the command that tries the point again.
func (f *Failure) Replay() string {
	s := fmt.Sprintf("replay: go run ./scripts/crashrun -variant %s -seed %d -ops %d -entry %d -mix %d", f.Variant, f.Seed, f.Ops, f.Point.N, f.Point.Mix)
	if f.Log != "" {
		s += " -from " + f.Log
	}
	return s
}

// campaign is a Config at work.
type campaign struct {
	c     Config    // immutable
	bases [][]byte  // immutable; by variant
	start time.Time // immutable

	mu    sync.Mutex
	next  int64 // guarded by mu
	total Total // guarded by mu
	err   error // guarded by mu
}

// Sweep runs workloads and crashes them until enough points were tried or one fails; the error is a *Failure then. It stops at the end
// of a run, so that a few points more than asked for are tried when PerRun is 0.
func Sweep(c Config) (Total, error) {
	if c.Ops == 0 {
		c.Ops = 250
	}
	s := &campaign{c: c, start: time.Now()}
	for _, v := range c.Variants {
		b, err := v.Make(c.Dir)
		if err != nil {
			return Total{}, err
		}
		s.bases = append(s.bases, b)
	}
	var wg sync.WaitGroup
	for range max(c.Workers, 1) {
		wg.Go(s.work)
	}
	wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total, s.err
}

// take returns the number of the next run.
func (s *campaign) take() (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.total.Points >= s.c.Points || s.c.For > 0 && time.Since(s.start) > s.c.For {
		return 0, false
	}
	s.next++
	return s.next - 1, true
}

func (s *campaign) stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

func (s *campaign) work() {
	for {
		n, ok := s.take()
		if !ok {
			return
		}
		k := int(n % int64(len(s.c.Variants)))
		t, err := s.crashRun(s.c.Variants[k], s.bases[k], s.c.Seed+n)
		s.mu.Lock()
		s.total.Runs += t.Runs
		s.total.Points += t.Points
		s.total.Fscks += t.Fscks
		s.total.Journals += t.Journals
		s.total.Wraps += t.Wraps
		if s.err == nil {
			s.err = err
		}
		if s.c.Progress != nil {
			s.c.Progress(s.total)
		}
		s.mu.Unlock()
	}
}

// crashRun records one run and tries its points.
func (s *campaign) crashRun(v Variant, base []byte, seed int64) (Total, error) {
	t := Total{Runs: 1}
	r, err := Record(v, base, seed, s.c.Ops)
	if err != nil {
		return t, &Failure{Variant: v.Name, Seed: seed, Ops: s.c.Ops, Err: err}
	}
	t.Journals, t.Wraps = r.journalUse()
	sw, err := newSweeper(r, s.c.Dir, s.c.Fsck)
	if err != nil {
		return t, err
	}
	for _, p := range s.points(r) {
		if s.stopped() {
			break
		}
		if err := sw.try(p); err != nil {
			f := &Failure{Variant: v.Name, Seed: seed, Ops: s.c.Ops, Point: p, Err: err}
			if s.c.Save != "" {
				f.Log = filepath.Join(s.c.Save, fmt.Sprintf("%s-%d.log", v.Name, seed))
				f.Err = errors.Join(f.Err, r.SaveLog(f.Log))
			}
			return t, f
		}
	}
	t.Points, t.Fscks = sw.tried, sw.fscks
	return t, nil
}

// points lists what is tried of a run, in the order of the log.
func (s *campaign) points(r *Run) []Point {
	at := r.Points()
	mixes := s.c.Mixes
	if !r.Variant.Journal {
		at, mixes = r.FsyncPoints(), 0
	}
	rng := rand.New(rand.NewSource(r.Seed))
	part := 1.0
	if s.c.PerRun > 0 {
		part = float64(s.c.PerRun) / float64(len(at)*(1+mixes))
	}
	var out []Point
	for _, n := range at {
		for m := range 1 + mixes {
			if m > 0 && flushed(r.Log, n) == n {
				break // nothing to lose
			}
			if rng.Float64() < part {
				out = append(out, Point{n, m})
			}
		}
	}
	return out
}

// Describe says what the workload was doing after n entries of the log.
func (r *Run) Describe(n int) string {
	n = min(max(n, 0), len(r.Log))
	begun, ended := r.begun[n], r.ended[r.marked(n)]
	return fmt.Sprintf("entry %d of %d: operation %d (%s) had begun, %d had ended; %d entries since the last flush; durable: the state after operation %d",
		n, len(r.Log), begun, r.model.log[begun], ended, n-flushed(r.Log, n), r.model.durable(ended))
}

// SaveLog writes the run's log in dm-log-writes format.
func (r *Run) SaveLog(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(blockdev.WriteLog(f, r.Log), f.Close())
}

// LoadLog puts a saved log of the same run (variant, seed and operations) in the place of the one just recorded: what background
// threads do at which moment is not the same in every run.
func (r *Run) LoadLog(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if r.Log, err = blockdev.ReadLog(f); err != nil {
		return err
	}
	r.begun, r.ended = nil, nil
	return r.index()
}

// Try tries one point of a run.
func (r *Run) Try(p Point, dir string) error {
	if p.N < 0 || p.N > len(r.Log) {
		return fmt.Errorf("entry %d, the log has %d", p.N, len(r.Log))
	}
	s, err := newSweeper(r, dir, 1)
	if err != nil {
		return err
	}
	return s.try(p)
}

// Image writes the bytes that a crash at p leaves, before any recovery, to path.
func (r *Run) Image(p Point, path string) error {
	s, err := newSweeper(r, filepath.Dir(path), 0)
	if err != nil {
		return err
	}
	dev, _, err := s.image(p)
	if err != nil {
		return err
	}
	b, err := dev.Snapshot()
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// Since is a rate for progress reports, per second.
func (t Total) Since(start time.Time) float64 {
	return float64(t.Points) / max(time.Since(start).Seconds(), 1e-3)
}
