//go:build !deadlock || explore

package lock

// OnCycle sets what is done with the reports of the lock-checking build; this build makes none.
func OnCycle(func(Report)) {}
