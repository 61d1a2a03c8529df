package stress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"inlinefs/internal/control"
	"inlinefs/internal/event"

	"golang.org/x/sys/unix"
)

const (
	watchEvery   = 250 * time.Millisecond
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
	hangSeen chan struct{}                // closed by the watchdog once all is cut off
	report   atomic.Pointer[event.Report] // as read when the hang was seen
	rounds   int64
	made     int64 // files that were raced on
	errors   map[string]int64
	findings map[string]int64
	first    *Finding
	notes    []string
	outs     []workerOut
}

func newCampaign(c *Config, dir string, abort func()) (*campaign, error) {
	sh, f, err := newShared()
	if err != nil {
		return nil, err
	}
	return &campaign{
		c: c, dir: dir, abort: abort, sh: sh, shFile: f, hangSeen: make(chan struct{}),
		p: params{Seed: c.Seed, Writers: c.Writers, Mappers: c.Mappers, Files: c.Files, Writes: c.Writes,
			MappedBuffer: c.shape.MappedBuffer, TwoFiles: c.shape.TwoFiles,
			LateOpen: c.shape.LateOpen, Resize: c.Mmap == "observe"},
		errors: map[string]int64{}, findings: map[string]int64{},
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
	if g.c.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, g.c.Duration)
		defer cancel()
	}
	watchDone := make(chan struct{})
	defer close(watchDone)
	go g.watch(watchDone)
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

func (g *campaign) wait() error {
	g.sh.beat.Add(1)
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
			g.judge(n, f, path)
		}
		if err := unix.Unlink(path); err != nil && !errors.Is(err, unix.ENOENT) {
			g.errors["unlink:"+errnoName(err)]++
		}
		g.sh.beat.Add(1)
	}
	if g.hung.Load() {
		return errBroken
	}
	return nil
}

// judge reads a file twice, as the mount has it (a descriptor that is observed) and as the page cache has it.
func (g *campaign) judge(round uint64, f int, path string) {
	want := g.want(round, f)
	for _, way := range []struct {
		name  string
		flags int
	}{{"read-write", unix.O_RDWR}, {"read-only", unix.O_RDONLY}} {
		data, err := readWhole(path, way.flags)
		if err != nil {
			g.errors["judge:"+errnoName(err)]++
			continue
		}
		found := Judge(want, data)
		for _, fd := range found {
			g.findings[fd.Class]++
			fd.Text += " (opened " + way.name + ")"
			g.note("%s: %s", fd.Class, fd.Text)
			if g.first == nil {
				g.first = &fd
			}
		}
		if len(found) > 0 {
			return // the second look would count the same again
		}
	}
}

// want collects what the workers say of a file.
func (g *campaign) want(round uint64, f int) FileWant {
	lay := g.p.layout(round, f)
	w := FileWant{Name: fileName(round, f), Round: round, Layout: lay}
	if g.p.MappedBuffer {
		w.Copied = g.p.Writers
	}
	for i, o := range lay.owner {
		w.Cells = append(w.Cells, g.sh.slots[o].cells[i].want(o, g.p.isMapper(o)))
	}
	first := g.p.firstWriter(f)
	for i := range lay.append {
		w.Cells = append(w.Cells, g.sh.slots[first].cells[len(lay.owner)+i].want(first, false))
	}
	w.Size = int(g.sh.slots[first].size.Load())
	w.Maybe = int(g.sh.slots[first].maybe.Load())
	return w
}

func readWhole(path string, flags int) ([]byte, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	n, err := unix.Pread(fd, buf, 0)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return buf[:n], nil
}

func (g *campaign) note(format string, args ...any) {
	if len(g.notes) < maxNotes {
		g.notes = append(g.notes, fmt.Sprintf(format, args...))
	}
}

// watch strikes when nothing has moved for HangAfter: it asks the mount what it knows, cuts it off, and frees whoever waits.
func (g *campaign) watch(done <-chan struct{}) {
	last, since := g.sh.beats(), time.Now()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		if now := g.sh.beats(); now != last {
			last, since = now, time.Now()
			continue
		}
		if time.Since(since) < g.c.HangAfter || g.sh.broken.Load() != 0 {
			continue
		}
		if r, err := reportWithin(g.dir, reportGrace); err == nil {
			g.report.Store(&r)
		}
		g.hung.Store(true)
		g.stopping.Store(true)
		g.abort()
		g.sh.breakOff()
		close(g.hangSeen)
		return
	}
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
