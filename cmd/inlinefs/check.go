package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/spf13/cobra"

	"inlinefs/blockdev"
	"inlinefs/check"
	"inlinefs/stress"
)

// lockWait is how long mount, check and dump wait for an image that another process holds: a daemon may still be writing it back after
// its mount point is gone.
const lockWait = 5 * time.Second

// lockPoll is the pause between two attempts.
const lockPoll = 50 * time.Millisecond

// newCheckCmd makes "inlinefs check IMAGE".
func newCheckCmd() *cobra.Command {
	var asJSON, quiet bool
	cmd := &cobra.Command{
		Use:   "check [--json] [-q] IMAGE",
		Short: "say what is wrong with an unmounted image",
		Long: `check reads an image on its own, without the code that mounts it, and prints one line for each thing that is wrong, with
its class first. It looks at what e2fsck looks at and at inline files that claim more bytes than they have. It changes
nothing. An image in use is waited for, at most ` + lockWait.String() + `.

With --json one object is printed: "clean" (true or false) and "findings" (a list of "class: text").

Exit codes: 0 clean, 1 findings, 2 usage, 3 the image cannot be read.`,
		DisableFlagsInUseLine: true,
		SilenceUsage:          true,
		Args:                  func(cmd *cobra.Command, args []string) error { return stressUsage(wantArgs(cmd, args, 1, 1)) },
		RunE: func(cmd *cobra.Command, args []string) error {
			dev, err := openWaiting(cmd.Context(), args[0], blockdev.FileOptions{ReadOnly: true})
			if err != nil {
				return &stress.ExitError{Code: stress.ExitMissing, Err: err}
			}
			rep, err := check.Image(dev, check.Options{})
			if err := errors.Join(err, dev.Close()); err != nil {
				return &stress.ExitError{Code: stress.ExitMissing, Err: fmt.Errorf("%s: %w", args[0], err)}
			}
			if err := printReport(cmd.OutOrStdout(), args[0], rep, asJSON, quiet); err != nil {
				return &stress.ExitError{Code: stress.ExitMissing, Err: fmt.Errorf("print the findings: %w", err)}
			}
			if !rep.Clean() {
				return &stress.ExitError{Code: stress.ExitViolation}
			}
			return nil
		},
	}
	cmd.SetFlagErrorFunc(stressFlagError)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print findings only, no summary")
	return cmd
}

// wantArgs is an error that shows the usage unless there are from least to most arguments.
func wantArgs(cmd *cobra.Command, args []string, least, most int) error {
	if n := len(args); n < least && most == math.MaxInt {
		return fmt.Errorf("%s: %d arguments, want at least %d, usage: %s", cmd.Name(), n, least, cmd.UseLine())
	} else if n < least || n > most {
		return fmt.Errorf("%s: %d arguments, usage: %s", cmd.Name(), n, cmd.UseLine())
	}
	return nil
}

// openWaiting opens an image, waiting while another process holds it, lockWait at most.
func openWaiting(ctx context.Context, path string, o blockdev.FileOptions) (*blockdev.File, error) {
	return openWithin(ctx, path, o, lockWait)
}

// openWithin is openWaiting with another bound.
func openWithin(ctx context.Context, path string, o blockdev.FileOptions, bound time.Duration) (*blockdev.File, error) {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		dev, err := blockdev.OpenFile(path, o)
		if err == nil || !errors.Is(err, blockdev.ErrBusy) {
			return dev, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waited %v: %w", bound, err)
		case <-poll.C:
		}
	}
}

// printReport prints the findings as text or as JSON.
func printReport(w io.Writer, path string, rep check.Report, asJSON, quiet bool) error {
	lines := make([]string, 0, len(rep.Findings))
	for _, f := range rep.Findings {
		lines = append(lines, f.String())
	}
	if asJSON {
		return json.NewEncoder(w).Encode(struct {
			Clean    bool     `json:"clean"`
			Findings []string `json:"findings"`
		}{rep.Clean(), lines})
	}
	for _, l := range lines {
		if _, err := fmt.Fprintln(w, l); err != nil {
			return err
		}
	}
	if quiet {
		return nil
	}
	verdict := "clean"
	switch n := len(lines); n {
	case 0:
	case 1:
		verdict = "1 finding"
	default:
		verdict = fmt.Sprintf("%d findings", n)
	}
	_, err := fmt.Fprintf(w, "%s: %s; %d inodes in use (%d directories, %d inline), %d blocks in use\n", path, verdict, rep.Inodes,
		rep.Directories, rep.InlineInodes, rep.Blocks)
	return err
}
