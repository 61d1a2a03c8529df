//go:build explore

package explore

import (
	"fmt"
	"strings"

	"inlinefs/internal/lock"
	"inlinefs/internal/sched"
)

// columnWidth of a timeline, in letters; two columns make a mail's width.
const columnWidth = 52

// Timeline draws an execution as mails to kernel lists do: one column for each actor, time runs down. Steps that only the machine cares
// about (releases, the raw inode, buffers) are left out.
func Timeline(r *sched.Run) string {
	var b strings.Builder
	cells := make([]string, len(r.Actors))
	for n, name := range r.Actors {
		cells[n] = fmt.Sprintf("CPU%d (%s)", n, name)
	}
	row(&b, cells)
	for n := range cells {
		cells[n] = strings.Repeat("-", columnWidth)
	}
	row(&b, cells)
	for _, s := range r.Steps {
		text := cell(s)
		if text == "" {
			continue
		}
		for _, line := range wrap(text) {
			clear(cells)
			cells[s.Actor] = line
			row(&b, cells)
		}
	}
	for _, f := range r.Failures {
		fmt.Fprintf(&b, "%s: %s\n", f.Class, f.Detail)
	}
	return b.String()
}

func row(b *strings.Builder, cells []string) {
	var line strings.Builder
	for n, c := range cells {
		if n > 0 {
			line.WriteString(" | ")
		}
		fmt.Fprintf(&line, "%-*s", columnWidth, c)
	}
	b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
}

// cell is a step's text, empty for one that is left out.
func cell(s sched.Step) string {
	switch s.What {
	case lock.RawLock.Name, lock.BufferLock.Name, lock.SuperLock.Name, lock.GroupLock.Name, clientFolio.Name:
		return ""
	}
	switch s.Kind {
	case lock.NoteOp:
		return s.Detail
	case lock.Acquire:
		return fmt.Sprintf("down_write(%s)", s.What)
	case lock.RAcquire:
		return fmt.Sprintf("down_read(%s)", s.What)
	case lock.EnterOp:
		return "handle opened"
	case lock.LeaveOp:
		return "handle closed"
	case lock.WaitOp:
		return fmt.Sprintf("waits for %s %s", s.What, s.Detail)
	case lock.LoadOp:
		return fmt.Sprintf("reads %s: %s", s.What, s.Detail)
	case lock.StoreOp:
		return fmt.Sprintf("sets %s: %s", s.What, s.Detail)
	case lock.ChooseOp:
		if s.Detail != "0" {
			return s.What + " (injected)"
		}
	}
	return ""
}

// wrap cuts text into lines of a column, with a hanging indent.
func wrap(text string) []string {
	var out []string
	indent := ""
	for _, word := range strings.Fields(text) {
		if n := len(out) - 1; n >= 0 && len(out[n])+1+len(word) <= columnWidth {
			out[n] += " " + word
			continue
		}
		out = append(out, indent+word)
		indent = "    "
	}
	return out
}
