package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"inlinefs/fs"
	"inlinefs/ondisk"
	"inlinefs/super"
)

// version is the release; a build from a checkout adds its commit.
const version = "0.2.0"

func commit() string {
	if bi, ok := debug.ReadBuildInfo(); ok {
		rev, dirty := "", ""
		for _, s := range bi.Settings {
			switch {
			case s.Key == "vcs.revision":
				rev = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = "+"
			}
		}
		if rev != "" {
			return rev[:min(12, len(rev))] + dirty
		}
	}
	return "unknown"
}

func newVersionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print version, commit, Go version, strategy and supported features",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "inlinefs %s\ncommit: %s\ngo: %s %s/%s\n", version, commit(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			fmt.Fprintf(out, "strategy: %s\nstrategies: %s\n", fs.DefaultStrategy(), strings.Join(fs.Strategies(), " "))
			fmt.Fprintf(out, "incompat: %s\nro_compat: %s\n", ondisk.IncompatNames(super.SupportedIncompat()), ondisk.ROCompatNames(super.SupportedROCompat()))
			return nil
		},
	}
}
