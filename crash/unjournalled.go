package crash

import (
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/blockdev"
)

// FsyncPoints lists the places of the log of a run without a journal where something is promised: after the last flush of each fsync.
func (r *Run) FsyncPoints() []int {
	var out []int
	for _, p := range r.model.promises {
		if p.file == nil {
			continue
		}
		for n := range r.Log {
			if r.ended[n+1] == p.op && r.ended[n] != p.op {
				out = append(out, flushed(r.Log, n))
				break
			}
		}
	}
	return out
}

// verifyUnjournalled looks for the files that an fsync made durable before operation ended did, with their bytes: an fsync without a journal
// writes all metadata, so that names and sizes are those of the moment too. The image has been repaired.
func (r *Run) verifyUnjournalled(dev blockdev.Device, ended int) error {
	s, err := mount(dev, r.Variant, false)
	if err != nil {
		return err
	}
	tree := map[string]*found{}
	err = s.walk("", fuse.FUSE_ROOT_ID, tree)
	if e := s.stop(); err == nil && e != nil {
		err = fmt.Errorf("unmount after repair: %w", e)
	}
	if err != nil {
		return err
	}
	names := r.model.states[ended]
	for path, f := range names {
		synced := r.model.syncedAt(f, ended)
		if synced == 0 || f.kind != regular {
			continue
		}
		e := tree[path]
		if e == nil {
			return fmt.Errorf("%q, synced by operation %d, is missing after operation %d", path, synced, ended)
		}
		v := f.at(ended)
		if len(e.data) != len(v.data) {
			return fmt.Errorf("%q, synced by operation %d: %d bytes, want %d", path, synced, len(e.data), len(v.data))
		}
		if err := matchBytes(e.data, f, synced, ended, ended); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
	}
	return nil
}
