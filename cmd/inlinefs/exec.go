package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"inlinefs/internal/control"
	"inlinefs/internal/seccomp"
)

const shimName = "exec-shim"

// newExecCmd makes "inlinefs exec MNT -- CMD...". It ends the process with the command's own exit status.
func newExecCmd() *cobra.Command {
	var stats bool
	cmd := &cobra.Command{
		Use:   "exec [--stats] MNT -- CMD [ARG...]",
		Short: "run a command whose shared mappings of files of the mount are announced beforehand",
		Long: `exec runs a command, with all of its threads and children, under a seccomp listener. Each mmap(2) with MAP_SHARED of
a file of the mount MNT that is open for reading and writing is announced to the mount before the mapping exists. If the
mount cannot get the file ready (no space, input/output error), mmap(2) itself fails with that error.

exec ends when the command and everything it has started have ended, with the command's exit status: 128 + N if signal N
killed it, 127 if it was not found, 126 if it cannot be executed, 125 if exec itself does not work.`,
		SilenceUsage:          true,
		DisableFlagsInUseLine: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 1 || len(args) < 2 {
				return &codeError{seccomp.StatusFailed, fmt.Errorf("exec: want one mount point, then --, then a command: %s", cmd.UseLine())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			status, err := runExec(cmd, args[0], args[1:], stats)
			if err != nil {
				fmt.Fprintf(os.Stderr, "inlinefs exec: %v\n", err)
			}
			os.Exit(status)
			return nil
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &codeError{seccomp.StatusFailed, err} })
	cmd.Flags().BoolVar(&stats, "stats", false, "print the numbers of mappings to standard error at the end")
	cmd.AddCommand(newExecShimCmd())
	return cmd
}

// newExecShimCmd makes the program that exec starts to put the filter on itself and to become the command.
func newExecShimCmd() *cobra.Command {
	return &cobra.Command{
		Use:                shimName + " PATH ARGV...",
		Short:              "become a command under the listener of exec",
		Hidden:             true,
		DisableFlagParsing: true,
		Run: func(_ *cobra.Command, args []string) {
			if err := seccomp.ShimMain(args); !errors.Is(err, seccomp.ErrTold) {
				fmt.Fprintf(os.Stderr, "inlinefs %s: %v\n", shimName, err)
			}
			os.Exit(seccomp.StatusFailed)
		},
	}
}

func runExec(cmd *cobra.Command, point string, argv []string, stats bool) (int, error) {
	m, err := control.MountOf(point)
	if err != nil {
		return seccomp.StatusFailed, err
	}
	if m.FSType != control.FSType {
		return seccomp.StatusFailed, fmt.Errorf("%s: not an inlinefs mount: it is on %s, of type %s from %s, want type %s",
			point, m.Point, m.FSType, m.Source, control.FSType)
	}
	status, st, err := seccomp.Run(cmd.Context(), seccomp.Options{
		MountID:  m.ID,
		MountDev: m.Dev,
		Announce: control.AnnounceMmap,
		Argv:     argv,
		Stdin:    os.Stdin,
		Stdout:   os.Stdout,
		Stderr:   os.Stderr,
		Shim:     []string{"/proc/self/exe", "exec", shimName},
		Reap:     true,
	})
	if stats {
		fmt.Fprintf(os.Stderr, "inlinefs exec: shared file mappings: %d notified, %d announced, %d refused, %d not examined\n",
			st.Notified, st.Announced, st.Refused, st.Unseen)
	}
	return status, err
}
