//go:build explore

package lock

import (
	"sync"
	"sync/atomic"
)

// Checking says whether lock order is checked in this build, Exploring whether a scheduler decides who runs.
const (
	Checking  = false
	Exploring = true
)

// Kind is what an operation does, for the scheduler and its reports.
type Kind uint8

// The kinds. Queue is a writer of a RWMutex taking its place before the readers that come later; Acquire follows it.
const (
	Acquire Kind = iota
	RAcquire
	Queue
	TryAcquire
	TryRAcquire
	Release
	RRelease
	LoadOp
	StoreOp
	PointOp
	ReadPointOp
	EnterOp
	LeaveOp
	NoteOp
	ChooseOp
	WaitOp
	EndOp
)

var kindNames = [...]string{"acquire", "racquire", "queue", "tryacquire", "tryracquire", "release", "rrelease", "load", "store", "point",
	"readpoint", "enter", "leave", "note", "choose", "wait", "end"}

// String is the kind in lower case, as reports print it.
func (k Kind) String() string { return kindNames[k] }

// Object is what a scheduler knows of a lock or flag: its name, which is the same in every execution, and its own mark.
type Object struct {
	Class    *Class // of a lock; nil without a name
	What     string // kind of shared state: the class's name, or the flag's
	Instance uint64
	RW       bool // a RWMutex: a waiting writer stops new readers
	Reading  bool // the next Lock only reads (Reading)
	Part     Part // what the next Lock touches (Touching); 0 for all

	Epoch uint64 // the scheduler's; Slot is valid in the execution of this number
	Slot  int32  // the scheduler's
}

// AllParts is what a step without Touching touches.
const AllParts Part = 1<<Parts - 1

// TakePart is what the next Lock was said to touch.
func (o *Object) TakePart() Part {
	p := o.Part
	o.Part = 0
	if p == 0 {
		p = AllParts
	}
	return p
}

// Controller decides who runs. Its methods are called by the actor that runs, and return when the actor may go on.
type Controller interface {
	// Lock returns when the lock is the actor's.
	Lock(o *Object, shared bool)
	TryLock(o *Object, shared bool) bool
	Unlock(o *Object, shared bool)
	// Mine says whether the actor that runs holds the lock.
	Mine(o *Object) bool
	// Flag returns when the actor may load (or store, which includes every change) the flag. to is what is stored, for reports.
	Flag(o *Object, store bool, to string)
	// Loaded says what the load just allowed has read, for reports.
	Loaded(v bool)
	Point(what string, instance uint64, read bool)
	Enter(c *Class, instance uint64)
	Leave(c *Class, instance uint64)
	Note(text string)
}

// Control is who decides; nil while nobody does: then locks and flags are those of sync and sync/atomic, for real goroutines. It is
// set only while no goroutine but the actors uses locks of this package.
var Control Controller

// Mutex is sync.Mutex, or the controller's.
type Mutex struct {
	o  Object // immutable but for what the controller changes
	mu sync.Mutex
}

// Lock takes m.
func (m *Mutex) Lock() {
	if c := Control; c != nil {
		c.Lock(&m.o, false)
		return
	}
	m.mu.Lock()
}

// TryLock takes m if it is free.
func (m *Mutex) TryLock() bool {
	if c := Control; c != nil {
		return c.TryLock(&m.o, false)
	}
	return m.mu.TryLock()
}

// Unlock gives m back.
func (m *Mutex) Unlock() {
	if c := Control; c != nil {
		c.Unlock(&m.o, false)
		return
	}
	m.mu.Unlock()
}

// Mine says whether the caller holds m, where that can be told (known): under a scheduler. It is no switch point, since nobody else changes
// the answer.
func Mine(m *Mutex) (mine, known bool) {
	if c := Control; c != nil {
		return c.Mine(&m.o), true
	}
	return false, false
}

// RWMutex is sync.RWMutex, or the controller's. A waiting writer stops new readers, as rw_semaphore does.
type RWMutex struct {
	o  Object // immutable but for what the controller changes
	mu sync.RWMutex
}

// Lock takes m for writing.
func (m *RWMutex) Lock() {
	if c := Control; c != nil {
		m.o.RW = true
		c.Lock(&m.o, false)
		return
	}
	m.mu.Lock()
}

// TryLock takes m for writing if it is free.
func (m *RWMutex) TryLock() bool {
	if c := Control; c != nil {
		m.o.RW = true
		return c.TryLock(&m.o, false)
	}
	return m.mu.TryLock()
}

// Unlock gives m back.
func (m *RWMutex) Unlock() {
	if c := Control; c != nil {
		c.Unlock(&m.o, false)
		return
	}
	m.mu.Unlock()
}

// RLock takes m for reading.
func (m *RWMutex) RLock() {
	if c := Control; c != nil {
		m.o.RW = true
		c.Lock(&m.o, true)
		return
	}
	m.mu.RLock()
}

// TryRLock takes m for reading if no writer has it or waits for it.
func (m *RWMutex) TryRLock() bool {
	if c := Control; c != nil {
		m.o.RW = true
		return c.TryLock(&m.o, true)
	}
	return m.mu.TryRLock()
}

// RUnlock gives a reader's share back.
func (m *RWMutex) RUnlock() {
	if c := Control; c != nil {
		c.Unlock(&m.o, true)
		return
	}
	m.mu.RUnlock()
}

// Bool is a flag that the kernel reads and changes without a lock.
type Bool struct {
	o Object
	v atomic.Bool
}

// Load reads the flag.
func (b *Bool) Load() bool {
	c := Control
	if c == nil {
		return b.v.Load()
	}
	c.Flag(&b.o, false, "")
	v := b.v.Load()
	c.Loaded(v)
	return v
}

// Store sets the flag.
func (b *Bool) Store(v bool) {
	if c := Control; c != nil {
		c.Flag(&b.o, true, boolText(v))
	}
	b.v.Store(v)
}

// Swap sets the flag and returns what it was.
func (b *Bool) Swap(v bool) bool {
	if c := Control; c != nil {
		c.Flag(&b.o, true, boolText(v))
	}
	return b.v.Swap(v)
}

// CompareAndSwap sets the flag to new if it is old.
func (b *Bool) CompareAndSwap(old, new bool) bool {
	if c := Control; c != nil {
		c.Flag(&b.o, true, boolText(new)+" if "+boolText(old))
	}
	return b.v.CompareAndSwap(old, new)
}

func boolText(v bool) string {
	if v {
		return "true"
	}
	return "false"
}

// NameMutex gives m its class and instance (an inode number, a process id, a group, a block).
func NameMutex(m *Mutex, c *Class, instance uint64) { m.o.name(c, instance) }

// NameRW is NameMutex for a RWMutex.
func NameRW(m *RWMutex, c *Class, instance uint64) { m.o.name(c, instance) }

func (o *Object) name(c *Class, instance uint64) { o.Class, o.What, o.Instance = c, c.Name, instance }

// NameBool names a flag; one without a name is no switch point.
func NameBool(b *Bool, what string, instance uint64) { b.o.What, b.o.Instance = what, instance }

// Enter says that the caller now holds something that is ordered like a lock and is none (a handle); Leave that it does no more.
func Enter(c *Class, instance uint64) {
	if ctl := Control; ctl != nil {
		ctl.Enter(c, instance)
	}
}

// Leave is the end of Enter.
func Leave(c *Class, instance uint64) {
	if ctl := Control; ctl != nil {
		ctl.Leave(c, instance)
	}
}

// Point is a step that others may see: where what is a kind of shared state ("alloc", "commit"), instance which one of it.
func Point(what string, instance uint64) {
	if c := Control; c != nil {
		c.Point(what, instance, false)
	}
}

// ReadPoint is Point for a step that only looks.
func ReadPoint(what string, instance uint64) {
	if c := Control; c != nil {
		c.Point(what, instance, true)
	}
}

// Reading says that the caller's next Lock of m only reads what m guards: two such critical sections commute, and the controller lets
// them overlap.
func Reading(m *Mutex) {
	if Control != nil {
		m.o.Reading = true
	}
}

// Touching says that the caller's next Lock of m touches only parts of what m guards: critical sections on different parts commute. There
// must be no switch point within such a section.
func Touching(m *Mutex, parts Part) {
	if Control != nil {
		m.o.Part = parts
	}
}

// Note puts a step into the trace of an exploration: what fn did, which stands for the kernel's function.
func Note(fn, kernel, detail string) {
	if c := Control; c != nil {
		c.Note(fn + " [" + kernel + "]: " + detail)
	}
}

// Scheduled says whether a scheduler decides who runs now.
func Scheduled() bool { return Control != nil }
