//go:build explore

package sched

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Schedule is the decisions of an execution.
type Schedule struct {
	// Finer names the classes of locks that had switch points beyond the declared ones: "l95" for the leaf class of rank 95, "t130" for
	// releases of the class of rank 130, "w110" for sections that do not commute by parts, joined by commas. A search finds them out by itself.
	Finer string
	// Steps are the decisions in order: an actor's index for "this one goes on", ^v for "the choice is v".
	Steps []int16
}

func (s Schedule) clone() Schedule { return Schedule{Finer: s.Finer, Steps: slices.Clone(s.Steps)} }

// String prints runs of one actor as "0x5" (actor 0 five times), choices as "c1", joined by commas; what occurs once has no "x1". Finer
// and a colon stand before it if there is any.
func (s Schedule) String() string {
	var b strings.Builder
	if s.Finer != "" {
		b.WriteString(s.Finer)
		b.WriteByte(':')
	}
	for i := 0; i < len(s.Steps); {
		j, v := i, s.Steps[i]
		for j < len(s.Steps) && s.Steps[j] == v {
			j++
		}
		if i > 0 {
			b.WriteByte(',')
		}
		if v < 0 {
			b.WriteByte('c')
			v = ^v
		}
		b.WriteString(strconv.Itoa(int(v)))
		if j-i > 1 {
			b.WriteByte('x')
			b.WriteString(strconv.Itoa(j - i))
		}
		i = j
	}
	return b.String()
}

// maxRun bounds what one part of a written schedule may say.
const maxRun = 1 << 20

// ParseSchedule reads what String prints.
func ParseSchedule(text string) (Schedule, error) {
	var s Schedule
	if finer, steps, ok := strings.Cut(text, ":"); ok {
		f, err := parseFiner(finer)
		if err != nil {
			return s, err
		}
		s.Finer, text = f.String(), steps
	}
	if text == "" {
		return s, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		value, times, repeated := strings.Cut(part, "x")
		number, choice := strings.CutPrefix(value, "c")
		v, err := strconv.ParseUint(number, 10, 15)
		if err != nil || !choice && v >= MaxActors {
			return Schedule{}, fmt.Errorf("schedule: %q is neither an actor below %d nor a choice", part, MaxActors)
		}
		n := uint64(1)
		if repeated {
			if n, err = strconv.ParseUint(times, 10, 32); err != nil || n == 0 || n > maxRun {
				return Schedule{}, fmt.Errorf("schedule: %q: want a count from 1 to %d", part, maxRun)
			}
		}
		d := int16(v)
		if choice {
			d = ^d
		}
		s.Steps = slices.Concat(s.Steps, slices.Repeat([]int16{d}, int(n)))
	}
	return s, nil
}

// finer is the parsed form of Schedule.Finer, by rank of the class.
type finer struct {
	leaf, try, whole map[int]bool
}

func newFiner() finer { return finer{leaf: map[int]bool{}, try: map[int]bool{}, whole: map[int]bool{}} }

func (f finer) clone() finer {
	return finer{maps.Clone(f.leaf), maps.Clone(f.try), maps.Clone(f.whole)}
}

func (f finer) size() int { return len(f.leaf) + len(f.try) + len(f.whole) }

// names says it in words.
func (f finer) names() []string {
	var parts []string
	for _, r := range slices.Sorted(maps.Keys(f.leaf)) {
		parts = append(parts, "leaf locks of rank "+strconv.Itoa(r)+" are switch points: one was held across another")
	}
	for _, r := range slices.Sorted(maps.Keys(f.try)) {
		parts = append(parts, "releases of locks of rank "+strconv.Itoa(r)+" are switch points: one was tried")
	}
	for _, r := range slices.Sorted(maps.Keys(f.whole)) {
		parts = append(parts, "sections under locks of rank "+strconv.Itoa(r)+" do not commute by parts: one has a switch point")
	}
	return parts
}

func (f finer) String() string {
	var parts []string
	for _, r := range slices.Sorted(maps.Keys(f.leaf)) {
		parts = append(parts, "l"+strconv.Itoa(r))
	}
	for _, r := range slices.Sorted(maps.Keys(f.try)) {
		parts = append(parts, "t"+strconv.Itoa(r))
	}
	for _, r := range slices.Sorted(maps.Keys(f.whole)) {
		parts = append(parts, "w"+strconv.Itoa(r))
	}
	return strings.Join(parts, ",")
}

func parseFiner(text string) (finer, error) {
	f := newFiner()
	if text == "" {
		return f, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		kind := part[:min(1, len(part))]
		rank, err := strconv.Atoi(part[len(kind):])
		ranks, ok := map[string]map[int]bool{"l": f.leaf, "t": f.try, "w": f.whole}[kind]
		if err != nil || !ok {
			return f, fmt.Errorf("schedule: %q before the colon is not l, t or w with the rank of a lock class", part)
		}
		ranks[rank] = true
	}
	return f, nil
}

// MarshalJSON is the printed form.
func (s Schedule) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// UnmarshalJSON reads it.
func (s *Schedule) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return fmt.Errorf("schedule: %w", err)
	}
	parsed, err := ParseSchedule(text)
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}
