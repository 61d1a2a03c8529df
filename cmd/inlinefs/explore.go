//go:build explore

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"inlinefs/explore"
	"inlinefs/inline"
	"inlinefs/stress"

	"github.com/spf13/cobra"
)

const exploreHelp = `Explore runs the daemon's request handlers for a few clients of one file, in memory, in every order that a
scheduler can make of their locks, flags, failures and commits, and judges each execution. Only "explored K of K schedules" is a claim of
absence: K counts executions up to the order of steps that commute.

What is found is shrunk to the fewest operations and preemptions, drawn as a timeline, and can be repeated exactly:

  inlinefs explore                                 all strategies, all scenarios of two actors
  inlinefs explore --strategies mkwrite,flip --actors 3
  inlinefs explore --replay 'mkwrite/write,fault/0x5,1x11,c1,...' --trace out.json    (open out.json in ui.perfetto.dev)
  inlinefs explore --list

Exit codes: 0 each strategy is as expected of it (convicted or clean), 1 it is not, or a replay shows a violation, 2 usage.`

// exploreFlags are the flags of one call.
type exploreFlags struct {
	o                      explore.Options
	jobs                   int
	json, replay, trace    string
	steps, list, timelines bool
}

// newExploreCmd is `inlinefs explore`.
func newExploreCmd() *cobra.Command {
	var f exploreFlags
	cmd := &cobra.Command{
		Use:   "explore",
		Short: "search every interleaving of a few actors on one file, in memory",
		Long:  exploreHelp,
		Args:  func(cmd *cobra.Command, args []string) error { return stressUsage(cobra.NoArgs(cmd, args)) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SilenceUsage = true
			out := cmd.OutOrStdout()
			switch {
			case f.list:
				return listScenarios(out)
			case f.replay != "":
				return f.repeat(out)
			case f.trace != "" || f.steps:
				return stressUsage(errors.New("--trace and --steps go with --replay"))
			}
			return f.campaign(out, cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&f.o.Strategies, "strategies", nil, "strategies, by name; default all")
	fl.StringArrayVar(&f.o.Scenarios, "scenario", nil, "scenario, by name (repeatable; see --list)")
	fl.IntVar(&f.o.Actors, "actors", 2, "scenarios of so many actors: 2, 3, or 0 for both")
	fl.DurationVar(&f.o.Limit, "limit", 2*time.Minute, "time for one search; one that takes longer goes on by random priorities (PCT)")
	fl.IntVar(&f.o.Depth, "depth", 3, "bug depth of PCT")
	fl.IntVar(&f.o.Runs, "runs", 20000, "executions of PCT")
	fl.Uint64Var(&f.o.Seed, "seed", 1, "seed of PCT")
	fl.IntVar(&f.o.MaxSteps, "max-steps", 0, "decisions after which an execution is a livelock (default 20000)")
	fl.IntVar(&f.jobs, "jobs", runtime.NumCPU(), "processes")
	fl.StringVar(&f.json, "json", "", "write the outcomes to this file, for `compare --explore`")
	fl.StringVar(&f.replay, "replay", "", "repeat one schedule: STRATEGY/SCENARIO/SCHEDULE")
	fl.StringVar(&f.trace, "trace", "", "with --replay: write a Chrome trace, which Perfetto opens")
	fl.BoolVar(&f.steps, "steps", false, "with --replay: print every step")
	fl.BoolVar(&f.timelines, "timelines", true, "draw the shortest execution of each class")
	fl.BoolVar(&f.list, "list", false, "list the scenarios and what they mirror")
	cmd.SetFlagErrorFunc(stressFlagError)
	return cmd
}

func listScenarios(out io.Writer) error {
	for _, sc := range explore.All() {
		if _, err := fmt.Fprintf(out, "%-34s %s\n", sc.Name, sc.Mirrors); err != nil {
			return err
		}
	}
	return nil
}

// repeat is --replay.
func (f *exploreFlags) repeat(out io.Writer) error {
	run, err := explore.Replay(f.replay)
	if err != nil {
		return stressUsage(err)
	}
	text := explore.Timeline(run)
	if f.steps {
		text = run.String()
	}
	if _, err := fmt.Fprint(out, text); err != nil {
		return err
	}
	if f.trace != "" {
		w, err := os.Create(f.trace)
		if err != nil {
			return err
		}
		if err := errors.Join(run.Chrome(w), w.Close()); err != nil {
			return err
		}
	}
	if len(run.Failures) > 0 {
		return &stress.ExitError{Code: stress.ExitViolation}
	}
	return nil
}

// campaign searches and prints.
func (f *exploreFlags) campaign(out, progress io.Writer) error {
	start := time.Now()
	results, err := f.search(progress)
	if err != nil {
		return stressUsage(err)
	}
	if f.json != "" {
		b, err := json.MarshalIndent(results, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(f.json, append(b, '\n'), 0o644); err != nil {
			return err
		}
	}
	if f.timelines {
		for _, o := range results {
			for _, c := range o.Failures {
				if c.Timeline != "" {
					fmt.Fprintf(out, "%s: %s, %d decisions, %d preemptions, %s\n  %s\n\n%s\n  --replay '%s'\n\n", o.Strategy, c.Class, c.Steps, c.Preemptions,
						strings.Join(c.Ops, " | "), o.Mirrors, c.Timeline, c.Replay)
				}
			}
		}
	}
	fmt.Fprint(out, explore.Table(results))
	fmt.Fprintf(out, "%.1f s\n", time.Since(start).Seconds())
	lines := explore.Surprises(results, len(f.o.Scenarios) == 0 && f.o.Actors != 3)
	for _, l := range lines {
		fmt.Fprintln(out, l)
	}
	if len(lines) > 0 {
		return &stress.ExitError{Code: stress.ExitViolation}
	}
	return nil
}

// search runs the campaign here, or one process for each strategy: only one search at a time can be run in a process.
func (f *exploreFlags) search(progress io.Writer) ([]explore.Outcome, error) {
	names := f.o.Strategies
	if len(names) == 0 {
		names = inline.Names()
	}
	if f.jobs <= 1 || len(names) == 1 {
		f.o.Each = func(o explore.Outcome) {
			fmt.Fprintf(progress, "%s, %s: %d executions, %d ms, %d classes\n", o.Strategy, o.Scenario, o.Executions, o.Millis, len(o.Failures))
		}
		return explore.Run(f.o)
	}
	dir, err := os.MkdirTemp("", "inlinefs-explore-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	results, errs := make([][]explore.Outcome, len(names)), make([]error, len(names))
	slots := make(chan struct{}, f.jobs)
	var wg sync.WaitGroup
	for n, name := range names {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			results[n], errs[n] = f.child(name, filepath.Join(dir, strconv.Itoa(n)), progress)
		})
	}
	wg.Wait()
	return slices.Concat(results...), errors.Join(errs...)
}

// child runs one strategy in a process of its own.
func (f *exploreFlags) child(name, path string, progress io.Writer) ([]explore.Outcome, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"explore", "--jobs=1", "--timelines=false", "--strategies=" + name, "--json=" + path, "--actors=" + strconv.Itoa(f.o.Actors),
		"--limit=" + f.o.Limit.String(), "--depth=" + strconv.Itoa(f.o.Depth), "--runs=" + strconv.Itoa(f.o.Runs),
		"--seed=" + strconv.FormatUint(f.o.Seed, 10), "--max-steps=" + strconv.Itoa(f.o.MaxSteps)}
	for _, s := range f.o.Scenarios {
		args = append(args, "--scenario="+s)
	}
	cmd := exec.Command(exe, args...)
	var errText strings.Builder
	cmd.Stderr = io.MultiWriter(progress, &errText)
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != stress.ExitViolation) {
		return nil, fmt.Errorf("strategy %s: %w: %s", name, err, strings.TrimSpace(errText.String()))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []explore.Outcome
	return out, json.Unmarshal(b, &out)
}
