package main

import (
	"fmt"
	"slices"
	"strings"
)

const (
	classNilHandle    = "nil-handle"
	classModeMismatch = "mode-mismatch"
)

// step pairs a function of the kernel with the function of this project that stands for it.
type step struct{ kernel, ours string }

// chain is how a write without a handle gets to the check, innermost first. ext4_da_write_end calls ext4_write_inline_data_end as its last
// act and so leaves no frame in the kernel.
var chain = []step{
	{"__ext4_journal_stop", "journal.(*Journal).Stop"},
	{"ext4_write_inline_data_end", "inline.(*Engine).WriteEnd"},
	{"generic_perform_write", "inline.(*Engine).Write"},
	{"ext4_buffered_write_iter", "fs.(*FileSystem).writeLocked"},
	{"vfs_write", "fs.(*FileSystem).Write"},
}

// missingOf tells which of want are not in have in their order. A stack may have other frames between them.
func missingOf(want, have []string) []string {
	var missing []string
	for _, w := range want {
		i := slices.Index(have, w)
		if i < 0 {
			missing = append(missing, w)
			continue
		}
		have = have[i+1:]
	}
	return missing
}

// bare cuts the line number off the frames of a violation.
func bare(frames []string) []string {
	var out []string
	for _, f := range frames {
		if i := strings.LastIndexByte(f, ':'); i > 0 {
			f = f[:i]
		}
		out = append(out, f)
	}
	return out
}

func kernelChain() (out []string) {
	for _, s := range chain {
		out = append(out, s.kernel)
	}
	return out
}

func ourChain() (out []string) {
	for _, s := range chain {
		out = append(out, s.ours)
	}
	return out
}

// compare writes the kernel and inlinefs side by side; same says that both fell with the nil handle and by the same chain.
func compare(g *guest, r *result) (text string, same bool) {
	var b strings.Builder
	f := g.fallOf(classNilHandle)
	writeTable(&b, tableRows(g, r, f))
	b.WriteString("\n")
	writeChains(&b, f, r.breaker(classNilHandle))
	for _, s := range g.errors {
		fmt.Fprintf(&b, "kernel, on the way: %s\n", s)
	}
	for i := range g.falls {
		if also := &g.falls[i]; also != f {
			fmt.Fprintf(&b, "kernel, %s: %s in %s%s\n", g.after(also), also.what, firstName(also), classNote(also))
		}
	}
	for _, s := range g.hangs {
		fmt.Fprintf(&b, "kernel, hangs: %s\n", s)
	}
	if g.end != "" && f == nil {
		fmt.Fprintf(&b, "kernel, end: %s\n", g.end)
		for _, s := range g.stress[max(0, len(g.stress)-maxKept):] {
			fmt.Fprintf(&b, "  %s\n", s)
		}
	}
	if r.First != nil {
		fmt.Fprintf(&b, "\ninlinefs, the first violation:\n%s\n", strings.TrimRight(r.First.Timeline, "\n"))
	}
	b.WriteString("\n")
	why := differences(f, r)
	if len(why) == 0 {
		fmt.Fprintf(&b, "same: the kernel fell, and inlinefs is convicted, of %s, by the same chain of %d functions\n", classNilHandle, len(chain))
		return b.String(), true
	}
	for _, s := range why {
		fmt.Fprintf(&b, "NOT THE SAME: %s\n", s)
	}
	return b.String(), false
}

// differences are the reasons why the two are not the same; none: they are.
func differences(f *fall, r *result) (why []string) {
	if f == nil {
		why = append(why, "the kernel did not fall with a BUG in __ext4_journal_stop")
	} else if m := missingOf(kernelChain(), f.names()); len(m) > 0 {
		why = append(why, "the kernel's chain lacks "+strings.Join(m, ", "))
	}
	if r.Strategy != "mkwrite" {
		why = append(why, fmt.Sprintf("inlinefs ran strategy %q, want mkwrite", r.Strategy))
	}
	if r.Violations[classNilHandle] == 0 {
		return append(why, "inlinefs was not convicted of "+classNilHandle)
	}
	if m := missingOf(ourChain(), bare(r.breaker(classNilHandle))); len(m) > 0 {
		why = append(why, "the chain of inlinefs lacks "+strings.Join(m, ", "))
	}
	// What the timeline names last is where the kernel stops.
	if steps := r.steps(classNilHandle); len(steps) == 0 || steps[len(steps)-1] != chain[0].kernel {
		why = append(why, fmt.Sprintf("the timeline of inlinefs ends in %q, want %s", steps, chain[0].kernel))
	}
	return why
}

// after is when a fall came, counted from the beginning of the race.
func (g *guest) after(f *fall) string {
	if g.began < 0 {
		return "before the race"
	}
	return fmt.Sprintf("%.2f s after the race began", f.at-g.began)
}

func firstName(f *fall) string {
	if len(f.chain) == 0 {
		return "an unknown function"
	}
	return f.chain[0].name
}

func classNote(f *fall) string {
	if c := f.class(); c != "" {
		return " (class " + c + ")"
	}
	return ""
}

// tableRows are the rows of the comparison: name, kernel, inlinefs.
func tableRows(g *guest, r *result, f *fall) [][3]string {
	what, when, who, class := "none", "-", "-", "-"
	if f != nil {
		what, when, who, class = f.what, g.after(f), f.who, f.class()
	}
	ours, mirror := "none", "-"
	if n := r.Violations[classNilHandle]; n > 0 {
		ours = classNilHandle
		if r.breaker(classNilHandle) != nil {
			mirror = r.First.Detail.Mirror
		}
	}
	orNone := func(s string) string {
		if s == "" {
			return "none told"
		}
		return s
	}
	kernel := g.kernel
	if kernel == "" {
		kernel = "did not come up"
	}
	return [][3]string{
		{"", "kernel " + kernel, "inlinefs " + r.Strategy},
		{"where", "QEMU, emulated, 2 processors", "FUSE mount on this machine"},
		{"class", class, ours},
		{"check", what, mirror},
		{"found", when, fmt.Sprintf("in a race of %.1f s: %s", r.DurationS, orNone(counts(r.Violations)))},
		{"by", who, "the task of a write(2)"},
		{"SIGBUS", orNone(g.sigbus()), fmt.Sprintf("%d of %d faults", r.Sigbus, r.Faults)},
	}
}

const leftWidth = 44

func writeTable(b *strings.Builder, rows [][3]string) {
	for _, r := range rows {
		fmt.Fprintf(b, "%s\n", strings.TrimRight(fmt.Sprintf("%-7s %-*s  %s", r[0], leftWidth, r[1], r[2]), " "))
	}
}

// writeChains writes both stacks, innermost first: functions that stand for each other in one line, frames in between alone.
func writeChains(b *strings.Builder, f *fall, breaker []string) {
	var left []call
	if f != nil {
		left = f.chain
	}
	right := bare(breaker)
	writeTable(b, [][3]string{{"calls", "innermost first", ""}})
	for _, s := range chain {
		li := slices.IndexFunc(left, func(c call) bool { return c.name == s.kernel })
		ri := slices.Index(right, s.ours)
		between(b, left, right, li, ri)
		l, r := "-", "-"
		if li >= 0 {
			l = left[li].text()
			left = left[li+1:]
		}
		if ri >= 0 {
			r = breaker[len(breaker)-len(right)+ri]
			right = right[ri+1:]
		}
		mark := "  !="
		if li >= 0 && ri >= 0 {
			mark = "  =="
		}
		writeTable(b, [][3]string{{mark, l, r}})
	}
}

// between writes the frames that come before the paired ones and have no partner.
func between(b *strings.Builder, left []call, right []string, li, ri int) {
	for i := range max(li, 0) {
		writeTable(b, [][3]string{{"", left[i].text(), ""}})
	}
	for i := range max(ri, 0) {
		writeTable(b, [][3]string{{"", "", right[i]}})
	}
}

func (c call) text() string { return c.name + c.offset }
