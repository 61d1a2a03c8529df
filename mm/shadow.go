package mm

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"inlinefs/internal/lock"
)

// While a client's thread sleeps in the daemon inside a fault or an mmap(2), the kernel holds locks for it that the daemon cannot see.
// The shadow mirrors them, so that a strategy which waits for the inode lock under mmap_lock is caught as the kernel would be caught.

// AddressSpace stands for one client process's mm_struct.
type AddressSpace struct {
	// Tgid is the process id.
	Tgid uint32 // immutable
	// MmapLock is mmap_lock: shared in a fault and in a copy from the user's buffer, exclusive in mmap(2).
	MmapLock lock.RWMutex // own lock
	// NoRetry says that the process's faults come from callers that may not drop mmap_lock (get_user_pages without FOLL_UNLOCKABLE).
	NoRetry bool // immutable
}

// NewAddressSpace returns the space of process tgid.
func NewAddressSpace(tgid uint32) *AddressSpace {
	a := &AddressSpace{Tgid: tgid}
	lock.NameRW(&a.MmapLock, lock.MmapLock, uint64(tgid))
	return a
}

// LockID names one lock: a class and an instance (process id, inode number).
type LockID struct {
	Class    *lock.Class
	Instance uint64
}

// String is "i_rwsem(12)".
func (l LockID) String() string { return fmt.Sprintf("%s(%d)", l.Class.Name, l.Instance) }

// Thread is the client's thread while one request of it is served. A nil Thread is not shadowed: its methods do nothing.
type Thread struct {
	op     string        // immutable
	tid    uint32        // immutable
	task   uint64        // immutable
	Space  *AddressSpace // immutable once the request runs
	shadow *Shadow       // immutable

	broken atomic.Bool
	held   []heldLock // guarded by shadow.mu
	wait   *waiting   // guarded by shadow.mu
}

type heldLock struct {
	id    LockID
	write bool
}

type waiting struct {
	id       LockID
	write    bool
	since    time.Time
	killable bool
}

// Shadow is what a mount knows of its clients' locks. A nil Shadow hands out nil Threads.
type Shadow struct {
	// Spaces gives the address space of a client's thread; nil asks /proc. Immutable after the first Begin.
	Spaces func(tid uint32) *AddressSpace // immutable
	// OnCycle hears of a lock order that can deadlock, once for each pair of classes, and of each deadlock that was broken. It is called
	// without the shadow's lock. Immutable after the first Begin.
	OnCycle func(t *Thread, text string) // immutable

	mu      sync.Mutex
	spaces  map[uint32]*AddressSpace    // guarded by mu; by thread id
	byTgid  map[uint32]*AddressSpace    // guarded by mu
	threads map[*Thread]struct{}        // guarded by mu; those that wait or hold
	order   map[[2]*lock.Class]string   // guarded by mu; who first took the second under the first
	told    map[[2]*lock.Class]struct{} // guarded by mu
}

// NewShadow returns an empty shadow.
func NewShadow() *Shadow {
	return &Shadow{spaces: map[uint32]*AddressSpace{}, byTgid: map[uint32]*AddressSpace{}, threads: map[*Thread]struct{}{},
		order: map[[2]*lock.Class]string{}, told: map[[2]*lock.Class]struct{}{}}
}

// Begin is the start of a request of client thread tid; op and the task's number tell it in reports.
func (s *Shadow) Begin(tid uint32, op string, task uint64) *Thread {
	if s == nil {
		return nil
	}
	t := &Thread{op: op, tid: tid, task: task, shadow: s}
	if s.Spaces != nil {
		t.Space = s.Spaces(tid)
	} else {
		t.Space = s.space(tid)
	}
	return t
}

// Name is "task 7 (write, pid 345)".
func (t *Thread) Name() string { return fmt.Sprintf("task %d (%s, pid %d)", t.task, t.op, t.tid) }

// maxSpaces bounds the memory of thread ids; past it all are looked up anew. A reused id shares a lock with strangers at worst.
const maxSpaces = 4096

// space finds the address space of a thread. Its process is asked of /proc once; a thread that is gone, or the flusher (0), has none.
func (s *Shadow) space(tid uint32) *AddressSpace {
	if tid == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.spaces[tid]; ok {
		return a
	}
	tgid := tgidOf(tid)
	if tgid == 0 {
		return nil
	}
	if len(s.spaces) >= maxSpaces {
		clear(s.spaces)
		clear(s.byTgid)
	}
	a := s.byTgid[tgid]
	if a == nil {
		a = NewAddressSpace(tgid)
		s.byTgid[tgid] = a
	}
	s.spaces[tid] = a
	return a
}

// tgidOf reads the process of a thread from /proc, 0 when it is gone. That takes none of its locks.
func tgidOf(tid uint32) uint32 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return 0
	}
	_, rest, ok := bytes.Cut(b, []byte("\nTgid:"))
	if !ok {
		return 0
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	n, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 10, 32)
	if err != nil {
		return 0
	}
	return uint32(n)
}

// Wait says that t is about to take id. An order that was seen the other way round is reported at once: nobody needs to hang for it.
func (t *Thread) Wait(id LockID, write, killable bool) {
	if t == nil {
		return
	}
	s := t.shadow
	s.mu.Lock()
	t.wait = &waiting{id: id, write: write, since: time.Now(), killable: killable}
	s.threads[t] = struct{}{}
	text := ""
	for _, h := range t.held {
		if x := s.learn(t, h.id, id); text == "" {
			text = x
		}
	}
	s.mu.Unlock()
	if text != "" && s.OnCycle != nil {
		s.OnCycle(t, text)
	}
}

// learn notes that class b was taken under class a; the text of a cycle if that closes one. The caller holds mu.
func (s *Shadow) learn(t *Thread, a, b LockID) string {
	if a.Class == b.Class {
		return ""
	}
	key := [2]*lock.Class{a.Class, b.Class}
	if _, known := s.order[key]; known {
		return ""
	}
	s.order[key] = fmt.Sprintf("%s took %s under %s", t.Name(), b, a)
	path := s.path(b.Class, a.Class, nil)
	if path == nil {
		return ""
	}
	if _, told := s.told[key]; told {
		return ""
	}
	s.told[key] = struct{}{}
	return s.scenario(key, path)
}

// path is a chain of known orders from class a to class b, nil if there is none. The caller holds mu.
func (s *Shadow) path(a, b *lock.Class, seen []*lock.Class) []*lock.Class {
	if a == b {
		return []*lock.Class{b}
	}
	for key := range s.order {
		if key[0] != a || slices.Contains(seen, key[1]) {
			continue
		}
		if p := s.path(key[1], b, append(seen, a)); p != nil {
			return append([]*lock.Class{a}, p...)
		}
	}
	return nil
}

// scenario draws the cycle in lockdep's manner. The caller holds mu.
func (s *Shadow) scenario(key [2]*lock.Class, path []*lock.Class) string {
	var b strings.Builder
	b.WriteString("possible circular locking dependency\n")
	fmt.Fprintf(&b, "  -> #%d: %s\n", len(path)-1, s.order[key])
	for n := 0; n+1 < len(path); n++ {
		fmt.Fprintf(&b, "  -> #%d: %s\n", len(path)-2-n, s.order[[2]*lock.Class{path[n], path[n+1]}])
	}
	last := path[len(path)-2]
	fmt.Fprintf(&b, " Possible unsafe locking scenario:\n%8s%-30s%s\n", "", "CPU0", "CPU1")
	step := func(cpu int, c *lock.Class) {
		fmt.Fprintf(&b, "%8s%slock(%s);\n", "", strings.Repeat(" ", 30*cpu), c.Name)
	}
	step(0, key[0])
	step(1, last)
	step(1, key[0])
	step(0, key[1])
	b.WriteString(" *** DEADLOCK ***")
	return b.String()
}

// Own says that t holds id now.
func (t *Thread) Own(id LockID, write bool) {
	if t == nil {
		return
	}
	t.shadow.mu.Lock()
	t.wait = nil
	t.held = append(t.held, heldLock{id, write})
	t.shadow.threads[t] = struct{}{}
	t.shadow.mu.Unlock()
}

// GiveUp says that t does not wait any more, and has nothing.
func (t *Thread) GiveUp() {
	if t == nil {
		return
	}
	t.shadow.mu.Lock()
	t.wait = nil
	t.forget()
	t.shadow.mu.Unlock()
}

// Drop says that t gave id back.
func (t *Thread) Drop(id LockID) {
	if t == nil {
		return
	}
	t.shadow.mu.Lock()
	for k := len(t.held) - 1; k >= 0; k-- {
		if t.held[k].id == id {
			t.held = slices.Delete(t.held, k, k+1)
			break
		}
	}
	t.forget()
	t.shadow.mu.Unlock()
}

// forget takes an idle thread out of the shadow. The caller holds mu.
func (t *Thread) forget() {
	if len(t.held) == 0 && t.wait == nil {
		delete(t.shadow.threads, t)
	}
}

// Broken says that the watchdog has chosen t to give up: it waits in a deadlock.
func (t *Thread) Broken() bool { return t != nil && t.broken.Load() }

// BreakDeadlocks finds threads that wait for one another since at least age, names the cycle through OnCycle, and breaks it at a thread that
// can give up. It returns how many it found.
func (s *Shadow) BreakDeadlocks(age time.Duration) int {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	type found struct {
		t    *Thread
		text string
	}
	var out []found
	for t := range s.threads {
		if t.wait == nil || !t.wait.killable || t.broken.Load() || time.Since(t.wait.since) < age {
			continue
		}
		if cycle := s.cycle(t, t, nil); cycle != nil {
			t.broken.Store(true)
			out = append(out, found{t, "deadlock: " + strings.Join(cycle, ", ") + "; broken at " + t.Name()})
		}
	}
	s.mu.Unlock()
	for _, f := range out {
		if s.OnCycle != nil {
			s.OnCycle(f.t, f.text)
		}
	}
	return len(out)
}

// cycle follows who waits for whom from t back to goal. The caller holds mu.
func (s *Shadow) cycle(t, goal *Thread, seen []*Thread) []string {
	if t.wait == nil || slices.Contains(seen, t) {
		return nil
	}
	seen = append(seen, t)
	for o := range s.threads {
		if o == t || !s.blocks(o, t) {
			continue
		}
		line := fmt.Sprintf("%s waits for %s of %s", t.Name(), t.wait.id, o.Name())
		if o == goal {
			return []string{line}
		}
		if rest := s.cycle(o, goal, seen); rest != nil {
			return append([]string{line}, rest...)
		}
	}
	return nil
}

// blocks says whether o keeps t from its lock: it holds it, or waits for it exclusively while t wants it shared (a waiting writer stops
// new readers). The caller holds mu.
func (s *Shadow) blocks(o, t *Thread) bool {
	for _, h := range o.held {
		if h.id == t.wait.id && (h.write || t.wait.write) {
			return true
		}
	}
	return o.wait != nil && o.wait.id == t.wait.id && o.wait.write && !t.wait.write
}

// mmapID is the lock of t's address space.
func (t *Thread) mmapID() LockID { return LockID{lock.MmapLock, uint64(t.Space.Tgid)} }

// LockMmap takes mmap_lock exclusively, as mmap(2) does before ->mmap.
func (t *Thread) LockMmap() {
	if t == nil || t.Space == nil {
		return
	}
	t.Wait(t.mmapID(), true, false)
	t.Space.MmapLock.Lock()
	t.Own(t.mmapID(), true)
}

// UnlockMmap gives it back.
func (t *Thread) UnlockMmap() {
	if t == nil || t.Space == nil {
		return
	}
	t.Drop(t.mmapID())
	t.Space.MmapLock.Unlock()
}

// RLockMmap takes mmap_lock shared, as a fault does.
func (t *Thread) RLockMmap() {
	if t == nil || t.Space == nil {
		return
	}
	t.Wait(t.mmapID(), false, false)
	t.Space.MmapLock.RLock()
	t.Own(t.mmapID(), false)
}

// RUnlockMmap gives it back.
func (t *Thread) RUnlockMmap() {
	if t == nil || t.Space == nil {
		return
	}
	t.Drop(t.mmapID())
	t.Space.MmapLock.RUnlock()
}

// CopyFromUser stands for the copy from write(2)'s buffer: it may fault, and a fault takes mmap_lock (might_fault in the kernel). The worst
// case is taken: the buffer is not resident.
func (t *Thread) CopyFromUser() {
	t.RLockMmap()
	t.RUnlockMmap()
}
