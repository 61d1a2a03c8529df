//go:build explore

package sched

import "testing"

// BenchmarkSteps is scheduling decisions per second, in a program whose steps depend on each other.
func BenchmarkSteps(b *testing.B) {
	for _, c := range []struct {
		name   string
		p      Program
		search func(Program, Options) Result
	}{
		{"reduced", points(2, 12, true, false), Exhaustive},
		{"brute", points(2, 12, true, false), BruteForce},
		{"philosophers", philosophers(6), Exhaustive},
	} {
		b.Run(c.name, func(b *testing.B) {
			var steps int64
			for b.Loop() {
				steps += c.search(c.p, Options{MaxExecutions: 2000}).Steps
			}
			b.ReportMetric(float64(steps)/b.Elapsed().Seconds(), "steps/s")
		})
	}
}
