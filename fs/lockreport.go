package fs

import (
	"inlinefs/internal/lock"
	"inlinefs/journal"
)

// LockReports makes violations of this mount of what the lock-checking build (-tags deadlock) reports, and the mount lives on: a lock order
// that can deadlock is a lock-cycle, a wait over the limit a hang. Without it a report ends the process with status 2, as the tests want it.
// The reports of a process go to the mount that asked last; the function that it returns ends that. Other builds report nothing.
func (f *FileSystem) LockReports() (end func()) {
	if !lock.Checking {
		return func() {}
	}
	lock.OnCycle(func(r lock.Report) {
		class := journal.LockCycle
		if r.Kind == lock.KindWait {
			class = journal.Hang
			f.fs.Live.Hangs.Add(1)
		}
		f.log.Error("lock checker", "kind", r.Kind, "taken", r.Taken, "held", r.Held, "report", r.Text) // each one: a class of violations is logged once
		// Nobody's request has failed: the lock is taken all the same, and the record is what there is to do.
		_ = f.fs.Journal.V.Raise(class, nil, 0, nil, "%s", r.Text)
	})
	return func() { lock.OnCycle(nil) }
}
