package stress

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// workerConfig is what a worker process reads from its standard input.
type workerConfig struct {
	Schema   int    `json:"schema"`
	Dir      string `json:"dir"`
	Workers  []int  `json:"workers"`
	Parties  int    `json:"parties"`
	Announce bool   `json:"announce"`
	Params   params `json:"params"`
}

// workerResult is what a worker process writes to its standard output when it ends.
type workerResult struct {
	Schema  int         `json:"schema"`
	Workers []workerOut `json:"workers"`
}

// workerOut is what one worker did and saw.
type workerOut struct {
	ID       int              `json:"id"`
	Write    string           `json:"write"`            // histogram of write(2), encoded
	Fault    string           `json:"fault"`            // histogram of the first touch of a mapping, encoded
	Errors   map[string]int64 `json:"errors,omitempty"` // "write:EIO" and the like -> count
	Findings map[string]int64 `json:"findings,omitempty"`
	First    *Finding         `json:"first,omitempty"`
	// FirstAt is when a class was first found, in seconds since the race began.
	FirstAt map[string]float64 `json:"first_at,omitempty"`
}

const (
	workerSchema = 1
	histMin      = 100                // nanoseconds
	histMax      = int64(time.Minute) // longer ones count as this
	histDigits   = 3                  // significant figures
	firstSeq     = uint32(maxCells)   // below: the stamps of the new file
	sizeUnknown  = int64(-1)          // slot.maybe: none
	filePerm     = os.FileMode(0o600) // of the files raced on
	openFlags    = unix.O_RDWR        // what a mapper and a writer open with
	rightsShared = unix.PROT_READ | unix.PROT_WRITE
)

func newHist() *hdrhistogram.Histogram { return hdrhistogram.New(histMin, histMax, histDigits) }

func encodeHist(h *hdrhistogram.Histogram) (string, error) {
	b, err := h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	if err != nil {
		return "", fmt.Errorf("histogram of %d values: %w", h.TotalCount(), err)
	}
	return base64.StdEncoding.EncodeToString(b), nil
}

func decodeHist(s string) (*hdrhistogram.Histogram, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("histogram of %d letters: %w", len(s), err)
	}
	h, err := hdrhistogram.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("histogram of %d bytes: %w", len(b), err)
	}
	return h, nil
}

// fileName is the name of a file of a round. It is short: the seed's image has room in its directory for few bytes.
func fileName(round uint64, f int) string {
	return "r" + strconv.FormatUint(round, 10) + "-" + strconv.Itoa(f)
}

// WorkerMain is a worker process: configuration as JSON on in, result as JSON on out, the shared memory as descriptor 3. It ends
// when the leader says so, and exits the process when in is closed before that: then the leader is gone.
func WorkerMain(in io.Reader, out io.Writer) error {
	var c workerConfig
	dec := json.NewDecoder(in)
	if err := dec.Decode(&c); err != nil {
		return fmt.Errorf("worker's configuration: %w", err)
	}
	if c.Schema != workerSchema {
		return fmt.Errorf("worker's configuration: schema %d, want %d", c.Schema, workerSchema)
	}
	if n := c.Params.workers(); n < 1 || n > maxWorkers || c.Params.Files < 1 || c.Params.Files > maxFiles || len(c.Workers) == 0 {
		return fmt.Errorf("worker's configuration: %d workers, %d files, %d of them here", n, c.Params.Files, len(c.Workers))
	}
	for _, id := range c.Workers {
		if id < 0 || id >= c.Params.workers() {
			return fmt.Errorf("worker's configuration: worker %d of %d", id, c.Params.workers())
		}
	}
	sh, err := openShared(sharedFd)
	if err != nil {
		return err
	}
	finished := make(chan struct{})
	defer close(finished)
	go exitWithLeader(in, finished)
	res := workerResult{Schema: workerSchema, Workers: make([]workerOut, len(c.Workers))}
	errs := make([]error, len(c.Workers))
	var wg sync.WaitGroup
	for i, id := range c.Workers {
		wg.Go(func() { res.Workers[i], errs[i] = runWorker(&c, sh, id) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		sh.breakOff()
		return err
	}
	if err := json.NewEncoder(out).Encode(res); err != nil {
		return fmt.Errorf("worker's result: %w", err)
	}
	return nil
}

func exitWithLeader(in io.Reader, finished <-chan struct{}) {
	// The end of the input is the news; what came before it is not looked at.
	_, _ = io.Copy(io.Discard, in)
	select {
	case <-finished:
	default:
		os.Exit(1)
	}
}

// worker is one writer or mapper. It belongs to one goroutine, locked to one thread.
type worker struct {
	c      *workerConfig
	p      params
	sh     *shared
	me     *slot
	id     int
	file   int
	round  uint64
	lay    layout
	first  int // of its base cells
	count  int // of its base cells
	seq    uint32
	path   string
	write  *hdrhistogram.Histogram
	fault  *hdrhistogram.Histogram
	out    workerOut
	fd     int
	src    *source // where mapped writes take their bytes from; nil: none
	pageSz int
	sib    *Sibling // the race that is run instead of the main one; nil: the main one
	turns  int      // of this round
	more   moreFds
}

func runWorker(c *workerConfig, sh *shared, id int) (workerOut, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	w := &worker{c: c, p: c.Params, sh: sh, me: &sh.slots[id], id: id, file: c.Params.fileOf(id), write: newHist(), fault: newHist(),
		pageSz: os.Getpagesize(), sib: c.Params.sibling()}
	w.out = workerOut{ID: id, Errors: map[string]int64{}, Findings: map[string]int64{}, FirstAt: map[string]float64{}}
	for {
		if err := w.wait(); err != nil {
			return w.out, err
		}
		if sh.stop.Load() != 0 {
			w.me.idle.Store(1) // it does not move any more
			return w.finish()
		}
		if err := w.oneRound(); err != nil {
			return w.out, err
		}
	}
}

// wait meets the others at the barrier; the watchdog does not count that time.
func (w *worker) wait() error {
	w.me.idle.Store(1)
	defer w.me.idle.Store(0)
	return w.sh.wait(w.c.Parties)
}

func (w *worker) finish() (workerOut, error) {
	var err error
	if w.out.Write, err = encodeHist(w.write); err != nil {
		return w.out, err
	}
	w.out.Fault, err = encodeHist(w.fault)
	return w.out, err
}

// oneRound goes through the barriers of a round: make, open, race, close.
func (w *worker) oneRound() error {
	w.round = w.sh.round.Load()
	w.lay = w.p.layout(w.round, w.file)
	w.first, w.count = w.lay.chunk(w.id)
	w.seq, w.turns = firstSeq, 0
	w.me.seq.Store(firstSeq)
	w.path = filepath.Join(w.c.Dir, fileName(w.round, w.file))
	w.me.size.Store(int64(w.lay.size()))
	w.me.maybe.Store(sizeUnknown)
	for i := range w.me.cells {
		w.me.cells[i].reset(stamp(w.id, w.round, uint32(i)))
		if w.sib != nil && (i >= len(w.lay.at) || !w.lay.inside(i)) {
			w.me.cells[i].reset(0)
		}
	}
	if w.id == w.p.firstWriter(w.file) {
		w.sh.made[w.file].Store(w.makeFile())
	}
	w.beat()
	if err := w.wait(); err != nil {
		return err
	}
	open := w.sh.made[w.file].Load() != 0 && w.open()
	w.beat()
	if err := w.wait(); err != nil {
		return err
	}
	if open {
		switch {
		case w.sib != nil:
			w.siblingRound()
		case w.p.isMapper(w.id):
			w.mapperRound()
		default:
			w.writerRound()
		}
	}
	if w.leads() {
		w.sh.done[w.file].Add(1)
	}
	if open {
		w.closeMore()
		w.closeSource(w.src)
		// A close that fails tells of write-back that failed; what was not acknowledged stays so.
		w.check("close", unix.Close(w.fd))
	}
	w.beat()
	return w.wait()
}

// leads: the round lasts until all that lead are through.
func (w *worker) leads() bool {
	if w.sib != nil {
		return !w.sib.actors[w.id].follows
	}
	return !w.p.isMapper(w.id)
}

// leaders counts those that lead on the worker's file.
func (w *worker) leaders() uint32 {
	if w.sib != nil {
		return uint32(w.sib.leaders())
	}
	return uint32(w.p.writersOn(w.file))
}

func (w *worker) beat() { w.me.beat.Add(1) }

// makeFile makes the round's file with a single write(2), 1 when it stands.
func (w *worker) makeFile() uint32 {
	fd, err := unix.Open(w.path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, uint32(filePerm))
	if !w.check("create", err) {
		return 0
	}
	data := w.lay.initial(w.round)
	n, err := unix.Write(fd, data)
	ok := w.check("first-write", err)
	if ok && n != len(data) {
		w.find(classMismatch, "first write took %d bytes of %d", n, len(data))
		ok = false
	}
	if !w.check("close", unix.Close(fd)) || !ok {
		return 0
	}
	return 1
}

func (w *worker) open() bool {
	fd, err := unix.Open(w.path, openFlags|unix.O_CLOEXEC, 0)
	if !w.check("open", err) {
		return false
	}
	w.fd, w.src = fd, nil
	if w.p.MappedBuffer && !w.p.LateOpen && !w.p.isMapper(w.id) && w.count > 0 {
		w.src = w.openSource()
	}
	return true
}

// check counts an error by call and name; true: none.
func (w *worker) check(call string, err error) bool {
	if err == nil {
		return true
	}
	w.out.Errors[call+":"+errnoName(err)]++
	return false
}

func errnoName(err error) string {
	var no unix.Errno
	if errors.As(err, &no) {
		if no == unix.EUCLEAN {
			return "EUCLEAN" // x/sys knows it by another name as well
		}
		if s := unix.ErrnoName(no); s != "" {
			return s
		}
	}
	return err.Error()
}

// find counts a finding of the worker's own and keeps the first.
func (w *worker) find(class, format string, args ...any) {
	w.out.Findings[class]++
	if _, ok := w.out.FirstAt[class]; !ok {
		w.out.FirstAt[class] = w.sh.since()
	}
	if w.out.First == nil {
		text := fmt.Sprintf("round %d file %s worker %d: ", w.round, fileName(w.round, w.file), w.id) + fmt.Sprintf(format, args...)
		w.out.First = &Finding{Class: class, Text: text}
	}
}

// nextStamp is a value that this worker has not used in this round.
func (w *worker) nextStamp() uint64 {
	w.seq++
	w.me.seq.Store(w.seq)
	return stamp(w.id, w.round, w.seq)
}

// lookAgain is how often what was found wrong is read again: a conversion that is under way may take a while, and the next one may follow.
const lookAgain = 8

// look judges one of the worker's own cells in the middle of a round: nobody else changes it. again reads the cell once more, nil: that
// cannot be done.
func (w *worker) look(cell int, v uint64, how string, again func() (uint64, bool)) {
	want := w.me.cells[cell].want(w.id, w.p.isMapper(w.id), int64(w.lay.offset(cell)))
	if want.allows(v) {
		return
	}
	f := FileWant{Round: w.round}
	if w.p.MappedBuffer {
		f.Copied = w.p.Writers
	}
	class := f.classify(want, v)
	for i := 0; again != nil && i < lookAgain && class != ClassTornRead; i++ {
		if now, ok := again(); ok && want.allows(now) {
			class = ClassTornRead
		}
		spin(jitterSpins * (i + 1))
	}
	w.find(class, "cell %d at byte %d by %s: found %s, want %s", cell, w.lay.offset(cell), how, stampText(v), wantText(want))
}
