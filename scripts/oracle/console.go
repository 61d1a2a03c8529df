package main

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// guest is what the console tells of one boot.
type guest struct {
	kernel string  // release, empty: init never spoke
	began  float64 // second of the kernel's clock when the race began, below 0: it did not
	falls  []fall  // in the order of the console
	errors []string
	hangs  []string
	stress []string // what stress said
	end    string   // why it ended
}

// fall is one report of a BUG or of an oops.
type fall struct {
	at    float64 // second of the kernel's clock
	what  string  // "kernel BUG at fs/ext4/ext4_jbd2.c:53!"
	who   string  // "PID: 139 Comm: inlinefs"
	chain []call  // innermost first, without the frames that the unwinder only guesses
	ended bool    // its last line was seen
}

// call is a frame of a call chain.
type call struct {
	name   string
	offset string // "+0xae/0xb0"
}

var (
	stampRE = regexp.MustCompile(`^\[ *(\d+\.\d+)\](?:\[[^\]]*\])? (.*)$`)
	fallRE  = regexp.MustCompile(`^(kernel BUG at .*|BUG: .*|Oops.*|general protection fault.*)$`)
	whoRE   = regexp.MustCompile(`^CPU: \d+ (?:UID: \d+ )?(PID: \d+ Comm: \S+)`)
	callRE  = regexp.MustCompile(`^(\w[\w.]*)(\+0x[0-9a-f]+/0x[0-9a-f]+)(?: \[\w+(?: [0-9a-f]+)?\])?$`)
	ripRE   = regexp.MustCompile(`^RIP: [0-9a-f]{4}:(.*)$`)
	blockRE = regexp.MustCompile(`^INFO: task .* blocked for more than`)
)

// maxKept bounds what is kept of lines that repeat.
const maxKept = 8

// parseConsole reads a console. Lines that it does not know are left out.
func parseConsole(r io.Reader) (*guest, error) {
	p := reading{g: &guest{began: -1}}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r ")
		if rest, ok := strings.CutPrefix(line, "oracle: "); ok {
			p.g.end = rest // from the host: the guest could not end itself
			continue
		}
		m := stampRE.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		at, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return nil, fmt.Errorf("time %q: %w", m[1], err)
		}
		p.line(at, strings.TrimSpace(m[2]))
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return p.g, nil
}

// reading goes through a console line by line.
type reading struct {
	g     *guest
	trace bool // between "Call Trace:" and its end
}

func (p *reading) line(at float64, s string) {
	if rest, ok := strings.CutPrefix(s, "oracle: "); ok {
		p.told(at, rest)
		return
	}
	switch {
	case fallRE.MatchString(s):
		// "Oops: " after "BUG: " is the same fall.
		if f := p.open(); f != nil && f.who == "" {
			return
		}
		p.g.falls = append(p.g.falls, fall{at: at, what: s})
		p.trace = false
		return
	case strings.HasPrefix(s, "EXT4-fs error"):
		p.g.errors = keep(p.g.errors, s)
		return
	case blockRE.MatchString(s):
		p.g.hangs = keep(p.g.hangs, s)
		return
	}
	f := p.open()
	if f == nil {
		return
	}
	m := ripRE.FindStringSubmatch(s)
	switch {
	case strings.HasPrefix(s, "---[ end trace"):
		f.ended, p.trace = true, false
	case s == "</TASK>":
		p.trace = false
	case strings.HasPrefix(s, "Call Trace:"):
		p.trace = true
	case m != nil && len(f.chain) == 0:
		f.add(m[1])
	case f.who == "" && whoRE.MatchString(s):
		f.who = whoRE.FindStringSubmatch(s)[1]
	case p.trace:
		f.add(s)
	}
}

// open is the fall that the console is in the middle of; nil: none.
func (p *reading) open() *fall {
	if n := len(p.g.falls); n > 0 && !p.g.falls[n-1].ended {
		return &p.g.falls[n-1]
	}
	return nil
}

// told takes a line of the guest's init.
func (p *reading) told(at float64, s string) {
	word, rest, _ := strings.Cut(s, " ")
	switch word {
	case "kernel":
		p.g.kernel = rest
	case "race":
		p.g.began = at
	case "hangs:":
		p.g.hangs = keep(p.g.hangs, rest)
	case "stress:":
		p.g.stress = append(p.g.stress, rest)
	case "end:":
		p.g.end = rest
	}
}

// add appends a frame; a guessed one ("? name") and what is no frame are left out.
func (f *fall) add(s string) {
	if m := callRE.FindStringSubmatch(s); m != nil {
		f.chain = append(f.chain, call{name: m[1], offset: m[2]})
	}
}

func (f *fall) names() []string {
	var out []string
	for _, c := range f.chain {
		out = append(out, c.name)
	}
	return out
}

func keep(list []string, s string) []string {
	if len(list) < maxKept {
		list = append(list, s)
	}
	return list
}

// class is the class of violation that the check behind a fall stands for; empty: none known.
func (f *fall) class() string {
	if len(f.chain) == 0 {
		return ""
	}
	for _, k := range []struct{ what, function, class string }{
		{"kernel BUG at fs/ext4/ext4_jbd2.c:", "__ext4_journal_stop", classNilHandle},
		{"kernel BUG at fs/ext4/ext4_jbd2.c:", "ext4_put_nojournal", classNilHandle},
		{"kernel BUG at fs/ext4/inode.c:", "ext4_writepages", "inline-writeback"},
		{"kernel BUG at fs/ext4/inode.c:", "ext4_do_writepages", "inline-writeback"},
		{"kernel BUG at fs/ext4/inline.c:", "ext4_write_inline_data_end", classModeMismatch},
		// The write began inline and ends in block mode: the folio has no buffers.
		{"kernel BUG at fs/buffer.c:", "__block_commit_write", classModeMismatch},
		{"kernel BUG at fs/buffer.c:", "block_commit_write", classModeMismatch},
		{"kernel BUG at fs/ext4/inode.c:", "ext4_da_write_end", classModeMismatch},
		{"kernel BUG at fs/ext4/inode.c:", "ext4_da_do_write_end", classModeMismatch},
	} {
		// The compiler's copies of a function have a suffix.
		name, _, _ := strings.Cut(f.chain[0].name, ".")
		if strings.HasPrefix(f.what, k.what) && name == k.function {
			return k.class
		}
	}
	return ""
}

// fallOf is the first fall of a class; nil: none.
func (g *guest) fallOf(class string) *fall {
	for i := range g.falls {
		if g.falls[i].class() == class {
			return &g.falls[i]
		}
	}
	return nil
}

var sigbusRE = regexp.MustCompile(`(\d+) SIGBUS|SIGBUS (\d+)`)

// sigbus is the last count that stress told; empty: it told none.
func (g *guest) sigbus() string {
	last := ""
	for _, s := range g.stress {
		if m := sigbusRE.FindStringSubmatch(s); m != nil {
			last = m[1] + m[2]
		}
	}
	return last
}
