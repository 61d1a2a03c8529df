package stress

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	maxKept      = 8       // files left in an image for its turn
	maxKeptBytes = 1 << 20 // larger ones are not kept
)

// openFile is a file as read(2) gives it.
type openFile struct {
	fd int
	n  int
}

func (o openFile) size() int { return o.n }

func (o openFile) at(off int64, p []byte) error {
	n, err := unix.Pread(o.fd, p, off)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if n != len(p) {
		return fmt.Errorf("read of %d bytes at %d gave %d of a file of %d", len(p), off, n, o.n)
	}
	return nil
}

// judge looks at a file twice, as the mount has it (a descriptor that is observed) and as the page cache has it.
func (g *campaign) judge(round uint64, f int, path string) FileWant {
	want := g.want(round, f)
	for _, way := range []struct {
		name  string
		flags int
	}{{"read-write", unix.O_RDWR}, {"read-only", unix.O_RDONLY}} {
		found, err := judgePath(want, path, way.flags)
		if err != nil {
			g.errors["judge:"+errnoName(err)]++
			continue
		}
		if g.found(found, "opened "+way.name) > 0 {
			break // the second look would count the same again
		}
	}
	return want
}

func judgePath(want FileWant, path string, flags int) ([]Finding, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("fstat: %w", err)
	}
	return Judge(want, openFile{fd: fd, n: int(st.Size)})
}

// found counts findings, notes the first, and returns how many there are.
func (g *campaign) found(list []Finding, how string) int {
	for _, fd := range list {
		g.findings[fd.Class]++
		g.seen.note(fd.Class, g.sh.since())
		fd.Text += " (" + how + ")"
		g.note("%s: %s", fd.Class, fd.Text)
		if g.first == nil {
			g.first = &fd
		}
	}
	return len(list)
}

// want collects what the workers say of a file.
func (g *campaign) want(round uint64, f int) FileWant {
	lay := g.p.layout(round, f)
	w := FileWant{Name: fileName(round, f), Round: round, Layout: lay}
	if g.p.MappedBuffer {
		w.Copied = g.p.Writers
	}
	for i, o := range lay.owner {
		w.Cells = append(w.Cells, g.sh.slots[o].cells[i].want(o, g.p.isMapper(o), int64(lay.offset(i))))
	}
	first := g.p.firstWriter(f)
	for i := range lay.append {
		cell := len(lay.owner) + i
		w.Cells = append(w.Cells, g.sh.slots[first].cells[cell].want(first, false, int64(lay.offset(cell))))
	}
	w.Size = int(g.sh.slots[first].size.Load())
	w.Maybe = int(g.sh.slots[first].maybe.Load())
	return w
}

func (g *campaign) unlink(path string) {
	if err := unix.Unlink(path); err != nil && !errors.Is(err, unix.ENOENT) {
		g.errors["unlink:"+errnoName(err)]++
	}
}

// keep leaves the last files of a campaign for readImage and removes the others.
func (g *campaign) keep(w FileWant) {
	if !g.c.keepFiles || w.Size > maxKeptBytes || w.Maybe > maxKeptBytes {
		g.unlink(filepath.Join(g.dir, w.Name))
		return
	}
	g.kept = append(g.kept, w)
	if len(g.kept) > maxKept {
		g.unlink(filepath.Join(g.dir, g.kept[0].Name))
		g.kept = g.kept[1:]
	}
}

// ImageRead is what the files that were left in the image hold once it is unmounted, as e2fsprogs reads them.
type ImageRead struct {
	Files    int      `json:"files"`
	Clean    bool     `json:"clean"`
	Findings []string `json:"findings"`
}

var sizeRE = regexp.MustCompile(`(?m)\bSize: (\d+)$`)

// statSize asks debugfs for i_size.
func statSize(debugfs, image, name string) (int, error) {
	out, code, err := runTool(debugfs, "-R", "stat /"+name, image)
	m := sizeRE.FindStringSubmatch(out)
	if err != nil || code != 0 || m == nil {
		return 0, fmt.Errorf("debugfs stat of /%s: exit %d: %s: %w", name, code, out, orNone(err))
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return 0, fmt.Errorf("debugfs stat of /%s: size %s: %w", name, m[1], err)
	}
	return n, nil
}

// readImage reads the kept files with debugfs, which shares no line with the mount, and judges them as they were judged on it.
func readImage(image string, kept []FileWant) (ImageRead, []Finding, error) {
	res := ImageRead{Clean: true, Findings: []string{}}
	debugfs, err := findTool("debugfs", "e2fsprogs")
	if err != nil {
		return res, nil, err
	}
	dir, err := os.MkdirTemp("", "inlinefs-read")
	if err != nil {
		return res, nil, fmt.Errorf("work directory: %w", err)
	}
	defer os.RemoveAll(dir)
	var all []Finding
	for _, w := range kept {
		to := filepath.Join(dir, w.Name)
		out, code, err := runTool(debugfs, "-R", fmt.Sprintf("dump /%s %s", w.Name, to), image)
		if err != nil || code != 0 {
			return res, nil, fmt.Errorf("debugfs dump of /%s: exit %d: %s: %w", w.Name, code, out, orNone(err))
		}
		data, err := os.ReadFile(to)
		if err != nil {
			return res, nil, fmt.Errorf("debugfs dump of /%s: %s: %w", w.Name, out, err)
		}
		// Of a short inline file e2fsprogs 1.47 dumps all of i_block, also what is past i_size.
		size, err := statSize(debugfs, image, w.Name)
		if err != nil {
			return res, nil, err
		}
		data = data[:min(len(data), size)]
		res.Files++
		found, err := Judge(w, memBytes(data))
		if err != nil {
			return res, nil, err
		}
		for _, f := range found {
			f.Text += " (in the image, unmounted)"
			res.Findings = append(res.Findings, f.Class+": "+f.Text)
			all = append(all, f)
		}
	}
	res.Clean = len(res.Findings) == 0
	return res, all, nil
}
