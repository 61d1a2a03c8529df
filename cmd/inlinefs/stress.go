package main

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"inlinefs/stress"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
)

const stressLong = `Stress races write(2) against page faults of shared mappings on inline files and judges what comes out.

It makes an image (or takes one, --image, which is changed in place), mounts it with this program, starts writers and mappers as
processes of their own, and reads back what they leave. Then it unmounts and checks the image with e2fsck and inlinefs check.

Scenarios (--scenario), joined by commas:
  seed           8 MiB whose group 0 claims 150994969 free blocks: every conversion of an inline file fails (default)
  enospc         a healthy image without a free block: the same for another reason
  healthy        64 MiB: conversions succeed
  mapped-buffer  some writes take their bytes out of a mapping of the mount, and so fault themselves
  two-files      two pairs of workers on two files; with mapped-buffer each writes out of a mapping of the other's file
  late-open      appends and mapped sources use descriptors opened in the middle of the race
  one-process    the workers are threads of one process (default: two-processes)
and, as in seed,write-fallocate, one of the races beside the main one, with an image of its own when none is named (--list tells what each
mirrors):
%s

Exit codes: 0 no violation, 1 violation found (or no result, for the reason printed), 2 usage (also an option or an --image that the mount
refuses), 3 something is missing on this machine (it is named), 4 hang.`

// newStressCmd is `inlinefs stress`.
func newStressCmd() *cobra.Command {
	var (
		c           stress.Config
		jsonPath    string
		quiet, list bool
	)
	cmd := &cobra.Command{
		Use:   "stress",
		Short: "race write(2) against page faults on a real mount",
		Long:  fmt.Sprintf(stressLong, siblingNames()),
		Args:  stressNoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SilenceUsage = true
			if list {
				return stress.ListSiblings(cmd.OutOrStdout())
			}
			if !cmd.Flags().Changed("seed") {
				c.Seed = stressSeed()
			}
			if !quiet {
				c.Progress = cmd.ErrOrStderr()
				c.Terminal = cmd.ErrOrStderr() == os.Stderr && isatty.IsTerminal(os.Stderr.Fd())
			}
			return runStress(cmd, c, jsonPath)
		},
	}
	cmd.SetFlagErrorFunc(stressFlagError)
	f := cmd.Flags()
	f.StringVar(&c.Scenario, "scenario", "", "image and modifiers, see above (default seed)")
	f.DurationVar(&c.Duration, "duration", 0, "end after this time (default 20s when --iterations is not given)")
	f.Int64Var(&c.Iterations, "iterations", 0, "end after so many rounds (0: no bound)")
	f.Uint64Var(&c.Seed, "seed", 0, "seed of all choices (default: random, printed)")
	f.IntVar(&c.Writers, "writers", 0, "writers (default one per file)")
	f.IntVar(&c.Mappers, "mappers", 0, "mappers (default one per file)")
	f.IntVar(&c.Files, "files", 0, "files per round (default 1, with two-files 2)")
	f.IntVar(&c.Writes, "writes", 0, "writes per writer and round (default 200, healthy 24)")
	f.DurationVar(&c.Window, "window", 0, "widen the race by this time (mount option window)")
	f.StringVar(&jsonPath, "json", "", "write the result to this file")
	f.StringVar(&c.Image, "image", "", "mount this image, in place, instead of making one")
	f.StringVar(&c.Mountpoint, "mountpoint", "", "work below this directory of a mounted file system instead of mounting an image")
	f.StringVar(&c.Strategy, "strategy", "", "refuse a mount whose strategy is another")
	f.StringVar(&c.Conversion, "conversion", "", "mount with this strategy (mount option conversion)")
	f.BoolVar(&c.Expected, "expected", false, "go on past --duration until every class was seen that the strategy must show in this scenario")
	f.StringArrayVar(&c.Until, "until", nil, "go on past --duration until this class was seen (repeatable)")
	f.DurationVar(&c.AtMost, "at-most", 0, "bound for --until and --expected (default 30s)")
	f.BoolVar(&list, "list", false, "print the races beside the main one, what each mirrors and what inlinefs does, and end")
	f.BoolVar(&c.Announce, "announce", true, "announce each mapping to the mount before it is made")
	f.StringVar(&c.Mmap, "mmap", "observe", "mount option mmap: observe, direct or cached")
	f.BoolVar(&c.Journal, "journal", false, "make the image with a journal")
	f.BoolVar(&c.Keep, "keep", false, "keep the image and say where it is")
	f.BoolVar(&quiet, "quiet", false, "no progress lines")
	f.BoolVar(&c.KnowsItCrashes, "i-know-it-crashes", false, "work even on an ext4 of this machine's kernel, which the race may stop")
	cmd.AddCommand(&cobra.Command{
		Use:    "worker",
		Short:  "one worker process of stress (internal)",
		Hidden: true,
		Args:   stressNoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SilenceUsage = true
			return stress.WorkerMain(os.Stdin, os.Stdout)
		},
	})
	return cmd
}

// siblingNames lists the races beside the main one for the help, in lines.
func siblingNames() string {
	var b strings.Builder
	width := 0
	for _, s := range stress.Siblings() {
		if width == 0 || width+len(s.Name) > 100 {
			if width > 0 {
				b.WriteString("\n")
			}
			b.WriteString(" ")
			width = 1
		}
		b.WriteString(" " + s.Name)
		width += 1 + len(s.Name)
	}
	return b.String()
}

func runStress(cmd *cobra.Command, c stress.Config, jsonPath string) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if c.Progress != nil {
		fmt.Fprintf(c.Progress, "seed %d\n", c.Seed)
	}
	if jsonPath != "" {
		// Found out now, not after the race.
		if _, err := os.Stat(filepath.Dir(jsonPath)); err != nil {
			return stressUsage(fmt.Errorf("--json %s: %w", jsonPath, err))
		}
	}
	res, err := stress.Run(ctx, c)
	if err != nil {
		return err
	}
	if jsonPath != "" {
		if err := res.Save(jsonPath); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprint(cmd.OutOrStdout(), res.Summary()); err != nil {
		return fmt.Errorf("summary: %w", err)
	}
	if code := res.ExitCode(); code != 0 {
		// The summary has said it all.
		return &stress.ExitError{Code: code}
	}
	return nil
}

// stressNoArgs and stressFlagError give cobra's complaints about a command line the exit code for usage.
func stressNoArgs(cmd *cobra.Command, args []string) error {
	return stressUsage(cobra.NoArgs(cmd, args))
}

func stressFlagError(_ *cobra.Command, err error) error { return stressUsage(err) }

func stressUsage(err error) error {
	var exit *stress.ExitError
	if err == nil || errors.As(err, &exit) {
		return err
	}
	return &stress.ExitError{Code: stress.ExitUsage, Err: err}
}

func stressSeed() uint64 {
	var b [8]byte
	// Read never returns an error. 53 bits survive any reader of JSON.
	_, _ = rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:]) >> 11
}
