package blockdev

import "fmt"

// Replay makes the images that a recorded run could have left: the base with a prefix of the log applied. Going forward costs only
// the entries in between. It belongs to one goroutine.
type Replay struct {
	base []byte     // immutable
	log  []LogEntry // immutable
	img  []byte     // base with log[:at] applied
	at   int
}

// NewReplay replays log over base, which stays as it is. The log's writes must lie within base.
func NewReplay(base []byte, log []LogEntry) (*Replay, error) {
	for n, e := range log {
		if e.IsWrite() && (e.Off < 0 || e.Off+int64(len(e.Data)) > int64(len(base))) {
			return nil, fmt.Errorf("log entry %d: %d bytes at offset %d are beyond the image's %d", n, len(e.Data), e.Off, len(base))
		}
	}
	return &Replay{base: base, log: log, img: append([]byte(nil), base...)}, nil
}

// Seek makes the image that of the first n entries, 0 <= n <= len(log).
func (r *Replay) Seek(n int) {
	if n < r.at {
		copy(r.img, r.base)
		r.at = 0
	}
	for ; r.at < n; r.at++ {
		if e := r.log[r.at]; e.IsWrite() {
			copy(r.img[e.Off:], e.Data)
		}
	}
}

// Image is the device after the first n entries and then the extra writes, of which some or parts may have been lost. It is a
// copy-on-write view and must not be used after the next Seek or Image.
func (r *Replay) Image(n int, extra []LogEntry) (*Overlay, error) {
	r.Seek(n)
	o := NewOverlay(NewMemReadOnly(r.img))
	for _, e := range extra {
		if !e.IsWrite() {
			continue
		}
		if _, err := o.WriteAt(e.Data, e.Off); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// Snapshot returns a copy of the device's bytes.
func (o *Overlay) Snapshot() ([]byte, error) {
	b := make([]byte, o.Size())
	_, err := o.ReadAt(b, 0)
	return b, err
}
