package main

import (
	"bufio"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"inlinefs/blockdev"
	"inlinefs/check"
	"inlinefs/internal/fserr"
	"inlinefs/stress"
)

// newDumpCmd makes "inlinefs dump IMAGE [PATH|<ino>]".
func newDumpCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "dump IMAGE [PATH|<INO>]",
		Short: "show the superblock and the groups of an unmounted image, or one inode",
		Long: `dump shows the superblock, the journal's state and the block groups of an image. With a path from the root, or an inode
number in angle brackets ("<12>"), it shows that inode: its fields, mapping, attributes, inline bytes and how many there
could be, a symlink's target, a directory's entries. An image in use is waited for, at most ` + lockWait.String() + `.

Exit codes: 0, 2 usage (also no such file in the image), 3 the image cannot be read.`,
		DisableFlagsInUseLine: true,
		SilenceUsage:          true,
		Args:                  func(cmd *cobra.Command, args []string) error { return stressUsage(wantArgs(cmd, args, 1, 2)) },
		RunE: func(cmd *cobra.Command, args []string) error {
			dev, err := openWaiting(cmd.Context(), args[0], blockdev.FileOptions{ReadOnly: true})
			if err != nil {
				return &stress.ExitError{Code: stress.ExitMissing, Err: err}
			}
			target := ""
			if len(args) == 2 {
				if target = args[1]; target == "" {
					target = "/"
				}
			}
			out := bufio.NewWriter(cmd.OutOrStdout())
			err = check.Dump(out, dev, target)
			if err := errors.Join(err, out.Flush(), dev.Close()); err != nil {
				code := stress.ExitMissing
				if errors.Is(err, fserr.NotExist) || errors.Is(err, fserr.NotDir) || errors.Is(err, fserr.Invalid) {
					code = stress.ExitUsage
				}
				return &stress.ExitError{Code: code, Err: fmt.Errorf("%s: %w", args[0], err)}
			}
			return nil
		},
	}
}
