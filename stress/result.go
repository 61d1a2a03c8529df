package stress

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"inlinefs/internal/event"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Schema is the version of the JSON that Result is written as.
const Schema = 1

// Result is what a campaign found: the content of the file of `stress --json`.
type Result struct {
	Schema            int              `json:"schema"`
	Version           string           `json:"version"`
	Strategy          string           `json:"strategy"`
	Scenario          string           `json:"scenario"`
	Seed              uint64           `json:"seed"`
	Bounds            Bounds           `json:"bounds"`
	Mmap              string           `json:"mmap"`
	Journal           string           `json:"journal,omitempty"`
	Iterations        int64            `json:"iterations"`
	Writes            int64            `json:"writes"`
	Faults            int64            `json:"faults"`
	Announced         int64            `json:"announced"`
	Conversions       int64            `json:"conversions"`
	ConversionsFailed int64            `json:"conversions_failed"`
	Restores          int64            `json:"restores"`
	Violations        map[string]int64 `json:"violations"`
	Sigbus            int64            `json:"sigbus"`
	MmapRefused       int64            `json:"mmap_refused"`
	DataMismatches    int64            `json:"data_mismatches"`
	Errors            map[string]int64 `json:"errors"` // "write:EIO" and the like -> count
	LatencyUS         Latencies        `json:"latency_us"`
	Throughput        float64          `json:"throughput"` // writes per second
	Fsck              CheckResult      `json:"fsck"`
	Check             CheckResult      `json:"check"`
	FirstViolation    *FirstViolation  `json:"first_violation"`
	Notes             []string         `json:"notes,omitempty"`
	// FirstSeenS is when a class of violation was first seen, in seconds since the race began.
	FirstSeenS map[string]float64 `json:"first_seen_s,omitempty"`
	// Calls counts the calls that were neither writes nor faults: truncate, fallocate, setxattr, lseek and the like.
	Calls     int64     `json:"calls,omitempty"`
	Unstored  *Unstored `json:"unstored,omitempty"`
	ImageRead ImageRead `json:"image_read"`
	Replay    string    `json:"replay"`
	DurationS float64   `json:"duration_s"`
}

// Unstored counts files that were mapped shared and writable, and never stored to.
type Unstored struct {
	Mapped          int64 `json:"mapped"` // not touched at all
	MappedConverted int64 `json:"mapped_converted"`
	Loaded          int64 `json:"loaded"` // read through the mapping
	LoadedConverted int64 `json:"loaded_converted"`
}

// Bounds is what the campaign was allowed and how wide it was.
type Bounds struct {
	DurationS  float64 `json:"duration_s"`
	Iterations int64   `json:"iterations"`
	Writers    int     `json:"writers"`
	Mappers    int     `json:"mappers"`
	Files      int     `json:"files"`
	Writes     int     `json:"writes_per_round"`
	WindowUS   float64 `json:"window_us"`
	Announce   bool    `json:"announce"`
}

// Latencies are the times of calls as the workers saw them, in microseconds.
type Latencies struct {
	Write Quantiles `json:"write"`
	Fault Quantiles `json:"fault"` // first touch of a fresh mapping, those that ended in SIGBUS too
}

// Quantiles of a latency in microseconds.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// FirstViolation is the first broken rule, ready for a mail.
type FirstViolation struct {
	Class    string           `json:"class"`
	Timeline string           `json:"timeline"`
	Replay   string           `json:"replay"`
	Detail   *event.Violation `json:"detail,omitempty"`
}

// quantiles reads a histogram of nanoseconds.
func quantiles(h *hdrhistogram.Histogram) Quantiles {
	if h.TotalCount() == 0 {
		return Quantiles{}
	}
	us := func(ns int64) float64 { return math.Round(float64(ns)/100) / 10 }
	return Quantiles{P50: us(h.ValueAtQuantile(50)), P99: us(h.ValueAtQuantile(99)), Max: us(h.Max())}
}

// TotalViolations adds up all classes.
func (r *Result) TotalViolations() int64 {
	var n int64
	for _, v := range r.Violations {
		n += v
	}
	return n
}

// Clean tells if nothing at all was found: no violation, no wrong byte, and no checker that complains.
func (r *Result) Clean() bool {
	return r.TotalViolations() == 0 && r.DataMismatches == 0 && len(r.ImageRead.Findings) == 0 && (r.Fsck.Clean || r.Fsck.Skipped != "") && (r.Check.Clean || r.Check.Skipped != "")
}

// Operations are all calls and faults.
func (r *Result) Operations() int64 { return r.Writes + r.Faults + r.Calls }

// ConversionsPerMillion is how many files left their inodes in a million operations; -1 without any.
func (r *Result) ConversionsPerMillion() float64 {
	if r.Operations() == 0 {
		return -1
	}
	return float64(r.Conversions) / float64(r.Operations()) * 1e6
}

// ExitCode is the exit code of stress for this result.
func (r *Result) ExitCode() int {
	switch {
	case r.Violations[ClassHang] > 0:
		return ExitHang
	case !r.Clean():
		return ExitViolation
	}
	return 0
}

// Save writes the result to a file as JSON.
func (r *Result) Save(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("result: %w", err)
	}
	return nil
}

// Load reads a result from a file. Another schema than Schema is an error naming both.
func Load(path string) (*Result, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("result: %w", err)
	}
	defer f.Close()
	r, err := Decode(f)
	if err != nil {
		return nil, fmt.Errorf("result %s: %w", path, err)
	}
	return r, nil
}

// Decode reads a result. Another schema than Schema is an error naming both.
func Decode(in io.Reader) (*Result, error) {
	text, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("reading: %w", err)
	}
	var head struct {
		Schema *int `json:"schema"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return nil, fmt.Errorf("no JSON: %w", err)
	}
	if head.Schema == nil {
		return nil, fmt.Errorf("no key schema, want schema %d", Schema)
	}
	if *head.Schema != Schema {
		return nil, fmt.Errorf("schema %d, want schema %d", *head.Schema, Schema)
	}
	r := &Result{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("schema %d: %w", Schema, err)
	}
	return r, nil
}

// Summary is the result in a few lines for a reader.
func (r *Result) Summary() string {
	var b strings.Builder
	strategy := r.Strategy
	if strategy == "" {
		strategy = "none (no inlinefs)"
	}
	fmt.Fprintf(&b, "scenario %s, strategy %s, seed %d: %d rounds in %.1f s\n", r.Scenario, strategy, r.Seed, r.Iterations, r.DurationS)
	fmt.Fprintf(&b, "  %d writes (%.0f/s, p50 %.1f us, p99 %.1f us), %d faults (p50 %.1f us, p99 %.1f us)\n", r.Writes, r.Throughput,
		r.LatencyUS.Write.P50, r.LatencyUS.Write.P99, r.Faults, r.LatencyUS.Fault.P50, r.LatencyUS.Fault.P99)
	fmt.Fprintf(&b, "  conversions %d ok, %d failed; SIGBUS %d; mmap refused %d; data mismatches %d\n", r.Conversions, r.ConversionsFailed,
		r.Sigbus, r.MmapRefused, r.DataMismatches)
	fmt.Fprintf(&b, "  errors: %s\n", countsText(r.Errors))
	fmt.Fprintf(&b, "  violations: %s\n", countsText(r.Violations))
	fmt.Fprintf(&b, "  e2fsck: %s; check: %s\n", checkText(r.Fsck), checkText(r.Check))
	if r.ImageRead.Files > 0 {
		fmt.Fprintf(&b, "  %d files read out of the image: %d findings\n", r.ImageRead.Files, len(r.ImageRead.Findings))
	}
	if u := r.Unstored; u != nil {
		fmt.Fprintf(&b, "  files never stored to that were converted: %d of %d mapped, %d of %d mapped and read\n", u.MappedConverted, u.Mapped,
			u.LoadedConverted, u.Loaded)
	}
	for _, f := range slices.Concat(r.Fsck.Findings, r.Check.Findings, r.ImageRead.Findings) {
		fmt.Fprintf(&b, "    %s\n", clean(f))
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "  note: %s\n", clean(n))
	}
	if v := r.FirstViolation; v != nil {
		fmt.Fprintf(&b, "\nfirst violation: %s\n%s\nreplay: %s\n", v.Class, strings.TrimRight(v.Timeline, "\n"), v.Replay)
	}
	return b.String()
}

func countsText(m map[string]int64) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] != 0 {
			parts = append(parts, fmt.Sprintf("%s %d", k, m[k]))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func checkText(c CheckResult) string {
	switch {
	case c.Skipped != "":
		return "not run"
	case c.Clean:
		return "clean"
	case len(c.Findings) == 1:
		return "1 finding"
	default:
		return fmt.Sprintf("%d findings", len(c.Findings))
	}
}

// clean takes control characters out of a text that came from elsewhere.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F {
			return ' '
		}
		return r
	}, s)
}
