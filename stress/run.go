package stress

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"inlinefs/internal/event"
)

const (
	progressTerminal = time.Second
	progressPlain    = 5 * time.Second
	finalReport      = 30 * time.Second
)

// Run runs a campaign and returns what it found. Errors are ExitErrors where an exit code of their own belongs to them: usage, or
// something missing on this machine, named. When ctx ends, the campaign ends early with its results.
func Run(ctx context.Context, c Config) (*Result, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	if c.Mountpoint != "" {
		return runThere(ctx, &c)
	}
	return runImage(ctx, &c)
}

// runThere runs in a new directory below the given mount point.
func runThere(ctx context.Context, c *Config) (*Result, error) {
	if err := refuseHostExt4(c.Mountpoint, c.KnowsItCrashes); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(c.Mountpoint, "stress")
	if err != nil {
		return nil, usagef("mountpoint %s: %w", c.Mountpoint, err)
	}
	if !c.Keep {
		// After a hang the mount may be gone, and the directory with it.
		defer func() { _ = os.RemoveAll(dir) }()
	}
	if err := wantStrategy(c, dir); err != nil {
		return nil, err
	}
	res, _, err := race(ctx, c, dir, func() {})
	if err != nil {
		return nil, err
	}
	why := "the image below " + c.Mountpoint + " is mounted"
	res.Fsck = CheckResult{Findings: []string{}, Skipped: why}
	res.Check = CheckResult{Findings: []string{}, Skipped: why}
	return res, nil
}

// runImage makes or takes an image, mounts it, races, unmounts and checks.
func runImage(ctx context.Context, c *Config) (res *Result, err error) {
	if err := needFuse(); err != nil {
		return nil, err
	}
	if _, err := findTool("e2fsck", "e2fsprogs"); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp("", "inlinefs-stress")
	if err != nil {
		return nil, fmt.Errorf("work directory: %w", err)
	}
	mnt := filepath.Join(tmp, "mnt")
	defer func() {
		if c.Keep {
			fmt.Fprintf(c.Progress, "kept: %s\n", tmp)
			return
		}
		// Remove, not RemoveAll, for the mount point: what is still mounted there must not be emptied.
		if rm := os.Remove(mnt); rm == nil || errors.Is(rm, os.ErrNotExist) {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := os.Mkdir(mnt, 0o700); err != nil {
		return nil, fmt.Errorf("mount point: %w", err)
	}
	image := c.Image
	if image == "" {
		if image, err = makeImage(tmp, c.shape.Base, c.Journal, c.blockSize()); err != nil {
			return nil, err
		}
	} else if _, err := os.Stat(image); err != nil {
		return nil, usagef("image: %w", err)
	}
	m, err := mountImage(c, image, mnt)
	if err != nil {
		return nil, err
	}
	c.keepFiles = true
	res, kept, err := raceMounted(ctx, c, m)
	if uerr := m.unmount(); uerr != nil {
		if err != nil {
			return nil, errors.Join(err, uerr)
		}
		afterUnmount(res, uerr)
	}
	if err != nil {
		return nil, err
	}
	if res.Violations[ClassHang] == 0 {
		if err := res.readImage(image, kept); err != nil {
			return nil, err
		}
	}
	seed := c.shape.Base == ScenarioSeed
	if res.Fsck, err = fsck(image, seed); err != nil {
		return nil, err
	}
	if res.Check, err = ownCheck(c.Binary, image, seed); err != nil {
		res.Check = CheckResult{Findings: []string{err.Error()}}
	}
	return res, nil
}

// afterUnmount puts an unmount that went wrong into the result. After a hang the daemon was cut off: then it says nothing new.
func afterUnmount(res *Result, err error) {
	res.Notes = append(res.Notes, err.Error())
	switch {
	case res.Violations[ClassHang] > 0:
	case errors.Is(err, errStillThere):
		res.Violations[ClassHang]++
	default:
		res.Violations[ClassUnexpected]++
	}
	if res.FirstViolation == nil && res.TotalViolations() > 0 {
		class := slices.Sorted(maps.Keys(res.Violations))[0]
		res.FirstViolation = &FirstViolation{Class: class, Timeline: err.Error(), Replay: res.Replay}
	}
}

// readImage judges the kept files once more, in the image.
func (r *Result) readImage(image string, kept []FileWant) error {
	read, found, err := readImage(image, kept)
	if err != nil {
		return fmt.Errorf("what the image holds: %w", err)
	}
	r.ImageRead = read
	for _, f := range found {
		r.count(f.Class, 1)
		if _, ok := r.FirstSeenS[f.Class]; !ok {
			r.FirstSeenS[f.Class] = r.DurationS
		}
		if r.FirstViolation == nil {
			r.FirstViolation = &FirstViolation{Class: f.Class, Timeline: f.Text, Replay: r.Replay}
		}
	}
	return nil
}

// count adds findings of a class where they belong.
func (r *Result) count(class string, n int64) {
	if class == classMismatch {
		r.DataMismatches += n
	} else {
		r.Violations[class] += n
	}
}

// raceMounted also returns the files that it left in the image.
func raceMounted(ctx context.Context, c *Config, m *mounted) (*Result, []FileWant, error) {
	if err := wantStrategy(c, m.dir); err != nil {
		return nil, nil, err
	}
	if c.shape.Base == ScenarioEnospc && c.Image == "" {
		if err := fillUp(m.dir); err != nil {
			return nil, nil, err
		}
	}
	return race(ctx, c, m.dir, m.abort)
}

// wantStrategy refuses a mount that runs another strategy than asked for.
func wantStrategy(c *Config, dir string) error {
	if c.Strategy == "" {
		return nil
	}
	r, err := reportWithin(dir, finalReport)
	if err != nil {
		return usagef("strategy %s asked for, but %s tells none: %w", c.Strategy, dir, err)
	}
	if r.Strategy != c.Strategy {
		return usagef("strategy %s asked for, but the mount at %s runs %s", c.Strategy, dir, r.Strategy)
	}
	return nil
}

// race runs the campaign in dir and makes its result, without the checks of the image. It also returns the files that it left there.
func race(ctx context.Context, c *Config, dir string, abort func()) (*Result, []FileWant, error) {
	before, inlinefs := event.Report{}, false
	if r, err := reportWithin(dir, finalReport); err == nil {
		before, inlinefs = r, true
	}
	g, err := newCampaign(c, dir, abort)
	if err != nil {
		return nil, nil, err
	}
	if inlinefs {
		if g.before = before.Violations; g.before == nil {
			g.before = map[string]int64{}
		}
	}
	if c.Expected && inlinefs {
		if err := c.foresee(before.Strategy); err != nil {
			return nil, nil, err
		}
	}
	stopProgress := showProgress(c, g, inlinefs)
	begin := time.Now()
	err = g.run(ctx)
	took := time.Since(begin)
	stopProgress()
	if err != nil {
		return nil, nil, err
	}
	res, err := g.result(took)
	if err != nil {
		return nil, nil, err
	}
	res.Faults = g.sh.total(func(s *slot) *atomic.Uint64 { return &s.touches }) + res.Sigbus
	res.Version = ownVersion()
	if inlinefs {
		g.fromMount(res, before)
	}
	g.unexpected(res)
	if v := res.FirstViolation; v == nil && g.first != nil {
		res.FirstViolation = &FirstViolation{Class: g.first.Class, Timeline: g.first.Text, Replay: res.Replay}
	}
	for class := range res.Violations {
		if _, ok := g.seen.all()[class]; !ok {
			g.seen.note(class, took.Seconds())
		}
	}
	res.FirstSeenS = g.seen.all()
	for class, at := range res.FirstSeenS {
		res.FirstSeenS[class] = math.Round(at*1000) / 1000
	}
	return res, g.kept, nil
}

func ownVersion() string {
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" {
		return bi.Main.Version
	}
	return "unknown"
}

// result puts together what workers and judge have.
func (g *campaign) result(took time.Duration) (*Result, error) {
	c := g.c
	res := &Result{
		Schema: Schema, Scenario: c.Scenario, Seed: c.Seed, Mmap: c.Mmap, Iterations: g.rounds, Violations: map[string]int64{},
		Errors: g.errors, Notes: g.notes, Replay: c.replay(), DurationS: took.Seconds(),
		Bounds: Bounds{DurationS: c.Duration.Seconds(), Iterations: c.Iterations, Writers: c.Writers, Mappers: c.Mappers, Files: c.Files,
			Writes: c.Writes, WindowUS: float64(c.Window) / float64(time.Microsecond), Announce: c.Announce},
		Sigbus:      g.sh.total(func(s *slot) *atomic.Uint64 { return &s.sigbus }),
		MmapRefused: g.sh.total(func(s *slot) *atomic.Uint64 { return &s.refused }),
	}
	write, fault := newHist(), newHist()
	for _, o := range g.outs {
		w, err := decodeHist(o.Write)
		if err != nil {
			return nil, err
		}
		f, err := decodeHist(o.Fault)
		if err != nil {
			return nil, err
		}
		write.Merge(w)
		fault.Merge(f)
		for k, n := range o.Errors {
			res.Errors[k] += n
		}
		for k, n := range o.Findings {
			g.findings[k] += n
		}
		if o.First != nil {
			if g.first == nil {
				g.first = o.First
			}
			for class, at := range o.FirstAt {
				g.seen.note(class, at)
			}
			if len(res.Notes) < maxNotes {
				res.Notes = append(res.Notes, o.First.Class+": "+o.First.Text)
			}
		}
	}
	res.LatencyUS = Latencies{Write: quantiles(write), Fault: quantiles(fault)}
	res.Writes = max(write.TotalCount(), g.sh.total(func(s *slot) *atomic.Uint64 { return &s.writes }))
	if s := took.Seconds(); s > 0 {
		res.Throughput = float64(res.Writes) / s
	}
	for class, n := range g.findings {
		res.count(class, n)
	}
	g.tally(res)
	if who := g.stuck.Load(); g.hung.Load() && who != nil {
		res.Violations[ClassHang]++
		if g.first == nil {
			g.first = &Finding{Class: ClassHang, Text: fmt.Sprintf("%s did not move for %s in round %d", *who, c.HangAfter, g.rounds+1)}
		}
	}
	return res, nil
}

// foresee makes the campaign go on until it has seen what the strategy must show in its scenario.
func (c *Config) foresee(strategy string) error {
	f, err := ForesightOf(strategy, "")
	if errors.Is(err, ErrUnforeseen) {
		return nil
	}
	if err != nil {
		return err
	}
	classes, within := f.until(c.Scenario)
	c.Until = append(c.Until, classes...)
	if d := time.Duration(within * float64(time.Second)); len(classes) > 0 {
		c.AtMost = max(c.AtMost, d)
	}
	return nil
}

// tally adds up what the workers counted in the shared memory.
func (g *campaign) tally(res *Result) {
	res.Calls = g.sh.total(func(s *slot) *atomic.Uint64 { return &s.calls })
	if g.p.Sibling != mapOnly {
		return
	}
	res.Unstored = &Unstored{}
	for i, to := range []*int64{&res.Unstored.Mapped, &res.Unstored.Loaded} {
		*to = g.sh.total(func(s *slot) *atomic.Uint64 { return &s.mapped[i] })
	}
	for i, to := range []*int64{&res.Unstored.MappedConverted, &res.Unstored.LoadedConverted} {
		*to = g.sh.total(func(s *slot) *atomic.Uint64 { return &s.left[i] })
	}
}

// fromMount adds what the mount says of itself: counters since before, violations, and the first of them as a timeline.
func (g *campaign) fromMount(res *Result, before event.Report) {
	r, err := event.Report{}, error(nil)
	if seen := g.report.Load(); seen != nil {
		r = *seen
	} else if r, err = reportWithin(g.dir, finalReport); err != nil {
		res.Notes = append(res.Notes, "no report from the mount at the end: "+err.Error())
		r = before
	}
	res.Strategy, res.Version, res.Mmap, res.Journal = r.Strategy, r.Version, r.MmapMode, r.Journal
	if c := g.c; c.Mountpoint == "" && c.Conversion == "" {
		// Whatever build replays it.
		c.Conversion = r.Strategy
		res.Replay = c.replay()
	}
	a, b := r.Counters, before.Counters
	res.Faults = a.Faults - b.Faults
	res.Announced = a.Announced - b.Announced
	res.Conversions = a.Conversions - b.Conversions
	res.ConversionsFailed = a.ConversionsFailed - b.ConversionsFailed
	res.Restores = a.Restores - b.Restores
	for class, n := range r.Violations {
		if n -= before.Violations[class]; n != 0 {
			res.Violations[class] += n
		}
	}
	if r.First != nil {
		res.FirstViolation = &FirstViolation{Class: r.First.Class, Timeline: Timeline(r.First), Replay: res.Replay, Detail: r.First}
	}
}

// unexpected makes a violation of calls that failed for no reason: neither did the mount count a violation, nor did write-back
// fail, nor is the disk full, nor was the source of a write out of reach. The corrupt group of the seed image is no reason for EUCLEAN: the
// allocator passes it over and answers ENOSPC, from the first call on, as ext4's does.
func (g *campaign) unexpected(res *Result) {
	if res.TotalViolations() > 0 {
		return
	}
	for key := range res.Errors {
		if strings.HasPrefix(key, "msync:") {
			return
		}
	}
	for _, key := range slices.Sorted(maps.Keys(res.Errors)) {
		call, errno, _ := strings.Cut(key, ":")
		switch call {
		case "announce", "mmap", "munmap", "gup":
			continue
		}
		switch errno {
		case "ENOSPC", "EFAULT", "EINTR":
			continue
		}
		res.Violations[ClassUnexpected] += res.Errors[key]
		if g.first == nil {
			g.first = &Finding{Class: ClassUnexpected, Text: fmt.Sprintf("%s failed with %s, %d times, and no violation explains it", call, errno,
				res.Errors[key])}
		}
	}
}

// showProgress prints how the campaign goes until the returned function is called.
func showProgress(c *Config, g *campaign, inlinefs bool) (stop func()) {
	every := progressPlain
	if c.Terminal {
		every = progressTerminal
	}
	done, ended := make(chan struct{}), make(chan struct{})
	begin := time.Now()
	line := func() string {
		s := fmt.Sprintf("%4.0f s: round %d, %d writes, %d touches, %d SIGBUS, %d mmaps refused", time.Since(begin).Seconds(), g.sh.round.Load(),
			g.sh.total(func(s *slot) *atomic.Uint64 { return &s.writes }), g.sh.total(func(s *slot) *atomic.Uint64 { return &s.touches }),
			g.sh.total(func(s *slot) *atomic.Uint64 { return &s.sigbus }), g.sh.total(func(s *slot) *atomic.Uint64 { return &s.refused }))
		if inlinefs {
			if r, err := reportWithin(g.dir, reportGrace); err == nil {
				s += "; violations: " + countsText(r.Violations)
			}
		}
		return s
	}
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if c.Terminal {
				fmt.Fprintf(c.Progress, "\r\x1b[K%s", line())
			} else {
				fmt.Fprintln(c.Progress, line())
			}
		}
	}()
	return func() {
		close(done)
		<-ended
		if c.Terminal {
			fmt.Fprint(c.Progress, "\r\x1b[K")
		}
	}
}
