package crash

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"

	"inlinefs/blockdev"
	"inlinefs/ondisk"
	"inlinefs/ondisk/jbd2"
)

// Point is one crash: after N entries of the log. Mix 0 keeps every write before it; another value is the seed that says which writes
// since the last flush are lost or torn, and whether the recovery crashes as well.
type Point struct {
	N   int
	Mix int
}

// Points lists the places of the log where a crash makes a difference: after each write and flush.
func (r *Run) Points() []int {
	out := []int{0}
	for n, e := range r.Log {
		if e.Flags&blockdev.LogMark == 0 {
			out = append(out, n+1)
		}
	}
	return out
}

// flushed is the length of the part of log[:n] that is durable.
func flushed(log []blockdev.LogEntry, n int) int {
	for n > 0 && !log[n-1].IsFlush() {
		n--
	}
	return n
}

// marked is the last place after n with nothing but marks in between: what had ended when the entry before n was done.
func (r *Run) marked(n int) int {
	for n < len(r.Log) && r.Log[n].Flags&blockdev.LogMark != 0 {
		n++
	}
	return n
}

// lossy drops and tears writes. Sectors keep their order.
func lossy(rng *rand.Rand, in []blockdev.LogEntry) []blockdev.LogEntry {
	keep := []float64{0.15, 0.5, 0.85}[rng.Intn(3)]
	tear := []float64{0, 0.3, 1}[rng.Intn(3)]
	unit := blockdev.LogSector << rng.Intn(4)
	var out []blockdev.LogEntry
	for _, e := range in {
		switch {
		case !e.IsWrite():
		case rng.Float64() < tear:
			out = append(out, torn(rng, e, unit, keep)...)
		case rng.Float64() < keep:
			out = append(out, e)
		}
	}
	return out
}

// torn is what of one write reached the device: some of its units.
func torn(rng *rand.Rand, e blockdev.LogEntry, unit int, keep float64) []blockdev.LogEntry {
	var out []blockdev.LogEntry
	for at := 0; at < len(e.Data); {
		n := min(unit-int(e.Off+int64(at))%unit, len(e.Data)-at)
		if from := e.Off + int64(at); from >= ondisk.SuperOffset && from < ondisk.SuperOffset+ondisk.SuperSize {
			n = min(max(n, int(ondisk.SuperOffset+ondisk.SuperSize-from)), len(e.Data)-at)
		}
		if rng.Float64() < keep {
			out = append(out, blockdev.LogEntry{Off: e.Off + int64(at), Data: e.Data[at : at+n]})
		}
		at += n
	}
	return out
}

// sweeper tries the points of one run.
type sweeper struct {
	run   *Run
	rep   *blockdev.Replay
	dir   string // for images that e2fsck looks at
	every int    // one point in how many e2fsck looks at; 0 for none
	tried int
	fscks int
}

func newSweeper(r *Run, dir string, every int) (*sweeper, error) {
	rep, err := blockdev.NewReplay(r.Base, r.Log)
	if err != nil {
		return nil, err
	}
	return &sweeper{run: r, rep: rep, dir: dir, every: every}, nil
}

// image makes the device that a crash at p leaves.
func (s *sweeper) image(p Point) (*blockdev.Overlay, *rand.Rand, error) {
	r := s.run
	from := flushed(r.Log, p.N)
	extra := r.Log[from:p.N]
	rng := rand.New(rand.NewSource(r.Seed<<32 ^ int64(p.N)<<12 ^ int64(p.Mix)))
	if p.Mix != 0 {
		extra = lossy(rng, extra)
	}
	dev, err := s.rep.Image(from, extra)
	return dev, rng, err
}

// try makes the image of one point and judges it.
func (s *sweeper) try(p Point) error {
	s.tried++
	r := s.run
	dev, rng, err := s.image(p)
	if err != nil {
		return err
	}
	begun, ended := r.begun[p.N], r.ended[r.marked(p.N)]
	if !r.Variant.Journal {
		// The entry that follows is the mark of the fsync's end.
		return s.tryUnjournalled(dev, r.ended[min(p.N+1, len(r.Log))])
	}
	if p.Mix != 0 && rng.Intn(6) == 0 {
		if dev, err = s.again(rng, dev); err != nil {
			return fmt.Errorf("recovery that crashes: %w", err)
		}
	}
	err = r.verify(dev, begun, ended)
	if err != nil || s.every > 0 && (s.tried+int(r.Seed%1000)*17)%s.every == 0 {
		s.fscks++
		out, code, e := s.fsck(dev, "-fn")
		if e == nil && code != 0 {
			err = errors.Join(err, fmt.Errorf("e2fsck -fn after recovery: exit %d\n%s", code, out))
		} else if err == nil {
			err = e
		}
	}
	return err
}

// again lets a mount and unmount of dev crash, and returns what is left.
func (s *sweeper) again(rng *rand.Rand, dev *blockdev.Overlay) (*blockdev.Overlay, error) {
	base, err := dev.Snapshot()
	if err != nil {
		return nil, err
	}
	rec := blockdev.NewRecorder(dev)
	m, err := mount(rec, s.run.Variant, false)
	if err != nil {
		return nil, err
	}
	if err := m.stop(); err != nil {
		return nil, err
	}
	log := rec.Entries()
	rep, err := blockdev.NewReplay(base, log)
	if err != nil {
		return nil, err
	}
	n := rng.Intn(len(log) + 1)
	from := flushed(log, n)
	return rep.Image(from, lossy(rng, log[from:n]))
}

// fsck runs e2fsck on a copy of dev.
func (s *sweeper) fsck(dev *blockdev.Overlay, how string) (out string, code int, err error) {
	path, err := s.save(dev)
	if err != nil {
		return "", 0, err
	}
	defer os.Remove(path)
	return e2fsck(path, how)
}

// save writes dev's bytes to a temporary file.
func (s *sweeper) save(dev *blockdev.Overlay) (string, error) {
	b, err := dev.Snapshot()
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(s.dir, "crash-*.ext4")
	if err != nil {
		return "", err
	}
	_, err = f.Write(b)
	return f.Name(), errors.Join(err, f.Close())
}

func e2fsck(path, how string) (out string, code int, err error) {
	bin, err := tool("e2fsck")
	if err != nil {
		return "", 0, err
	}
	b, err := exec.Command(bin, how, path).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(b), exit.ExitCode(), nil
	}
	return string(b), 0, err
}

// tryUnjournalled judges a point of an image without a journal: what fsync promised of a file's bytes, after a repair. e2fsck may
// move what it finds, so that a file is looked for by its bytes.
func (s *sweeper) tryUnjournalled(dev *blockdev.Overlay, ended int) error {
	path, err := s.save(dev)
	if err != nil {
		return err
	}
	defer os.Remove(path)
	s.fscks++
	if out, code, err := e2fsck(path, "-fy"); err != nil || code > 2 {
		return errors.Join(err, fmt.Errorf("e2fsck -fy: exit %d\n%s", code, out))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return s.run.verifyUnjournalled(blockdev.NewMem(b), ended)
}

// journalUse counts the writes of the journal's superblock and how often the log began again at its start.
func (r *Run) journalUse() (supers, wraps int) {
	at := int64(-1)
	for _, e := range r.Log {
		if !e.IsWrite() || len(e.Data) < 12 || be32(e.Data) != jbd2.Magic {
			continue
		}
		switch t := be32(e.Data[4:]); {
		case t == uint32(jbd2.TypeSuperblockV2):
			supers++
		case e.Off < at:
			wraps++
			fallthrough
		default:
			at = e.Off
		}
	}
	return supers, wraps
}

func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }
