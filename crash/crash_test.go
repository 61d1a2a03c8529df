package crash

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// seed of the tests; INLINEFS_SEED changes it.
func seed(t *testing.T) int64 {
	t.Helper()
	s := int64(1)
	if v := os.Getenv("INLINEFS_SEED"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			t.Fatalf("INLINEFS_SEED=%q: %v", v, err)
		}
		s = n
	}
	t.Logf("seed %d", s)
	return s
}

// sweep runs a campaign and says what it did.
func sweep(t *testing.T, c Config) Total {
	t.Helper()
	if err := Usable(); err != nil {
		t.Skip(err)
	}
	c.Dir, c.Seed, c.Workers = t.TempDir(), seed(t), 2
	start := time.Now()
	total, err := Sweep(c)
	t.Logf("%d crash points in %d runs, %.0f a second; %d judged by e2fsck; %d writes of journal superblocks, %d logs wrapped around",
		total.Points, total.Runs, total.Since(start), total.Fscks, total.Journals, total.Wraps)
	if err != nil {
		t.Fatal(err)
	}
	return total
}

func TestCrash(t *testing.T) {
	c := Config{Variants: Variants(), Points: 3000, PerRun: 250, Mixes: 3, Fsck: 50, Ops: 400}
	if testing.Short() {
		c.Points, c.PerRun = 600, 50
	}
	if total := sweep(t, c); total.Points < c.Points || total.Journals == 0 {
		t.Errorf("%+v", total)
	}
}

func TestCrashWithoutJournal(t *testing.T) {
	c := Config{Variants: NoJournalVariants(), Points: 60, PerRun: 15, Ops: 250}
	if testing.Short() {
		c.Points = 20
	}
	sweep(t, c)
}
