package recovery

import (
	"errors"
	"fmt"
	"testing"

	"inlinefs/ondisk/jbd2"
)

var errMedium = errors.New("medium error")

// memLog is a log in memory.
type memLog struct {
	blocks  [][]byte
	bad     map[uint32]bool // reads of these fail
	reads   int
	written []uint32
	flushes int
}

func (l *memLog) ReadBlock(blk uint32, p []byte) error {
	l.reads++
	if l.bad[blk] {
		return errMedium
	}
	if int64(blk) >= int64(len(l.blocks)) {
		return fmt.Errorf("log block %d of %d", blk, len(l.blocks))
	}
	copy(p, l.blocks[blk])
	return nil
}

func (l *memLog) WriteBlock(blk uint32, p []byte) error {
	l.written = append(l.written, blk)
	copy(l.blocks[blk], p)
	return nil
}

func (l *memLog) Flush() error {
	l.flushes++
	return nil
}

// memTarget is a file system in memory.
type memTarget struct {
	blocks  map[uint64]string
	failAt  int // the write with this number, from 1, fails; 0: none
	writes  int
	flushes int
}

func newTarget() *memTarget { return &memTarget{blocks: map[uint64]string{}} }

func (m *memTarget) WriteBlock(blk uint64, p []byte) error {
	m.writes++
	if m.writes == m.failAt {
		return errMedium
	}
	m.blocks[blk] = string(p)
	return nil
}

func (m *memTarget) Flush() error {
	m.flushes++
	return nil
}

// write is one logged block.
type write struct {
	blk  uint64
	data []byte
}

// txn is one transaction of a hand-made log.
type txn struct {
	writes   []write
	revokes  []uint64
	noCommit bool
	badTag   bool   // the first data block changes after its checksum was taken
	badDesc  bool   // bad checksum in the first descriptor
	badRev   bool   // bad checksum in the first revoke block
	badSum   bool   // bad checksum in the commit block
	badTid   bool   // wrong sequence number in the commit block
	sec      uint64 // commit time; 0: the builder's clock
}

// logBuilder makes a log with the encoders of package jbd2.
type logBuilder struct {
	sb     *jbd2.Superblock
	f      jbd2.Format
	log    *memLog
	pos    uint32
	tid    uint32
	clock  uint64
	free   uint32 // blocks left
	commit []uint32
	desc   []uint32
}

func fill(n int, c byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = c + byte(i)
	}
	return p
}

// newLog makes a log whose first transaction tid is at block start; 0 stands
// for the first block.
func newLog(bs int, feat jbd2.Features, blocks, start, tid uint32) (*logBuilder, error) {
	sb := &jbd2.Superblock{
		Type: jbd2.TypeSuperblockV2, BlockSize: uint32(bs), MaxLen: blocks, First: 1,
		Sequence: tid, Features: feat, UUID: [16]byte{9, 8, 7}, NrUsers: 1,
	}
	if feat.CsumV2or3() {
		sb.ChecksumType = jbd2.ChecksumCRC32C
	}
	return buildOn(sb, start, tid)
}

// buildOn starts a log under an existing superblock.
func buildOn(sb *jbd2.Superblock, start, tid uint32) (*logBuilder, error) {
	if start == 0 {
		start = sb.First
	}
	sb.Start, sb.Sequence = start, tid
	f, err := sb.Format()
	if err != nil {
		return nil, err
	}
	b := &logBuilder{
		sb: sb, f: f, pos: start, tid: tid, clock: 1000, free: sb.LogEnd() - sb.First,
		log: &memLog{bad: map[uint32]bool{}},
	}
	for range sb.MaxLen {
		b.log.blocks = append(b.log.blocks, make([]byte, sb.BlockSize))
	}
	return b, b.super()
}

func (b *logBuilder) super() error { return b.sb.Encode(b.log.blocks[0]) }

func (b *logBuilder) options() Options {
	return Options{BlockSize: int(b.sb.BlockSize), LogBlocks: b.sb.MaxLen, FSBlocks: 1 << 40}
}

// put appends a block to the log and says where it went.
func (b *logBuilder) put(p []byte) (uint32, error) {
	if b.free == 0 {
		return 0, errors.New("log is full")
	}
	b.free--
	at := b.pos
	copy(b.log.blocks[at], p)
	if b.pos++; b.pos == b.sb.LogEnd() {
		b.pos = b.sb.First
	}
	return at, nil
}

// size is the number of log blocks t takes.
func (b *logBuilder) size(t txn) uint32 {
	div := func(n, d int) int { return (n + d - 1) / d }
	n := len(t.writes) + div(len(t.writes), b.f.TagsPerDescriptor()) + div(len(t.revokes), b.f.RevokesPerBlock())
	if !t.noCommit {
		n++
	}
	return uint32(n)
}

// add writes one transaction.
func (b *logBuilder) add(t txn) error {
	sum := jbd2.CRC32BEInit
	if err := b.addRevokes(t); err != nil {
		return err
	}
	for i := 0; i < len(t.writes); {
		n, err := b.addDescriptor(t, i, &sum)
		if err != nil {
			return err
		}
		i += n
	}
	if t.noCommit {
		return nil
	}
	b.clock++
	c := jbd2.Commit{Sequence: b.tid, Sec: b.clock, Nsec: 5}
	if t.sec != 0 {
		c.Sec = t.sec
	}
	if t.badTid {
		c.Sequence++
	}
	if b.f.Features.ChecksumV1() {
		c.SetV1(sum)
	}
	p := make([]byte, b.f.BlockSize)
	if err := b.f.EncodeCommit(p, c); err != nil {
		return err
	}
	if t.badSum {
		p[17] ^= 0x40
	}
	at, err := b.put(p)
	if err != nil {
		return err
	}
	b.commit = append(b.commit, at)
	b.tid++
	return nil
}

func (b *logBuilder) addRevokes(t txn) error {
	for i := 0; i < len(t.revokes); {
		p := make([]byte, b.f.BlockSize)
		w, err := b.f.NewRevoke(p, b.tid)
		if err != nil {
			return err
		}
		first := i == 0
		for ; i < len(t.revokes) && !w.Full(); i++ {
			if err := w.Add(t.revokes[i]); err != nil {
				return err
			}
		}
		if err := w.Finish(); err != nil {
			return err
		}
		if t.badRev && first {
			p[len(p)-1] ^= 1
		}
		if _, err := b.put(p); err != nil {
			return err
		}
	}
	return nil
}

// addDescriptor writes one descriptor with its data, from write i on, and says
// how many it took.
func (b *logBuilder) addDescriptor(t txn, i int, sum *uint32) (int, error) {
	desc := make([]byte, b.f.BlockSize)
	w, err := b.f.NewDescriptor(desc, b.tid)
	if err != nil {
		return 0, err
	}
	var data [][]byte
	for j := i; j < len(t.writes) && !w.Full(); j++ {
		d := append([]byte(nil), t.writes[j].data...)
		esc := jbd2.Escape(d)
		if err := w.Add(t.writes[j].blk, d, esc); err != nil {
			return 0, err
		}
		if t.badTag && j == 0 {
			d[9] ^= 1
		}
		data = append(data, d)
	}
	if err := w.Finish(); err != nil {
		return 0, err
	}
	*sum = jbd2.CRC32BE(*sum, desc)
	if t.badDesc && i == 0 {
		desc[len(desc)-1] ^= 1
	}
	at, err := b.put(desc)
	if err != nil {
		return 0, err
	}
	b.desc = append(b.desc, at)
	for _, d := range data {
		*sum = jbd2.CRC32BE(*sum, d)
		if _, err := b.put(d); err != nil {
			return 0, err
		}
	}
	return w.Count(), nil
}

// model replays complete transactions without a log: what the target must hold.
func model(txns []txn) map[uint64]string {
	revokedAt := map[uint64]int{}
	for i, t := range txns {
		for _, blk := range t.revokes {
			revokedAt[blk] = i
		}
	}
	out := map[uint64]string{}
	for i, t := range txns {
		for _, w := range t.writes {
			if at, ok := revokedAt[w.blk]; !ok || i > at {
				out[w.blk] = string(w.data)
			}
		}
	}
	return out
}

// mustLog builds a log of 64 blocks of 1 KiB.
func mustLog(t *testing.T, feat jbd2.Features, start, tid uint32, txns ...txn) *logBuilder {
	t.Helper()
	b, err := newLog(1024, feat, 64, start, tid)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range txns {
		if err := b.add(x); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// sameBlocks compares a target with what it must hold.
func sameBlocks(got, want map[uint64]string) error {
	for blk, p := range want {
		q, ok := got[blk]
		switch {
		case !ok:
			return fmt.Errorf("block %d was not replayed", blk)
		case p != q:
			return fmt.Errorf("block %d: starts with %x, want %x", blk, q[:8], p[:8])
		}
	}
	for blk := range got {
		if _, ok := want[blk]; !ok {
			return fmt.Errorf("block %d was replayed, should not be", blk)
		}
	}
	return nil
}

// superOf decodes the log's superblock.
func superOf(t *testing.T, l *memLog) *jbd2.Superblock {
	t.Helper()
	if err := jbd2.VerifySuperblock(l.blocks[0]); err != nil {
		t.Fatal(err)
	}
	sb, err := jbd2.DecodeSuperblock(l.blocks[0])
	if err != nil {
		t.Fatal(err)
	}
	return sb
}
