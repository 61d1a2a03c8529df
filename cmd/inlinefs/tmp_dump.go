package main
import "github.com/spf13/cobra"
func newDumpCmd() *cobra.Command { return &cobra.Command{Use:"dump"} }
