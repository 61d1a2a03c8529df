package fs

import (
	"os"
	"strings"
	"testing"

	"inlinefs/internal/lock"
	"inlinefs/internal/testimage"
)

// TestLockReportIsAViolation: a lock taken against the order is counted, told with its report, and the file system lives on.
func TestLockReportIsAViolation(t *testing.T) {
	if !lock.Checking {
		t.Skip("lock order is checked with -tags deadlock")
	}
	m := mountConfig(t, config{img: testimage.Make(t, journalled()), races: true})
	t.Cleanup(m.f.LockReports())
	before := m.f.Report()
	if before.Violations["lock-cycle"] != 0 {
		t.Fatalf("before the crime: %v", before.Violations)
	}
	m.f.orphanMu.Lock()
	m.f.renameMu.Lock()
	m.f.renameMu.Unlock()
	m.f.orphanMu.Unlock()
	r := m.f.Report()
	if r.Violations["lock-cycle"] != 1 || r.First == nil || r.First.Class != "lock-cycle" {
		t.Fatalf("violations %v, first %+v, want one lock-cycle", r.Violations, r.First)
	}
	for _, s := range []string{"s_vfs_rename_mutex taken under s_orphan_lock", "*** DEADLOCK ***", "TestLockReportIsAViolation"} {
		if !strings.Contains(r.First.Message, s) {
			t.Errorf("the report does not say %q:\n%s", s, r.First.Message)
		}
	}
	if l := m.log.find("lock checker kind=rank taken=s_vfs_rename_mutex held=s_orphan_lock"); len(l) != 1 {
		t.Errorf("%d records of the report, want 1: %v", len(l), m.log.find("ERROR"))
	}
	// The locks of the crime work, and so does everything else.
	must(t, os.Mkdir(m.path("d"), 0o700))
	write(t, m.path("f"), pattern(5000, 1))
	must(t, os.Rename(m.path("f"), m.path("d/f")))
	if got := read(t, m.path("d/f")); got != pattern(5000, 1) {
		t.Errorf("%d bytes after the crime, want what was written", len(got))
	}
	f, err := os.OpenFile(m.path("d/f"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, os.Remove(m.path("d/f"))) // open: it goes on the orphan list
	must(t, f.Sync())
	if r := m.f.Report(); r.Violations["lock-cycle"] != 1 {
		t.Errorf("violations %v, want no more of them", r.Violations)
	}
}
