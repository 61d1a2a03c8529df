package stress

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"inlinefs/internal/control"
	"inlinefs/internal/event"
)

const (
	watchEvery   = 250 * time.Millisecond
	reportEvery  = 50 * time.Millisecond
	workerGrace  = 30 * time.Second
	reportGrace  = 5 * time.Second
	maxNotes     = 20
	maxMakeFails = 200 // rounds in a row in which no file could be made
)

// workerProc is a worker process and the pipes to it.
type workerProc struct {
	*child
	stdin io.WriteCloser
	out   *bytes.Buffer // whole once exited is closed
}

// campaign leads workers through rounds in a directory and judges them.
type campaign struct {
	c        *Config
	p        params
	dir      string
	abort    func() // cuts the mount off after a hang
	sh       *shared
	shFile   *os.File
	procs    []*workerProc
	stopping atomic.Bool
	hung     atomic.Bool
	stuck    atomic.Pointer[string]       // who did not move
	hangSeen chan struct{}                // closed by the watchdog once all is cut off
	report   atomic.Pointer[event.Report] // as read when the hang was seen
	rounds   int64
	made     int64 // files that were raced on
	errors   map[string]int64
	findings map[string]int64
	first    *Finding
	notes    []string
	outs     []workerOut
	seen     firsts
	kept     []FileWant       // files that are left for the image's turn, oldest first
	before   map[string]int64 // violations that the mount had counted before; nil: the mount tells none
}

func newCampaign(c *Config, dir string, abort func()) (*campaign, error) {
	sh, f, err := newShared()
	if err != nil {
		return nil, err
	}
	return &campaign{
		c: c, dir: dir, abort: abort, sh: sh, shFile: f, hangSeen: make(chan struct{}),
		p: params{Seed: c.Seed, Writers: c.Writers, Mappers: c.Mappers, Files: c.Files, Writes: c.Writes,
			MappedBuffer: c.shape.MappedBuffer || c.shape.Sibling == fromMapping, TwoFiles: c.shape.TwoFiles,
			LateOpen: c.shape.LateOpen, Resize: c.Mmap != "cached", Sibling: c.shape.Sibling},
		errors: map[string]int64{}, findings: map[string]int64{}, seen: firsts{at: map[string]float64{}},
	}, nil
}

// start starts the worker processes.
func (g *campaign) start() error {
	groups := make([][]int, 0, g.p.workers())
	for id := range g.p.workers() {
		if g.c.shape.OneProcess && id > 0 {
			groups[0] = append(groups[0], id)
			continue
		}
		groups = append(groups, []int{id})
	}
	for _, ids := range groups {
		cmd := exec.Command(g.c.WorkerCommand[0], g.c.WorkerCommand[1:]...)
		// Without preemption signals no request of a worker is interrupted.
		cmd.Env = append(append(os.Environ(), "GODEBUG=asyncpreemptoff=1"), g.c.WorkerEnv...)
		cmd.ExtraFiles = []*os.File{g.shFile}
		p := &workerProc{out: &bytes.Buffer{}}
		cmd.Stdout = p.out
		var err error
		if p.stdin, err = cmd.StdinPipe(); err != nil {
			return fmt.Errorf("worker: %w", err)
		}
		if p.child, err = startChild(cmd); err != nil {
			return fmt.Errorf("worker: %w", err)
		}
		g.procs = append(g.procs, p)
		go func() {
			<-p.exited
			if !g.stopping.Load() {
				g.sh.breakOff()
			}
		}()
		conf := workerConfig{Schema: workerSchema, Dir: g.dir, Workers: ids, Parties: g.p.workers() + 1, Announce: g.c.Announce, Params: g.p}
		if err := json.NewEncoder(p.stdin).Encode(conf); err != nil {
			return fmt.Errorf("worker: %w: %s", err, p.stderr.String())
		}
	}
	return nil
}

// run goes through the rounds until a bound is hit or ctx is done. A hang is no error.
func (g *campaign) run(ctx context.Context) error {
	defer g.close()
	if err := g.start(); err != nil {
		return err
	}
	watchDone := make(chan struct{})
	defer close(watchDone)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.sh.epoch.Store(monotonic())
	go g.watch(watchDone)
	if g.before != nil {
		go g.listen(watchDone, g.before)
	}
	if g.c.Duration > 0 {
		go g.timeUp(watchDone, cancel)
	}
	go func() {
		select {
		case <-ctx.Done():
			g.sh.cut.Store(1)
		case <-watchDone:
		}
	}()
	fails := 0
	for ctx.Err() == nil && (g.c.Iterations == 0 || g.rounds < g.c.Iterations) {
		before := g.made
		if err := g.round(); err != nil {
			return g.broken(err)
		}
		if fails++; g.made > before {
			fails = 0
		}
		if fails == maxMakeFails {
			g.note("no file could be made in %d rounds one after the other", fails)
			break
		}
	}
	return g.finish()
}

// timeUp cancels when the time is over: Duration, or up to AtMost while a class of Until has not been seen.
func (g *campaign) timeUp(done <-chan struct{}, cancel context.CancelFunc) {
	begin := time.Now()
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		took := time.Since(begin)
		if took >= g.c.Duration && (g.seen.has(g.c.Until) || took >= g.c.AtMost) {
			cancel()
			return
		}
	}
}

func (g *campaign) wait() error {
	g.sh.beat.Add(1)
	g.sh.idle.Store(1)
	defer g.sh.idle.Store(0)
	return g.sh.wait(g.p.workers() + 1)
}

// round leads one round and judges its files.
func (g *campaign) round() error {
	n := uint64(g.rounds + 1)
	g.sh.round.Store(n)
	for f := range g.p.Files {
		g.sh.done[f].Store(0)
		g.sh.made[f].Store(0)
	}
	// Begin, made, opened and racing, closed.
	for range 4 {
		if err := g.wait(); err != nil {
			return err
		}
	}
	g.rounds++
	for f := range g.p.Files {
		path := filepath.Join(g.dir, fileName(n, f))
		if g.sh.made[f].Load() != 0 {
			g.made++
			g.keep(g.judge(n, f, path))
		} else {
			g.unlink(path)
		}
		g.sh.beat.Add(1)
	}
	if g.hung.Load() {
		return errBroken
	}
	return nil
}

func (g *campaign) note(format string, args ...any) {
	if len(g.notes) < maxNotes {
		g.notes = append(g.notes, fmt.Sprintf(format, args...))
	}
}

// watch strikes when a worker, or the leader, has neither moved nor waited for the others for HangAfter: it asks the mount what it knows,
// cuts it off, and frees whoever waits. One that moves does not excuse one that does not.
func (g *campaign) watch(done <-chan struct{}) {
	pulses := make([]pulse, g.p.workers()+1)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		if g.sh.broken.Load() != 0 {
			continue
		}
		now := time.Now()
		still := pulses[0].look(now, g.sh.beat.Load(), g.sh.idle.Load() != 0)
		who := "the leader"
		for id := range g.p.workers() {
			s := &g.sh.slots[id]
			if d := pulses[id+1].look(now, s.beat.Load(), s.idle.Load() != 0); d > still {
				still, who = d, fmt.Sprintf("worker %d", id)
			}
		}
		if still < g.c.HangAfter {
			continue
		}
		if r, err := reportWithin(g.dir, reportGrace); err == nil {
			g.report.Store(&r)
		}
		g.stuck.Store(&who)
		g.hung.Store(true)
		g.stopping.Store(true)
		g.abort()
		g.sh.breakOff()
		close(g.hangSeen)
		return
	}
}

// listen asks the mount for its violations again and again, so that the time of the first of each class is known.
func (g *campaign) listen(done <-chan struct{}, before map[string]int64) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		r, err := reportWithin(g.dir, reportGrace)
		if err != nil {
			continue // the watchdog decides what that means
		}
		for class, n := range r.Violations {
			if n > before[class] {
				g.seen.note(class, g.sh.since())
			}
		}
	}
}

// firsts are the times at which classes were first seen, in seconds since the race began.
type firsts struct {
	mu sync.Mutex
	at map[string]float64 // guarded by mu
}

func (f *firsts) note(class string, at float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if was, ok := f.at[class]; !ok || at < was {
		f.at[class] = at
	}
}

// all copies what is known.
func (f *firsts) all() map[string]float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.at)
}

// has tells if all the classes have been seen.
func (f *firsts) has(classes []string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !slices.ContainsFunc(classes, func(c string) bool { _, ok := f.at[c]; return !ok })
}

// broken ends a campaign whose barrier is broken: by a hang, which is a result, or by a worker that died, which is an error.
func (g *campaign) broken(err error) error {
	g.stopping.Store(true)
	if g.hung.Load() {
		<-g.hangSeen
		return nil
	}
	for _, p := range g.procs {
		if !p.within(workerGrace) {
			continue
		}
		if text := p.stderr.String(); p.err != nil && !strings.Contains(text, errBroken.Error()) {
			return fmt.Errorf("worker died: %w: %s", p.err, text)
		}
	}
	return fmt.Errorf("workers ended before their time: %w", err)
}

// finish lets the workers end and collects what they bring.
func (g *campaign) finish() error {
	g.stopping.Store(true)
	g.sh.stop.Store(1)
	if err := g.wait(); err != nil {
		return g.broken(err)
	}
	for _, p := range g.procs {
		if !p.within(workerGrace) {
			return fmt.Errorf("worker %d did not end within %s", p.cmd.Process.Pid, workerGrace)
		}
		if p.err != nil {
			return fmt.Errorf("worker: %w: %s", p.err, p.stderr.String())
		}
		var res workerResult
		if err := json.Unmarshal(p.out.Bytes(), &res); err != nil {
			return fmt.Errorf("worker's result of %d bytes: %w", p.out.Len(), err)
		}
		if res.Schema != workerSchema {
			return fmt.Errorf("worker's result: schema %d, want %d", res.Schema, workerSchema)
		}
		g.outs = append(g.outs, res.Workers...)
	}
	return nil
}

// close ends whatever still runs.
func (g *campaign) close() {
	g.stopping.Store(true)
	g.sh.breakOff()
	for _, p := range g.procs {
		// Closing tells a worker that its leader is gone; it may be gone itself.
		_ = p.stdin.Close()
	}
	for _, p := range g.procs {
		if !p.within(2 * time.Second) {
			p.kill()
		}
	}
	g.shFile.Close()
}

// reportWithin reads the mount's report, but does not wait for a mount that hangs.
func reportWithin(dir string, patience time.Duration) (event.Report, error) {
	type answer struct {
		r   event.Report
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		r, err := control.Report(dir)
		ch <- answer{r, err}
	}()
	select {
	case a := <-ch:
		return a.r, a.err
	case <-time.After(patience):
		return event.Report{}, fmt.Errorf("report of %s: no answer within %s", dir, patience)
	}
}
