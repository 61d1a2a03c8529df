package journal

import "inlinefs/mm"

// Task stands for the kernel's current task during one request. It is used by one goroutine at a time.
type Task struct {
	// ID numbers the tasks of a mount from 1.
	ID uint64
	// Op is the request: "write", "fault", "writepage", "create"...
	Op string
	// Pid is the client's thread id, 0 for write-back.
	Pid uint32
	// UID is the client's user id; only the owner of reserved blocks may use them.
	UID uint32
	// InFault says that the client sleeps in a page fault while this task runs.
	InFault bool

	// Mm is the client's side of the request, nil where it is not shadowed.
	Mm *mm.Thread
	// NoRetry says that the fault may not drop mmap_lock (FAULT_FLAG_ALLOW_RETRY is not set): some get_user_pages callers.
	NoRetry bool

	journal *Journal
	current *Handle
}

// NewTask begins a request.
func (j *Journal) NewTask(op string, pid uint32) *Task {
	return &Task{ID: j.tasks.Add(1), Op: op, Pid: pid, journal: j}
}

// Current is the task's open handle (journal_current_handle), nil when there is none.
func (t *Task) Current() *Handle { return t.current }

// End closes the request. An open handle is a violation; it is stopped so that the mount lives on.
func (t *Task) End() error {
	h := t.current
	if h == nil {
		return nil
	}
	err := t.journal.V.Raise(LeakedHandle, t, h.ino, h.opener, "task %d (%s) ends with a handle of type %s open, count %d", t.ID, t.Op, h.typ, h.ref)
	// What went wrong under the handle was told to whoever did it.
	h.ref = 1
	_ = h.Stop()
	return err
}
