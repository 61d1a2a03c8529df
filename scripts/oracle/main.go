// Command oracle compares what the real kernel and inlinefs do when write(2) races page faults on the seed image. It reads the serial console of
// the guest that scripts/kernel-oracle.sh boots and the result of `inlinefs stress --json`, and prints both side by side.
//
// Usage: oracle CONSOLE RESULT [NAME=PATH...]
//
// Each NAME is a sibling race: PATH.log is the console of its guest, PATH-mkwrite.json and PATH-default.json are the results of inlinefs. What
// they show is printed and decides nothing.
//
// Exit codes: 0 both fell with the nil handle, by the same chain of calls; 1 not so; 2 usage, or a file that cannot be read.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
)

const (
	exitDiffers = 1
	exitUsage   = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run is main without the process.
func run(args []string, out, errs io.Writer) int {
	if len(args) < 2 {
		fmt.Fprintln(errs, "usage: oracle CONSOLE RESULT [NAME=PATH...]")
		return exitUsage
	}
	siblings, err := readSiblings(args[2:])
	if err != nil {
		fmt.Fprintf(errs, "oracle: %v\n", err)
		return exitUsage
	}
	guest, ours, err := read(args[0], args[1])
	if err != nil {
		fmt.Fprintf(errs, "oracle: %v\n", err)
		return exitUsage
	}
	text, same := compare(guest, ours)
	text = siblingTable(siblings) + text
	if _, err := io.WriteString(out, text); err != nil {
		fmt.Fprintf(errs, "oracle: %v\n", err)
		return exitUsage
	}
	if !same {
		return exitDiffers
	}
	return 0
}

// read reads the guest's console and the result of stress.
func read(console, path string) (*guest, *result, error) {
	f, err := os.Open(console)
	if err != nil {
		return nil, nil, fmt.Errorf("console: %w", err)
	}
	defer f.Close()
	g, err := parseConsole(f)
	if err != nil {
		return nil, nil, fmt.Errorf("console %s: %w", console, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("result: %w", err)
	}
	r, err := parseResult(text)
	if err != nil {
		return nil, nil, fmt.Errorf("result %s: %w", path, err)
	}
	return g, r, nil
}

// result is what is needed of a result of stress, schema 1.
type result struct {
	Schema     int              `json:"schema"`
	Strategy   string           `json:"strategy"`
	Seed       uint64           `json:"seed"`
	Writes     int64            `json:"writes"`
	Faults     int64            `json:"faults"`
	Sigbus     int64            `json:"sigbus"`
	DurationS  float64          `json:"duration_s"`
	Violations map[string]int64 `json:"violations"`
	Errors     map[string]int64 `json:"errors"`
	Mismatches int64            `json:"data_mismatches"`
	First      *struct {
		Class    string `json:"class"`
		Timeline string `json:"timeline"`
		Detail   *struct {
			Class   string   `json:"class"`
			Mirror  string   `json:"mirror"`
			Breaker []string `json:"breaker"`
			Task    uint64   `json:"task"`
			Events  []struct {
				Task   uint64 `json:"task"`
				Kernel string `json:"kernel"`
			} `json:"events"`
		} `json:"detail"`
	} `json:"first_violation"`
}

func parseResult(text []byte) (*result, error) {
	var r result
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("%d bytes: %w", len(text), err)
	}
	if r.Schema != 1 {
		return nil, fmt.Errorf("schema %d, want 1", r.Schema)
	}
	return &r, nil
}

// steps are the kernel functions that the timeline names for the task that broke the rule, in their order, when the first violation is of
// the class.
func (r *result) steps(class string) (out []string) {
	if r.breaker(class) == nil {
		return nil
	}
	for _, e := range r.First.Detail.Events {
		if e.Task == r.First.Detail.Task && e.Kernel != "" {
			out = append(out, e.Kernel)
		}
	}
	return out
}

// breaker is the stack that broke the rule, innermost first, when the first violation is of the class.
func (r *result) breaker(class string) []string {
	if r.First == nil || r.First.Detail == nil || r.First.Detail.Class != class {
		return nil
	}
	return r.First.Detail.Breaker
}
