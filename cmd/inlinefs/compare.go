package main

import (
	"fmt"
	"math"

	"inlinefs/stress"

	"github.com/spf13/cobra"
)

// builtIn stands for the expectations inside the program.
const builtIn = "built-in"

// newCompareCmd is `inlinefs compare`.
func newCompareCmd() *cobra.Command {
	var (
		in                   stress.ComparisonInput
		convicted, cleanOnes []string
		explored, expect     string
	)
	cmd := &cobra.Command{
		Use:   "compare A.json B.json...",
		Short: "set results of stress side by side",
		Long: `Compare gives the verdict on each strategy from results of stress --json: by class, whether it was seen on a mount, how often and after
how long, and with --explore by which schedule in the model; what a fault, a write and a conversion cost; files converted that nobody stored
to; the timeline of the first violation. Up to three results (or --details) are also set side by side, with rates per write and their 95 %
Clopper-Pearson intervals, latencies and the checks of the image.

With --expect it compares with what is written down of each strategy (stress/testdata/expect_NAME): a strategy known to be bad that passes
is as wrong as one known to be good that is convicted.

Exit codes: 0, or 1 when an expectation is not met, 2 usage (also a file of another schema).`,
		Args: func(cmd *cobra.Command, args []string) error { return stressUsage(wantArgs(cmd, args, 1, math.MaxInt)) },
		RunE: func(cmd *cobra.Command, args []string) error {
			cmd.SilenceUsage = true
			for _, s := range convicted {
				e, err := stress.ParseConvicted(s)
				if err != nil {
					return stressUsage(err)
				}
				in.Expect = append(in.Expect, e)
			}
			for _, s := range cleanOnes {
				in.Expect = append(in.Expect, stress.Expectation{Strategy: s})
			}
			if explored != "" {
				var err error
				if in.Models, err = stress.LoadModels(explored); err != nil {
					return stressUsage(err)
				}
			}
			if in.Foreseen = cmd.Flags().Changed("expect"); in.Foreseen && expect != builtIn {
				in.ForesightDir = expect
			}
			for _, path := range args {
				r, err := stress.Load(path)
				if err != nil {
					return stressUsage(err)
				}
				in.Results = append(in.Results, r)
			}
			met, err := stress.Compare(cmd.OutOrStdout(), in)
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
	cmd.Flags().StringVar(&expect, "expect", "", "exit 1 unless every strategy did what is expected of it; with =DIR as DIR/expect_NAME says")
	cmd.Flags().Lookup("expect").NoOptDefVal = builtIn
	cmd.Flags().StringVar(&explored, "explore", "", "file of explore --json: what the model says of the strategies")
	cmd.Flags().BoolVar(&in.Details, "details", false, "show every result in a column of its own")
	return cmd
}
