package blockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// The flags of a recorded entry, as dm-log-writes has them.
const (
	LogFlush   = 1 << iota // everything before it is durable
	LogFUA                 // this write is durable at once
	LogDiscard             // the range was discarded
	LogMark                // no request: a name for this place in the log
)

// LogSector is the unit of recorded writes, in bytes: what a disk writes whole or not at all.
const LogSector = 512

const (
	logMagic     = 0x6a736677736872
	logVersion   = 1
	logEntrySize = 32 // sector, nr_sectors, flags, data_len
	// MaxMark is how long the name of a mark may be, in bytes: it stands in the entry's own sector, with a zero after it.
	MaxMark = LogSector - logEntrySize - 1
)

// LogEntry is one recorded request or mark.
type LogEntry struct {
	Flags uint64
	Off   int64  // bytes, a multiple of LogSector
	Data  []byte // what was written, whole sectors; the name of a mark
}

// IsWrite says whether the entry changes the device.
func (e LogEntry) IsWrite() bool { return e.Flags&LogMark == 0 && len(e.Data) > 0 }

// IsFlush says whether everything before the entry is durable after it.
func (e LogEntry) IsFlush() bool { return e.Flags&LogFlush != 0 }

// Recorder passes requests on to a device and records each write and flush in the order in which they took effect. Writes that cover
// sectors in part are recorded as the whole sectors that the device then holds. Requests that fail are not recorded. Writes wait for
// each other and for flushes, so that the record is exact.
type Recorder struct {
	below Device // immutable

	mu      sync.Mutex
	entries []LogEntry // guarded by mu
}

// NewRecorder records in memory what is written to dev.
func NewRecorder(dev Device) *Recorder { return &Recorder{below: dev} }

// ReadAt reads from the device.
func (r *Recorder) ReadAt(p []byte, off int64) (int, error) { return r.below.ReadAt(p, off) }

// WriteAt writes to the device and records the sectors.
func (r *Recorder) WriteAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.below.WriteAt(p, off)
	if err != nil || n == 0 {
		return n, err
	}
	from := off &^ (LogSector - 1)
	to := min((off+int64(n)+LogSector-1)&^(LogSector-1), r.below.Size())
	b := make([]byte, (to-from+LogSector-1)&^(LogSector-1))
	if from == off && to == off+int64(n) {
		copy(b, p)
	} else if _, err := r.below.ReadAt(b[:to-from], from); err != nil {
		return n, fmt.Errorf("record of %d bytes at offset %d: %w", n, off, err)
	}
	r.entries = append(r.entries, LogEntry{Off: from, Data: b})
	return n, nil
}

// Flush flushes the device and records that.
func (r *Recorder) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.below.Flush(); err != nil {
		return err
	}
	r.entries = append(r.entries, LogEntry{Flags: LogFlush})
	return nil
}

// Mark names the present place in the log; of a name longer than MaxMark bytes the head is kept.
func (r *Recorder) Mark(name string) {
	r.mu.Lock()
	r.entries = append(r.entries, LogEntry{Flags: LogMark, Data: []byte(name[:min(len(name), MaxMark)])})
	r.mu.Unlock()
}

// Entries returns what was recorded so far; the bytes are shared and must not be changed.
func (r *Recorder) Entries() []LogEntry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.entries[:len(r.entries):len(r.entries)]
}

// Size is that of the device.
func (r *Recorder) Size() int64 { return r.below.Size() }

// ReadOnly is that of the device.
func (r *Recorder) ReadOnly() bool { return r.below.ReadOnly() }

// Close closes the device; the record stays.
func (r *Recorder) Close() error { return r.below.Close() }

// WriteLog writes entries to w as dm-log-writes lays them out on its log device, for replay-log: a superblock, then for each entry a
// sector that describes it (with the name, for a mark) and the sectors written.
func WriteLog(w io.Writer, entries []LogEntry) error {
	var s [LogSector]byte
	le := binary.LittleEndian
	le.PutUint64(s[0:], logMagic)
	le.PutUint64(s[8:], logVersion)
	le.PutUint64(s[16:], uint64(len(entries)))
	le.PutUint32(s[24:], LogSector)
	if _, err := w.Write(s[:]); err != nil {
		return err
	}
	for n, e := range entries {
		if e.Off%LogSector != 0 || e.Flags&LogMark == 0 && len(e.Data)%LogSector != 0 || e.Flags&LogMark != 0 && len(e.Data) > MaxMark {
			return fmt.Errorf("log entry %d: %d bytes at offset %d (flags %d) are not whole sectors of %d", n, len(e.Data), e.Off, e.Flags, LogSector)
		}
		clear(s[:])
		le.PutUint64(s[0:], uint64(e.Off/LogSector))
		le.PutUint64(s[16:], e.Flags)
		data := e.Data
		if e.Flags&LogMark != 0 {
			le.PutUint64(s[24:], uint64(len(data)))
			copy(s[logEntrySize:], data)
			data = nil
		}
		le.PutUint64(s[8:], uint64(len(data)/LogSector))
		if _, err := w.Write(s[:]); err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return nil
}

// LogReader reads what WriteLog or dm-log-writes wrote.
type LogReader struct {
	r      io.Reader
	sector int
	left   uint64
	n      uint64
}

// maxLogWrite bounds one entry's bytes: a length beyond it is damage.
const maxLogWrite = 1 << 28

// NewLogReader reads the superblock of the log in r.
func NewLogReader(r io.Reader) (*LogReader, error) {
	var s [LogSector]byte
	if _, err := io.ReadFull(r, s[:]); err != nil {
		return nil, fmt.Errorf("write log: superblock: %w", err)
	}
	le := binary.LittleEndian
	if m, v := le.Uint64(s[0:]), le.Uint64(s[8:]); m != logMagic || v != logVersion {
		return nil, fmt.Errorf("write log: magic 0x%x version %d, want 0x%x version %d", m, v, uint64(logMagic), logVersion)
	}
	l := &LogReader{r: r, sector: int(le.Uint32(s[24:])), left: le.Uint64(s[16:])}
	if l.sector != 512 && l.sector != 1024 && l.sector != 2048 && l.sector != 4096 {
		return nil, fmt.Errorf("write log: sectors of %d bytes, want 512 to 4096", l.sector)
	}
	if _, err := io.CopyN(io.Discard, r, int64(l.sector-LogSector)); err != nil {
		return nil, fmt.Errorf("write log: superblock: %w", err)
	}
	return l, nil
}

// Next returns the next entry, io.EOF after the last.
func (l *LogReader) Next() (LogEntry, error) {
	if l.left == 0 {
		return LogEntry{}, io.EOF
	}
	s := make([]byte, l.sector)
	if _, err := io.ReadFull(l.r, s); err != nil {
		return LogEntry{}, l.bad(err)
	}
	le := binary.LittleEndian
	sector, count, flags, n := le.Uint64(s[0:]), le.Uint64(s[8:]), le.Uint64(s[16:]), le.Uint64(s[24:])
	e := LogEntry{Flags: flags, Off: int64(sector) * int64(l.sector)}
	switch {
	case sector > 1<<50 || count > maxLogWrite/uint64(l.sector):
		return LogEntry{}, fmt.Errorf("write log: entry %d: %d sectors at sector %d", l.n, count, sector)
	case flags&LogMark != 0:
		if n > uint64(l.sector-logEntrySize) {
			return LogEntry{}, fmt.Errorf("write log: entry %d: mark of %d bytes", l.n, n)
		}
		e.Data = s[logEntrySize : logEntrySize+n]
	case count > 0 && flags&LogDiscard == 0:
		e.Data = make([]byte, count*uint64(l.sector))
		if _, err := io.ReadFull(l.r, e.Data); err != nil {
			return LogEntry{}, l.bad(err)
		}
	}
	l.left--
	l.n++
	return e, nil
}

func (l *LogReader) bad(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("write log: entry %d: %w", l.n, err)
}

// ReadLog reads all entries of the log in r.
func ReadLog(r io.Reader) ([]LogEntry, error) {
	l, err := NewLogReader(r)
	if err != nil {
		return nil, err
	}
	var out []LogEntry
	for {
		e, err := l.Next()
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, e)
	}
}
