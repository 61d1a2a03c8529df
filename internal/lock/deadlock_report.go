//go:build deadlock && !explore

package lock

import (
	"fmt"
	"os"
	"path"
	"runtime"
	"strings"
	"sync/atomic"
)

var onCycle atomic.Pointer[func(Report)]

// OnCycle sets what is done with a report; nil is to print it to standard error and to exit with status 2. fn runs on the goroutine that is
// about to take the lock, with what it holds, and may take locks; for a report of go-deadlock on a goroutine of its own.
func OnCycle(fn func(Report)) {
	if fn == nil {
		onCycle.Store(nil)
		return
	}
	onCycle.Store(&fn)
}

// deliver hands the report of goroutine id on.
func deliver(id int64, v verdict) {
	r := Report{Kind: v.kind, Held: v.held.class.Name, Taken: v.taken.class.Name, Text: v.text(id)}
	fn := onCycle.Load()
	if fn == nil {
		die(r)
	}
	silence(id, func() { (*fn)(r) })
}

// die prints the report and ends the process.
func die(r Report) {
	os.Stderr.WriteString(r.Text)
	os.Exit(2)
}

const (
	thick = "==================================================================\n"
	thin  = "------------------------------------------------------------------\n"
)

// headline says in one line what is wrong.
func (v *verdict) headline() string {
	a, b := v.taken.class.Name, v.held.class.Name
	switch v.kind {
	case KindRecursion:
		return fmt.Sprintf("lock order: %s is taken by the goroutine that holds it", a)
	case KindNesting:
		return fmt.Sprintf("lock order: two locks of class %s at once, and it does not nest", a)
	case KindInstances:
		return fmt.Sprintf("lock order: two locks of class %s are taken in both orders", a)
	}
	return fmt.Sprintf("lock order: %s taken under %s closes a cycle", a, b)
}

// text is the report: what is taken and what is held, the chain that leads back, a schedule that ends badly, and all that is held.
func (v *verdict) text(id int64) string {
	var w strings.Builder
	w.WriteString(thick + v.headline() + "\n" + thin)
	fmt.Fprintf(&w, "goroutine %d is taking\n  %s, at\n%s", id, v.taken.title(), v.taken.at.lines("    "))
	fmt.Fprintf(&w, "while it holds\n  %s, taken at\n%s", v.held.title(), v.held.at.lines("    "))
	v.order(&w, id)
	v.scenario(&w)
	held := holdings(id)
	held = held[:max(len(held)-1, 0)] // the last is the one being taken
	fmt.Fprintf(&w, "\n%s held by goroutine %d:\n", count(len(held), "lock"), id)
	for k := range held {
		fmt.Fprintf(&w, " #%d: %s, at %s\n", k, held[k].title(), held[k].at.top())
	}
	w.WriteString(thick)
	return w.String()
}

// order says what the acquisition contradicts: the table of classes, and what was seen before, last acquisition first.
func (v *verdict) order(w *strings.Builder, id int64) {
	a, b := v.taken.class, v.held.class
	if v.kind == KindRank {
		fmt.Fprintf(w, "\nThe order in fs/doc.go has %s (rank %d) before %s (rank %d).\n", a.Name, a.Rank, b.Name, b.Rank)
	}
	switch {
	case v.other != nil:
		fmt.Fprintf(w, "\nThe other order was seen before:\n\n-> #1 %s, by goroutine %d\n%s", v.held.title(), v.other.goroutine, v.other.taken.lines("     "))
		fmt.Fprintf(w, "   under %s, taken at\n%s", v.taken.title(), v.other.held.lines("     "))
	case v.chain != nil:
		fmt.Fprintf(w, "\nThe chain that leads from %s to %s was seen before (last first):\n", a.Name, b.Name)
		for k := len(v.chain) - 1; k >= 0; k-- {
			e := v.chain[k]
			fmt.Fprintf(w, "\n-> #%d %s%s, by goroutine %d\n%s", k+1, mark(e.to, e.toNum), how(e.toMode), e.goroutine, e.taken.lines("     "))
			fmt.Fprintf(w, "   under %s%s, taken at %s\n", mark(e.from, e.fromNum), how(e.heldMode), e.held.top())
		}
	default:
		return
	}
	fmt.Fprintf(w, "\n-> #0 %s, by goroutine %d\n     %s\n", v.taken.title(), id, v.taken.at.top())
}

// scenario is the schedule of two processors that ends in a deadlock; for a lock taken twice one is enough.
func (v *verdict) scenario(w *strings.Builder) {
	held, taken := v.held.step(), v.taken.step()
	w.WriteString("\nPossible unsafe locking scenario:\n\n")
	if v.kind == KindRecursion || v.kind == KindNesting {
		fmt.Fprintf(w, "  CPU0\n  ----\n  %s\n  %s\n\n  *** DEADLOCK ***\n", held, taken)
		return
	}
	if len(v.chain) > 1 {
		names := []string{v.taken.class.Name}
		for _, e := range v.chain {
			names = append(names, e.to.Name)
		}
		fmt.Fprintf(w, "  Chain exists of: %s\n\n", strings.Join(names, " --> "))
	}
	first, then := taken, held
	switch n := len(v.chain); {
	case n > 0:
		e := v.chain[n-1] // the last step of the chain is enough to stop CPU0
		first, then = step(e.heldMode, e.from.Name), step(e.toMode, e.to.Name)
	case v.other != nil:
		first, then = v.other.step()
	default: // only the table knows the order
		first, then = step(exclusive, v.taken.class.Name), step(exclusive, v.held.class.Name)
	}
	width := max(len(held), len(taken))
	row := func(left, right string) {
		w.WriteString(strings.TrimRight(fmt.Sprintf("  %-*s | %s", width, left, right), " ") + "\n")
	}
	row("CPU0", "CPU1")
	row(strings.Repeat("-", width), strings.Repeat("-", max(len(first), len(then))))
	row(held, "")
	row("", first)
	row("", then)
	row(taken, "")
	w.WriteString("\n  *** DEADLOCK ***\n")
}

// title is "(class){usage} of instance, how".
func (h *hold) title() string {
	s := mark(h.class, h.num)
	if h.class == nil {
		return s + how(h.mode)
	}
	if h.inst != 0 {
		s += fmt.Sprintf(" of %d", h.inst)
	}
	return s + how(h.mode)
}

// mark is lockdep's "(class){usage}": + for a way in which the class was taken so far, - for one in which it was not: exclusively, shared,
// by trying, as something that is no lock of this process.
func mark(c *Class, num int) string {
	if c == nil {
		return "(without a name)"
	}
	u := mode(usage[num].Load())
	b := []byte("----")
	for k, m := range []mode{exclusive, shared, tried, pseudo} {
		if u&m != 0 {
			b[k] = '+'
		}
	}
	return fmt.Sprintf("(%s){%s}", c.Name, b)
}

func how(m mode) string {
	s := ", exclusive"
	switch {
	case m&pseudo != 0:
		s = ", entered"
	case m&shared != 0:
		s = ", shared"
	}
	if m&tried != 0 {
		s += " by trying"
	}
	return s
}

func (h *hold) step() string {
	if h.inst == 0 {
		return step(h.mode, h.class.Name)
	}
	return step(h.mode, fmt.Sprintf("%s %d", h.class.Name, h.inst))
}

// step is how the two instances were taken when they were first seen.
func (p *pair) step() (first, then string) {
	return step(p.heldMode, fmt.Sprintf("%s %d", p.from.Name, p.fromInst)), step(p.toMode, fmt.Sprintf("%s %d", p.to.Name, p.toInst))
}

func step(m mode, name string) string {
	if m&shared != 0 {
		return "rlock(" + name + ");"
	}
	return "lock(" + name + ");"
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// lines are the frames, one a line, without the runtime's.
func (s *stack) lines(indent string) string {
	var w strings.Builder
	it := runtime.CallersFrames(s.pcs[:s.n])
	for more := s.n > 0; more; {
		var f runtime.Frame
		if f, more = it.Next(); f.Function == "" || strings.HasPrefix(f.Function, "runtime.") {
			continue
		}
		w.WriteString(indent + where(f) + "\n")
	}
	return w.String()
}

// top is the innermost frame.
func (s *stack) top() string {
	f, _ := runtime.CallersFrames(s.pcs[:s.n]).Next()
	return where(f)
}

// where is "package.Function (package/file.go:line)", with the package's path and no machine's.
func where(f runtime.Frame) string {
	dir, base := path.Split(f.Function)
	pkg, _, _ := strings.Cut(base, ".")
	dir = strings.TrimPrefix(dir+pkg, "inlinefs/")
	return fmt.Sprintf("%s (%s/%s:%d)", strings.TrimPrefix(f.Function, "inlinefs/"), dir, path.Base(f.File), f.Line)
}
