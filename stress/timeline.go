package stress

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"inlinefs/internal/event"
)

const (
	timelineWidth = 109 // of a line, in letters
	columnGap     = " | "
	columnWidth   = (timelineWidth - len(columnGap)) / 2
)

// Timeline draws a violation as mails to kernel lists do: the breaker's task to the left, whoever ran at the same time to the right,
// one row per step in the order of time. No line is longer than 109 letters.
func Timeline(v *event.Violation) string {
	if v == nil {
		return ""
	}
	var b strings.Builder
	head := fmt.Sprintf("%s on inode %d", v.Class, v.Ino)
	if v.Strategy != "" {
		head += ", strategy " + v.Strategy
	}
	if v.Mirror != "" {
		head += ", mirrors " + v.Mirror
	}
	for _, line := range wrap(head, timelineWidth, "  ") {
		b.WriteString(line + "\n")
	}
	for _, line := range messageLines(v.Message) {
		b.WriteString(line + "\n")
	}
	if events := relevant(v); len(events) > 0 {
		b.WriteString("\n")
		drawColumns(&b, v.Task, events)
	}
	return b.String()
}

// messageLines are the lines of a message. One that is laid out in lines, as lockdep's is, stays so.
func messageLines(msg string) (out []string) {
	msg = strings.TrimRight(msg, "\n")
	if msg == "" {
		return nil
	}
	if !strings.Contains(msg, "\n") {
		return wrap(msg, timelineWidth, "  ")
	}
	for line := range strings.Lines(msg) {
		text := clean(strings.TrimRight(line, " \n"))
		indent := text[:len(text)-len(strings.TrimLeft(text, " "))]
		if utf8.RuneCountInString(text) <= timelineWidth {
			out = append(out, text)
			continue
		}
		for _, part := range wrap(text, timelineWidth-len(indent), "  ") {
			out = append(out, indent+part)
		}
	}
	return out
}

// relevant are the events of the breaker and of every task that ran at the same time, in the order of time; all events when the
// breaker has none. What an overlapping task did before the breaker's first step belongs to it: the cause is often there. Where no
// task is seen to overlap, the last one before the breaker stands in: its end may not have been recorded yet.
func relevant(v *event.Violation) []event.Event {
	events := slices.Clone(v.Events)
	slices.SortStableFunc(events, func(a, b event.Event) int { return cmp.Compare(a.Nsec, b.Nsec) })
	type span struct{ first, last int }
	spans := map[uint64]span{}
	for i, e := range events {
		s, ok := spans[e.Task]
		if !ok {
			s.first = i
		}
		s.last = i
		spans[e.Task] = s
	}
	breaker, ok := spans[v.Task]
	if !ok {
		return events
	}
	overlaps := func(e event.Event) bool {
		s := spans[e.Task]
		return s.last >= breaker.first && s.first <= breaker.last
	}
	stand := v.Task
	if breaker.first > 0 && !slices.ContainsFunc(events, func(e event.Event) bool { return e.Task != v.Task && overlaps(e) }) {
		stand = events[breaker.first-1].Task
	}
	return slices.DeleteFunc(events, func(e event.Event) bool { return !overlaps(e) && e.Task != stand })
}

// who names an event's task at the head of a column.
func who(e event.Event) string {
	s := fmt.Sprintf("%s, task %d", e.Op, e.Task)
	if e.Pid != 0 {
		s += fmt.Sprintf(", pid %d", e.Pid)
	}
	return s
}

func drawColumns(b *strings.Builder, breaker uint64, events []event.Event) {
	var heads [2]string
	var last uint64 // task last named at the right
	for _, e := range events {
		col := column(e, breaker)
		if heads[col] == "" {
			heads[col] = fmt.Sprintf("CPU%d (%s)", col, who(e))
			if col == 1 {
				last = e.Task
			}
		}
	}
	for i, h := range heads {
		if h == "" {
			heads[i] = fmt.Sprintf("CPU%d", i)
		}
	}
	row(b, wrap(heads[0], columnWidth, "  "), wrap(heads[1], columnWidth, "  "))
	b.WriteString(strings.Repeat("-", columnWidth) + "-+-" + strings.Repeat("-", columnWidth) + "\n")
	for _, e := range events {
		if column(e, breaker) == 0 {
			row(b, stepText(e), nil)
			continue
		}
		if e.Task != last {
			last = e.Task
			row(b, nil, wrap("("+who(e)+")", columnWidth, "  "))
		}
		row(b, nil, stepText(e))
	}
	span := time.Duration(events[len(events)-1].Nsec - events[0].Nsec)
	fmt.Fprintf(b, "(%s from the first row to the last)\n", span)
}

func column(e event.Event, breaker uint64) int {
	if e.Task == breaker {
		return 0
	}
	return 1
}

// stepText is one event in the width of a column: our function, the kernel's in brackets, and the value.
func stepText(e event.Event) []string {
	s := e.Func
	if e.Kernel != "" {
		s = strings.TrimSpace(s + " [" + e.Kernel + "]")
	}
	if s == "" {
		s = e.Op
	}
	if e.Detail == "" {
		return wrap(s, columnWidth, "    ")
	}
	if one := s + ": " + e.Detail; utf8.RuneCountInString(one) <= columnWidth {
		return wrap(one, columnWidth, "    ")
	}
	lines := wrap(s+":", columnWidth, "    ")
	for _, l := range wrap(e.Detail, columnWidth-2, "  ") {
		lines = append(lines, "  "+l)
	}
	return lines
}

// row writes two cells side by side.
func row(b *strings.Builder, left, right []string) {
	for i := range max(len(left), len(right)) {
		var l, r string
		if i < len(left) {
			l = left[i]
		}
		if i < len(right) {
			r = right[i]
		}
		pad := strings.Repeat(" ", max(0, columnWidth-utf8.RuneCountInString(l)))
		b.WriteString(strings.TrimRight(l+pad+columnGap+r, " ") + "\n")
	}
}

// wrap breaks a text into lines of at most width letters, at spaces where there are any; lines after the first are indented.
func wrap(s string, width int, indent string) []string {
	var lines []string
	line, fresh := "", true
	for _, word := range strings.Fields(clean(s)) {
		for {
			sep := " "
			if fresh {
				sep = ""
			}
			if utf8.RuneCountInString(line+sep+word) <= width {
				line, fresh = line+sep+word, false
				break
			}
			if !fresh {
				lines = append(lines, line)
				line, fresh = indent, true
				continue
			}
			// A word wider than a line is cut.
			runes := []rune(word)
			n := max(1, width-utf8.RuneCountInString(line))
			lines = append(lines, line+string(runes[:n]))
			line, word = indent, string(runes[n:])
		}
	}
	if !fresh || len(lines) == 0 {
		lines = append(lines, line)
	}
	return lines
}
