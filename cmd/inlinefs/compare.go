package main

import (
	"fmt"

	"inlinefs/stress"

	"github.com/spf13/cobra"
)

// newCompareCmd is `inlinefs compare`.
func newCompareCmd() *cobra.Command {
	var convicted, cleanOnes []string
	cmd := &cobra.Command{
		Use:   "compare A.json B.json...",
		Short: "set results of stress side by side",
		Long: `Compare sets results of stress --json side by side: violations by class with their rate per write (95 % Clopper-Pearson
interval), conversions, SIGBUS, refused mappings, latencies, the checks of the image, and the timeline of the first violation.

Exit codes: 0, or 1 when an expectation is not met, 2 usage (also a file of another schema).`,
		Args: func(cmd *cobra.Command, args []string) error { return stressUsage(cobra.MinimumNArgs(1)(cmd, args)) },
		RunE: func(cmd *cobra.Command, args []string) error {
			cmd.SilenceUsage = true
			var expect []stress.Expectation
			for _, s := range convicted {
				e, err := stress.ParseConvicted(s)
				if err != nil {
					return stressUsage(err)
				}
				expect = append(expect, e)
			}
			for _, s := range cleanOnes {
				expect = append(expect, stress.Expectation{Strategy: s})
			}
			var results []*stress.Result
			for _, path := range args {
				r, err := stress.Load(path)
				if err != nil {
					return stressUsage(err)
				}
				results = append(results, r)
			}
			met, err := stress.Compare(cmd.OutOrStdout(), results, expect)
			if err != nil {
				return fmt.Errorf("comparison: %w", err)
			}
			if !met {
				return &stress.ExitError{Code: stress.ExitViolation}
			}
			return nil
		},
	}
	cmd.SetFlagErrorFunc(stressFlagError)
	cmd.Flags().StringArrayVar(&convicted, "expect-convicted", nil, "STRATEGY=CLASS: exit 1 unless that strategy broke this rule (repeatable)")
	cmd.Flags().StringArrayVar(&cleanOnes, "expect-clean", nil, "STRATEGY: exit 1 unless that strategy broke no rule (repeatable)")
	return cmd
}
