// Command bench times file-system work on any mounted directory, and sets results side by side.
//
//	bench run [-files N] [-big MIB] [-cold COMMAND] [-only LIST] -json FILE DIR
//	bench table FILE...
//
// Run does each workload on its own files below DIR and writes a rate for each. COMMAND, given to sh -c, makes the mount cold (unmounts,
// drops caches, mounts again); without it the cold workloads are left out. Table prints the files' rates in columns, and each of the last
// file's as a ratio to the others'.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// result is one workload's rate.
type result struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit"` // "/s" or "MiB/s"
	Rate  float64 `json:"rate"`
	Error string  `json:"error,omitempty"`
}

// results is what run writes.
type results struct {
	Label   string   `json:"label"`
	Results []result `json:"results"`
}

// config is what the flags of run say.
type config struct {
	dir   string
	files int    // small files
	big   int    // MiB of the large file
	cold  string // command that makes the mount cold
	only  string
}

func main() {
	if err := command(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// command runs the subcommand.
func command(args []string, out io.Writer) error {
	if len(args) > 1 && args[0] == "table" {
		return table(args[1:], out)
	}
	if len(args) < 1 || args[0] != "run" {
		return fmt.Errorf("usage: bench run [flags] -json FILE DIR, or bench table FILE...")
	}
	var c config
	var file, label string
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	flags.IntVar(&c.files, "files", 5000, "small files")
	flags.IntVar(&c.big, "big", 128, "MiB of the large file")
	flags.StringVar(&c.cold, "cold", "", "shell command that makes the mount cold")
	flags.StringVar(&c.only, "only", "", "comma-separated workloads to run (those they need are run too)")
	flags.StringVar(&file, "json", "", "file for the results")
	flags.StringVar(&label, "label", "", "name of what is measured")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() != 1 || c.files < 1 || c.big < 1 {
		return fmt.Errorf("run: want one directory, -files and -big of at least 1")
	}
	c.dir = filepath.Join(flags.Arg(0), "bench")
	if err := os.Mkdir(c.dir, 0o755); err != nil {
		return err
	}
	all := results{Label: label, Results: c.run(out)}
	data, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if file == "" {
		return nil
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

// run does the workloads in order: a later one may use an earlier one's files.
func (c *config) run(out io.Writer) []result {
	var all []result
	for _, w := range c.workloads() {
		if w.cold && c.cold == "" || c.only != "" && !w.setup && !strings.Contains(","+c.only+",", ","+w.name+",") {
			continue
		}
		if w.cold {
			if msg, err := exec.Command("sh", "-c", c.cold).CombinedOutput(); err != nil {
				all = append(all, result{Name: w.name, Unit: w.unit, Error: fmt.Sprintf("make cold: %v: %s", err, msg)})
				continue
			}
		}
		start := time.Now()
		err := w.run()
		r := result{Name: w.name, Unit: w.unit, Rate: float64(w.amount) / time.Since(start).Seconds()}
		if err != nil {
			r.Error, r.Rate = err.Error(), 0
		}
		fmt.Fprintln(out, r)
		all = append(all, r)
	}
	return all
}

// String is the result as a line of a log.
func (r result) String() string {
	if r.Error != "" {
		return fmt.Sprintf("%-28s error: %s", r.Name, r.Error)
	}
	return fmt.Sprintf("%-28s %12s %s", r.Name, number(r.Rate), r.Unit)
}

// number is a rate with three digits or so.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// table prints the files side by side.
func table(files []string, out io.Writer) error {
	var all []results
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var r results
		if err := json.Unmarshal(data, &r); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, r)
	}
	last, rows := all[len(all)-1], all[0].Results
	for _, r := range all {
		if len(r.Results) > len(rows) {
			rows = r.Results
		}
	}
	fmt.Fprintf(out, "%-28s", "work")
	for _, r := range all {
		fmt.Fprintf(out, " %12s", r.Label)
	}
	for _, r := range all[:len(all)-1] {
		fmt.Fprintf(out, " %12s", "x "+r.Label)
	}
	fmt.Fprintln(out)
	for _, row := range rows {
		fmt.Fprintf(out, "%-28s", row.Name+", "+row.Unit)
		for _, r := range all {
			fmt.Fprintf(out, " %12s", cell(r, row.Name))
		}
		for _, r := range all[:len(all)-1] {
			fmt.Fprintf(out, " %12s", ratio(find(last, row.Name).Rate, find(r, row.Name).Rate))
		}
		fmt.Fprintln(out)
	}
	return nil
}

// find is the result of a workload, the zero result when it was not run.
func find(r results, name string) result {
	for _, x := range r.Results {
		if x.Name == name {
			return x
		}
	}
	return result{}
}

// cell is a rate, "error", or "-" for a workload that was not run.
func cell(r results, name string) string {
	switch x := find(r, name); {
	case x.Error != "":
		return "error"
	case x.Rate == 0:
		return "-"
	default:
		return number(x.Rate)
	}
}

// ratio is a/b.
func ratio(a, b float64) string {
	if a == 0 || b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", a/b)
}
