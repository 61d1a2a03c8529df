package journal

import (
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"

	"inlinefs/internal/event"
	"inlinefs/internal/fserr"
)

// Class is a kind of broken rule.
type Class string

// The classes, with the kernel check that each one stands for in mirrors below.
const (
	NilHandle       Class = "nil-handle"
	LeakedHandle    Class = "leaked-handle"
	NotOwner        Class = "not-owner"
	NotCurrent      Class = "not-current"
	ForeignJournal  Class = "foreign-journal"
	NestingLimit    Class = "nesting-limit"
	ModeMismatch    Class = "mode-mismatch"
	NoWriteAccess   Class = "no-write-access"
	NoCredits       Class = "no-credits"
	TooManyCredits  Class = "too-many-credits"
	StaleHandle     Class = "stale-handle"
	BufferLocked    Class = "buffer-locked"
	BufferUnlocked  Class = "buffer-unlocked"
	ForeignBuffer   Class = "foreign-buffer"
	InlineWriteback Class = "inline-writeback"
	HandleInFault   Class = "handle-in-fault"
	Unmounting      Class = "journal-unmounting"
	Hang            Class = "hang"
	LockCycle       Class = "lock-cycle"
)

var mirrors = map[Class]string{
	NilHandle:       "BUG_ON(ref_cnt == 0), ext4_put_nojournal / __ext4_journal_stop",
	LeakedHandle:    "current->journal_info must be NULL at syscall exit",
	NotOwner:        "J_ASSERT(journal_current_handle() == handle), jbd2_journal_stop",
	NotCurrent:      "J_ASSERT(journal_current_handle() == handle), jbd2_journal_stop",
	ForeignJournal:  "WARN_ON(handle->h_transaction->t_journal != journal), jbd2__journal_start",
	NestingLimit:    "BUG_ON(ref_cnt >= EXT4_NOJOURNAL_MAX_REF_COUNT), ext4_get_nojournal",
	ModeMismatch:    "ext4_write_end derives the mode again instead of using write_begin's",
	NoWriteAccess:   "J_ASSERT_JH(jh, jh->b_transaction == handle->h_transaction), jbd2_journal_dirty_metadata",
	NoCredits:       "WARN_ON_ONCE(jbd2_handle_buffer_credits(handle) <= 0), jbd2_journal_dirty_metadata",
	TooManyCredits:  "JBD2: wants too many credits, start_this_handle",
	StaleHandle:     "stopped handle used again",
	BufferLocked:    "sync_dirty_buffer under the buffer lock deadlocks, ext4_handle_dirty_metadata",
	BufferUnlocked:  "J_ASSERT_JH(jh, buffer_locked(jh2bh(jh))), jbd2_journal_get_create_access",
	ForeignBuffer:   "J_ASSERT_JH(jh, jh->b_transaction == transaction || NULL), jbd2_journal_get_create_access",
	InlineWriteback: "BUG_ON(ext4_test_inode_state(inode, EXT4_STATE_MAY_INLINE_DATA)), ext4_do_writepages",
	HandleInFault:   "page fault while a handle is open",
	Unmounting:      "BUG_ON(journal->j_flags & JBD2_UNMOUNT), start_this_handle",
	LockCycle:       "WARNING: possible circular locking dependency detected (lockdep)",
	Hang:            "INFO: task blocked for more than 120 seconds",
}

// ViolationError is what the caller that broke a rule gets; it is an fserr.IO (or fserr.NoSpace for too many credits).
type ViolationError struct {
	Class   Class
	Message string
}

// Error names the class.
func (e *ViolationError) Error() string { return "violation " + string(e.Class) + ": " + e.Message }

// Unwrap makes it an I/O error, or ENOSPC for a request that no journal could hold.
func (e *ViolationError) Unwrap() error {
	if e.Class == TooManyCredits {
		return fserr.NoSpace
	}
	return fserr.IO
}

// Violations collects broken rules of one mount.
type Violations struct {
	log      *slog.Logger                   // immutable
	strategy string                         // immutable
	events   func(ino uint64) []event.Event // immutable

	mu     sync.Mutex
	counts map[Class]int64  // guarded by mu
	first  *event.Violation // guarded by mu
}

// NewViolations returns an empty collection. events gives the last events of an inode for the record.
func NewViolations(log *slog.Logger, strategy string, events func(ino uint64) []event.Event) *Violations {
	return &Violations{log: log, strategy: strategy, events: events, counts: map[Class]int64{}}
}

// Raise records a violation by task t (nil when none) on inode ino (0 when none) and returns the error for the caller.
// opener is the stack that began what was broken; nil stands for that of the task's open handle, if it has one. A Hang is raised by
// another goroutine than the task's, which asks for no handle.
func (v *Violations) Raise(c Class, t *Task, ino uint64, opener []uintptr, format string, a ...any) error {
	e := &ViolationError{Class: c, Message: fmt.Sprintf(format, a...)}
	var task uint64
	if t != nil {
		task = t.ID
		if c != Hang && opener == nil && t.current != nil {
			opener = t.current.opener
		}
	}
	v.mu.Lock()
	v.counts[c]++
	n := v.counts[c]
	keep := v.first == nil || v.first.Class != string(NilHandle) && c == NilHandle
	v.mu.Unlock()
	if n > 1 && !keep {
		return e
	}
	rec := &event.Violation{Class: string(c), Strategy: v.strategy, Ino: ino, Mirror: mirrors[c], Message: e.Message, Task: task,
		Opener: frames(opener), Breaker: frames(callers(2))}
	if v.events != nil && ino != 0 {
		rec.Events = v.events(ino)
	}
	if n == 1 {
		v.log.Error("------------[ cut here ]------------ "+e.Error(), "ino", ino, "task", task, "mirrors", rec.Mirror,
			"opener", strings.Join(rec.Opener, " < "), "breaker", strings.Join(rec.Breaker, " < "))
	}
	v.mu.Lock()
	if v.first == nil || v.first.Class != string(NilHandle) && c == NilHandle {
		v.first = rec
	}
	v.mu.Unlock()
	return e
}

// Counts is the number of violations by class.
func (v *Violations) Counts() map[string]int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make(map[string]int64, len(v.counts))
	for c, n := range v.counts {
		out[string(c)] = n
	}
	return out
}

// First is the first violation, one of nil-handle if there was any.
func (v *Violations) First() *event.Violation {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.first
}

// callers records the program counters of the caller's caller's stack.
func callers(skip int) []uintptr {
	var pcs [16]uintptr
	n := runtime.Callers(skip+1, pcs[:])
	return append([]uintptr(nil), pcs[:n]...)
}

// frames prints program counters as "function (file:line)", innermost first, without the runtime and the transport.
func frames(pcs []uintptr) []string {
	if len(pcs) == 0 {
		return nil
	}
	var out []string
	it := runtime.CallersFrames(pcs)
	for {
		f, more := it.Next()
		fn := strings.TrimPrefix(f.Function, "inlinefs/")
		if strings.HasPrefix(fn, "runtime.") || strings.Contains(fn, "go-fuse") {
			break
		}
		if fn != "" && !strings.HasPrefix(fn, "journal.(*Violations)") {
			out = append(out, fmt.Sprintf("%s:%d", fn, f.Line))
		}
		if !more {
			break
		}
	}
	return out
}
