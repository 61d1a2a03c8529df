package dir

import (
	"fmt"

	"inlinefs/buffer"
	"inlinefs/extent"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/ondisk"
)

// badIndexError says that the index of a directory can't be used; the entries may still be found block by block (ERR_BAD_DX_DIR).
type badIndexError struct{ err error }

// Error is the finding.
func (e *badIndexError) Error() string { return e.err.Error() }

// Unwrap gives the corruption.
func (e *badIndexError) Unwrap() error { return e.err }

// isBadIndex tells badIndexError, which is never wrapped, without the allocation of errors.As.
func isBadIndex(err error) bool {
	_, bad := err.(*badIndexError)
	return bad
}

// maxFrames is the deepest path: a root and two levels of nodes (large_dir).
const maxFrames = 3

// frame is one index block on the way to a leaf, and the entry that leads on.
type frame struct {
	b  *buffer.Head
	e  ondisk.DxEntries
	at int
}

// dxPath is the way from the root to a leaf (dx_frame[]).
type dxPath struct {
	f       [maxFrames]frame
	n       int   // frames in use
	version uint8 // hash version, signedness included
	seed    [4]uint32
}

func (p *dxPath) release() {
	for i := range p.f {
		if b := p.f[i].b; b != nil {
			b.Release()
		}
		p.f[i] = frame{}
	}
	p.n = 0
}

// maxIndirect is how many levels of nodes an index may have below its root.
func maxIndirect(d *inode.Inode) int {
	if d.FS.SB.Incompat(ondisk.IncompatLargedir) {
		return 2
	}
	return 1
}

// canIndex says whether a growing directory gets an index.
func canIndex(d *inode.Inode) bool { return hasIndex(d) && d.FS.SB.DefHashVersion() <= ondisk.HashTEA }

// defaultVersion is the hash version of new indexes, and of directories that are read in hash order without one.
func defaultVersion(d *inode.Inode) uint8 { return d.FS.SB.HashVersion(d.FS.SB.DefHashVersion()) }

// load puts the index block lblk in frame i. Damage of it is reported and makes the index unusable.
func (p *dxPath) load(d *inode.Inode, i int, lblk uint32) error {
	off := ondisk.DxNodeOff
	if i == 0 {
		off = ondisk.DxRootOff
	}
	if i > 0 {
		if err := checkTarget(d, lblk); err != nil {
			return err
		}
	}
	b, err := extent.GetBlock(d, lblk)
	if err != nil {
		return err
	}
	if err = ondisk.CheckDx("", b.Data(), off, d.FS.Csum, maxIndirect(d)); err != nil {
		err = ondisk.CheckDx(where(d, lblk), b.Data(), off, d.FS.Csum, maxIndirect(d))
	} else if d.FS.Csum && !b.Verified() {
		if err = ondisk.VerifyDxChecksum("", b.Data(), off, d.Seed()); err != nil {
			err = ondisk.VerifyDxChecksum(where(d, lblk), b.Data(), off, d.Seed())
		}
	}
	if err != nil {
		err = &badIndexError{corrupt(d, b.Block(), "dx_probe", err)}
		b.Release()
		return err
	}
	b.SetVerified()
	if p.f[i].b != nil {
		p.f[i].b.Release()
	}
	p.f[i] = frame{b: b, e: ondisk.DxEntriesOf(b.Data(), off)}
	return nil
}

// checkTarget refuses an index entry that leads to the root or out of the directory.
func checkTarget(d *inode.Inode, lblk uint32) error {
	if n := d.Size() >> d.FS.BlockBits; lblk == 0 || uint64(lblk) >= n {
		err := ondisk.Corrupt(d.Name(), "index entry for block %d, want from 1 to %d", lblk, int64(n)-1)
		return &badIndexError{corrupt(d, 0, "dx_probe", err)}
	}
	return nil
}

// open reads the root.
func (p *dxPath) open(d *inode.Inode) error {
	if err := p.load(d, 0, 0); err != nil {
		return err
	}
	info := ondisk.DxRootInfo(p.f[0].b.Data())
	p.n = info.Indirect + 1
	p.version = d.FS.SB.HashVersion(info.Version)
	p.seed = d.FS.SB.HashSeed()
	return nil
}

// hash is the major hash of a name in this directory.
func (p *dxPath) hash(name []byte) uint32 {
	major, _, _ := ondisk.DirHash(p.version, &p.seed, name)
	return major
}

// descend goes from the root to the leaf where names of that hash begin (dx_probe).
func (p *dxPath) descend(d *inode.Inode, hash uint32) error {
	for i := 0; ; i++ {
		p.f[i].at = p.f[i].e.Search(hash)
		if i == p.n-1 {
			return nil
		}
		if err := p.load(d, i+1, p.f[i].e.Block(p.f[i].at)); err != nil {
			return err
		}
	}
}

// ahead is the frame that steps on to the next leaf and the hash where that begins, the continuation bit included; false at the last
// leaf.
func (p *dxPath) ahead() (i int, start uint32, ok bool) {
	for i = p.n - 1; i >= 0; i-- {
		if f := &p.f[i]; f.at+1 < f.e.Count() {
			return i, f.e.Hash(f.at + 1), true
		}
	}
	return 0, 0, false
}

// next moves to the next leaf (ext4_htree_next_block); there must be one.
func (p *dxPath) next(d *inode.Inode) error {
	i, _, _ := p.ahead()
	p.f[i].at++
	for ; i < p.n-1; i++ {
		if err := p.load(d, i+1, p.f[i].e.Block(p.f[i].at)); err != nil {
			return err
		}
	}
	return nil
}

// continues says whether names of that hash may go on in the next leaf.
func (p *dxPath) continues(hash uint32) bool {
	_, start, ok := p.ahead()
	return ok && start&^1 == hash
}

// leaf reads the leaf that the path leads to.
func (p *dxPath) leaf(d *inode.Inode) (block, error) {
	f := &p.f[p.n-1]
	lblk := f.e.Block(f.at)
	if err := checkTarget(d, lblk); err != nil {
		return block{}, err
	}
	b, err := readBlock(d, lblk, 0)
	if err != nil {
		return block{}, err
	}
	return block{b: b, lblk: lblk, area: leafArea(d, b.Data())}, nil
}

// dxFind looks a name up by the index (ext4_dx_find_entry). Errors: fserr.NotExist, badIndexError.
func dxFind(d *inode.Inode, name []byte) (place, error) {
	var p dxPath
	defer p.release()
	if err := p.open(d); err != nil {
		return place{}, err
	}
	hash := p.hash(name)
	if err := p.descend(d, hash); err != nil {
		return place{}, err
	}
	for {
		l, err := p.leaf(d)
		if err != nil {
			return place{}, err
		}
		at, err := l.find(d, name)
		if err != fserr.NotExist || !p.continues(hash) {
			return at, err
		}
		if err := p.next(d); err != nil {
			return place{}, err
		}
	}
}

// errFull says that the index has no room for another block.
func errFull(d *inode.Inode, levels int) error {
	return fmt.Errorf("%s: index of %d levels is full: %w", d.Name(), levels, fserr.NoSpace)
}
