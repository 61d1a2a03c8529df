//go:build deadlock && !explore

package lock

import (
	"bytes"
	"regexp"
	"sync"
	"time"

	"github.com/petermattis/goid"
	deadlock "github.com/sasha-s/go-deadlock"
)

// waitLimit is when a wait counts as a deadlock: a legitimate hold may span slow I/O on a loaded machine; a real deadlock never ends.
const waitLimit = 60 * time.Second

// below gathers what go-deadlock prints; it prints a report in pieces and then calls back.
type below struct {
	mu   sync.Mutex
	text bytes.Buffer        // guarded by mu
	seen map[string]struct{} // guarded by mu; reports without their addresses
}

var fromBelow = &below{seen: map[string]struct{}{}}

func init() {
	deadlock.Opts.DeadlockTimeout = waitLimit
	deadlock.Opts.LogBuf = fromBelow
	deadlock.Opts.OnPotentialDeadlock = fromBelow.report
}

// Write is go-deadlock's log.
func (b *below) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// numbersIn is what differs between two reports of the same places.
var numbersIn = regexp.MustCompile(`0x[0-9a-f]+|goroutine \d+`)

// report passes on what go-deadlock has found: a wait over the limit, or something about locks that have no name. Of named ones it knows
// less than the graph of classes, which was asked before: it takes a directory that was a parent and is a child by now for an inversion.
//
// go-deadlock calls this under its own mutex, so that a receiver that takes a lock must not run here.
func (b *below) report() {
	kind := KindWait
	id := goid.Get()
	if held := holdings(id); len(held) > 0 && held[len(held)-1].waiting {
		kind = KindInstances
	}
	b.mu.Lock()
	text := b.text.String()
	b.text.Reset()
	_, again := b.seen[numbersIn.ReplaceAllString(text, "")]
	drop := kind == KindInstances && allNamed(id) || again
	if !drop {
		b.seen[numbersIn.ReplaceAllString(text, "")] = struct{}{}
	}
	b.mu.Unlock()
	if drop {
		return
	}
	r := Report{Kind: kind, Text: thick + text + thick}
	fn := onCycle.Load()
	if fn == nil {
		die(r)
	}
	go (*fn)(r)
}

// allNamed says whether every lock that the goroutine has or waits for has a name.
func allNamed(id int64) bool {
	for _, h := range holdings(id) {
		if h.class == nil {
			return false
		}
	}
	return true
}
