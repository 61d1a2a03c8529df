package stress

import (
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"inlinefs/internal/event"
)

func TestTimeline(t *testing.T) {
	tests := []struct {
		name string
		v    *event.Violation
		want string
	}{
		{"nil", nil, ""},
		{"no events", &event.Violation{Class: "hang", Ino: 3}, "hang on inode 3\n"},
		{"write against fault", &event.Violation{
			Class: "nil-handle", Strategy: "mkwrite", Ino: 12, Mirror: "ext4_jbd2.c BUG_ON(ref_cnt == 0)",
			Message: "stop of a handle that nobody started", Task: 7,
			Events: []event.Event{
				{Nsec: 1, Task: 3, Op: "fault", Func: "Early"},
				{Nsec: 5, Task: 9, Op: "fault", Pid: 102, Func: "Cause"},
				{Nsec: 9000, Task: 4, Op: "fault", Func: "Late"},
				{Nsec: 9001, Task: 9, Op: "fault", Pid: 102, Func: "End"},
				{Nsec: 50, Task: 9, Op: "fault", Pid: 102, Func: "restore", Kernel: "ext4_restore_inline_data", Detail: "flag set again"},
				{Nsec: 10, Task: 7, Op: "write", Pid: 101, Func: "WriteBegin", Kernel: "ext4_write_begin"},
				{Nsec: 20, Task: 9, Op: "fault", Pid: 102, Func: "PageMkwrite", Kernel: "ext4_page_mkwrite",
					Detail: "the flag that says that inline data may be here is cleared before the conversion"},
				{Nsec: 30, Task: 7, Op: "write", Pid: 101, Func: "mayInline", Kernel: "ext4_test_inode_state", Detail: "no"},
				{Nsec: 5060, Task: 7, Op: "write", Pid: 101, Func: "StopHandle", Detail: "count 0"},
			}},
			`nil-handle on inode 12, strategy mkwrite, mirrors ext4_jbd2.c BUG_ON(ref_cnt == 0)
stop of a handle that nobody started

CPU0 (write, task 7, pid 101)                         | CPU1 (fault, task 9, pid 102)
------------------------------------------------------+------------------------------------------------------
                                                      | Cause
WriteBegin [ext4_write_begin]                         |
                                                      | PageMkwrite [ext4_page_mkwrite]:
                                                      |   the flag that says that inline data may be here is
                                                      |     cleared before the conversion
mayInline [ext4_test_inode_state]: no                 |
                                                      | restore [ext4_restore_inline_data]: flag set again
StopHandle: count 0                                   |
                                                      | End
(8.996µs from the first row to the last)
`},
		{"nobody overlaps", &event.Violation{
			Class: "c", Ino: 1, Task: 5,
			Events: []event.Event{
				{Nsec: 1, Task: 1, Op: "fault", Func: "A"}, {Nsec: 2, Task: 2, Op: "fault", Func: "B"}, {Nsec: 3, Task: 5, Op: "write", Func: "C"},
			}},
			`c on inode 1

CPU0 (write, task 5)                                  | CPU1 (fault, task 2)
------------------------------------------------------+------------------------------------------------------
                                                      | B
C                                                     |
(1ns from the first row to the last)
`},
		{"breaker without events, two others", &event.Violation{
			Class: "c", Ino: 1, Task: 99,
			Events: []event.Event{
				{Nsec: 1, Task: 1, Op: "write", Func: "A"}, {Nsec: 2, Task: 2, Op: "writepage", Func: "B"},
				{Nsec: 3, Task: 2, Op: "writepage", Kernel: "k"}, {Nsec: 4, Task: 1, Op: "write"},
			}},
			`c on inode 1

CPU0                                                  | CPU1 (write, task 1)
------------------------------------------------------+------------------------------------------------------
                                                      | A
                                                      | (writepage, task 2)
                                                      | B
                                                      | [k]
                                                      | (write, task 1)
                                                      | write
(3ns from the first row to the last)
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Timeline(tt.v); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestTimelineWidth(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	letters := []rune("ab ä\t\n|世 c")
	text := func() string {
		var b strings.Builder
		for range rng.IntN(300) {
			b.WriteRune(letters[rng.IntN(len(letters))])
		}
		return b.String()
	}
	for range 300 {
		v := &event.Violation{Class: text(), Strategy: text(), Mirror: text(), Message: text(), Task: 1}
		for range rng.IntN(6) {
			v.Events = append(v.Events, event.Event{Nsec: rng.Int64N(99), Task: rng.Uint64N(4), Op: text(), Pid: rng.Uint32(), Func: text(),
				Kernel: text(), Detail: text()})
		}
		for _, line := range strings.Split(Timeline(v), "\n") {
			if n := utf8.RuneCountInString(line); n > timelineWidth {
				t.Fatalf("line of %d letters, want at most %d: %q", n, timelineWidth, line)
			}
		}
	}
}

func TestWrapKeepsWords(t *testing.T) {
	for _, tt := range []struct {
		in    string
		width int
		want  string
	}{
		{"", 5, ""},
		{"a b c", 5, "a b c"},
		{"aaa bbb ccc", 7, "aaa bbb|  ccc"},
		{"abcdefgh", 4, "abcd|  ef|  gh"},
		{"x abcdefgh", 4, "x|  ab|  cd|  ef|  gh"},
	} {
		if got := strings.Join(wrap(tt.in, tt.width, "  "), "|"); got != tt.want {
			t.Errorf("wrap(%q, %d) = %q, want %q", tt.in, tt.width, got, tt.want)
		}
	}
}

// TestTimelineKeepsLayout: lockdep's scenario is a drawing.
func TestTimelineKeepsLayout(t *testing.T) {
	msg := "possible circular locking dependency\n  -> #1: " + strings.Repeat("word ", 40) + "\n        CPU0                          CPU1\n        lock(a);\n"
	got := Timeline(&event.Violation{Class: "lock-cycle", Message: msg})
	if !strings.Contains(got, "\n        CPU0                          CPU1\n        lock(a);\n") {
		t.Errorf("not as laid out:\n%s", got)
	}
	for line := range strings.Lines(got) {
		if len(line) > timelineWidth+1 {
			t.Errorf("too wide: %s", line)
		}
	}
}
