//go:build !explore

package main

import (
	"errors"

	"inlinefs/stress"

	"github.com/spf13/cobra"
)

// newExploreCmd is `inlinefs explore` in a build without the scheduler.
func newExploreCmd() *cobra.Command {
	return &cobra.Command{
		Use:                "explore",
		Short:              "search every interleaving of a few actors (needs a build with -tags explore)",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SilenceUsage = true
			return &codeError{stress.ExitMissing, errors.New("explore needs the scheduler, which costs every lock: build it with " +
				"`go build -tags explore -o inlinefs-explore ./cmd/inlinefs`, or run scripts/explore.sh")}
		},
	}
}
