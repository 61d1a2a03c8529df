package recovery

import (
	"encoding/binary"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"inlinefs/ondisk/jbd2"
)

var (
	featNone = jbd2.Features{Incompat: jbd2.IncompatRevoke}
	featV1   = jbd2.Features{Compat: jbd2.CompatChecksum, Incompat: jbd2.IncompatRevoke}
	featV2   = jbd2.Features{Incompat: jbd2.IncompatRevoke | jbd2.IncompatCsumV2}
	featV3   = jbd2.Features{Incompat: jbd2.IncompatRevoke | jbd2.IncompatCsumV3 | jbd2.Incompat64Bit}
)

func magicBlock() []byte {
	p := fill(1024, 3)
	binary.BigEndian.PutUint32(p, jbd2.Magic)
	return p
}

func simple(blk uint64, c byte) txn { return txn{writes: []write{{blk, fill(1024, c)}}} }

// recoverCase is a log and what Recover must make of it.
type recoverCase struct {
	name   string
	feat   jbd2.Features
	start  uint32
	tid    uint32
	txns   []txn
	whole  int // complete transactions
	err    error
	stop   StopReason
	replay []txn // what the target must show; nil: the first whole txns

	// differs: with ASYNC_COMMIT e2fsck takes the last bad commit block for the
	// end and so replays an earlier bad transaction; here the first one counts.
	differs bool
}

func recoverCases() []recoverCase {
	wr := simple
	bad := func(x txn, f func(*txn)) txn { f(&x); return x }
	rev := func(blks ...uint64) txn { return txn{revokes: blks} }
	badSum := func(x *txn) { x.badSum = true }
	return []recoverCase{
		{name: "short_trans", feat: featNone, tid: 1, txns: []txn{wr(7, 1)}, whole: 1, stop: StopMagic},
		{name: "short_trans_64bit", feat: jbd2.Features{Incompat: jbd2.Incompat64Bit}, tid: 1,
			txns: []txn{wr(7<<33, 1), wr(8, 2)}, whole: 2, stop: StopMagic},
		{name: "short_trans_old_csum", feat: featV1, tid: 1, txns: []txn{wr(7, 1), wr(7, 2)}, whole: 2, stop: StopMagic},
		{name: "recover_csum2_32bit", feat: featV2, tid: 1, txns: []txn{wr(7, 1), wr(7, 2)}, whole: 2, stop: StopMagic},
		{name: "recover_csum3_64bit", feat: featV3, tid: 1, txns: []txn{wr(7<<33, 1), wr(8, 2)}, whole: 2, stop: StopMagic},
		{name: "short_revoke_trans", feat: featV3, tid: 1, txns: []txn{wr(7, 1), rev(7), wr(8, 1)}, whole: 3, stop: StopMagic},
		{name: "revoked_then_written", feat: featV3, tid: 1, txns: []txn{wr(7, 1), rev(7), wr(7, 2)}, whole: 3, stop: StopMagic},
		{name: "revoke_tid_wraps", feat: featV2, tid: 0xffffffff, txns: []txn{wr(7, 1), rev(7), wr(8, 2)}, whole: 3, stop: StopMagic},
		{name: "end_tid_is_zero", feat: featV2, tid: 0xfffffffe, txns: []txn{wr(7, 1), wr(8, 2)}, whole: 2, stop: StopMagic},
		{name: "short_uncommitted_trans", feat: featV3, tid: 5,
			txns: []txn{wr(7, 1), {writes: wr(7, 2).writes, noCommit: true}}, whole: 1, stop: StopMagic},
		{name: "uncommitted_revoke", feat: featNone, tid: 5,
			txns: []txn{wr(7, 1), {revokes: []uint64{7}, noCommit: true}}, whole: 1, stop: StopMagic},
		{name: "wrap_around", feat: featV3, start: 60, tid: 5, txns: []txn{wr(7, 1), wr(8, 2), wr(9, 3), wr(7, 4)}, whole: 4, stop: StopMagic},
		{name: "wrap_inside_descriptor", feat: featV1, start: 62, tid: 5,
			txns: []txn{{writes: []write{{1, fill(1024, 1)}, {2, fill(1024, 2)}, {3, fill(1024, 3)}}}}, whole: 1, stop: StopMagic},
		{name: "escape", feat: featV3, tid: 5, txns: []txn{{writes: []write{{1, magicBlock()}, {2, make([]byte, 1024)}}}}, whole: 1, stop: StopMagic},
		{name: "escape_old_csum", feat: featV1, tid: 5, txns: []txn{{writes: []write{{1, magicBlock()}}}}, whole: 1, stop: StopMagic},
		{name: "corrupt_commit_csum_v1", feat: featV1, tid: 5, txns: []txn{wr(7, 1), bad(wr(7, 2), badSum), wr(7, 3)}, whole: 1, stop: StopCommit},
		{name: "corrupt_commit_csum_v2", feat: featV2, tid: 5, txns: []txn{wr(7, 1), bad(wr(7, 2), badSum), wr(7, 3)}, whole: 1, stop: StopCommit},
		{name: "corrupt_commit_csum", feat: featV3, tid: 5, txns: []txn{wr(7, 1), bad(wr(7, 2), badSum), wr(7, 3)}, whole: 1, stop: StopCommit},
		{name: "corrupt_commit_csum_async", feat: jbd2.Features{Incompat: jbd2.IncompatAsyncCommit | jbd2.IncompatCsumV3}, tid: 5,
			txns: []txn{wr(7, 1), bad(wr(7, 2), badSum), wr(7, 3)}, whole: 1, stop: StopCommit},
		{name: "corrupt_commit_csum_async_twice", feat: jbd2.Features{Incompat: jbd2.IncompatAsyncCommit | jbd2.IncompatCsumV3}, tid: 5,
			txns: []txn{wr(7, 1), bad(wr(7, 2), badSum), bad(wr(7, 3), badSum), wr(7, 4)}, whole: 1, stop: StopCommit, differs: true},
		{name: "corrupt_commit_csum_v1_async", feat: jbd2.Features{Compat: jbd2.CompatChecksum, Incompat: jbd2.IncompatAsyncCommit}, tid: 5,
			txns: []txn{wr(7, 1), bad(wr(7, 2), badSum), wr(7, 3)}, whole: 1, stop: StopCommit},
		{name: "stale_commit", feat: featV3, tid: 5,
			txns: []txn{wr(7, 1), bad(wr(7, 2), func(x *txn) { x.badSum, x.sec = true, 1 })}, whole: 1, stop: StopStale},
		{name: "corrupt_commit_tid", feat: featV3, tid: 5,
			txns: []txn{wr(7, 1), bad(wr(7, 2), func(x *txn) { x.badTid = true })}, whole: 1, stop: StopSequence},
		{name: "corrupt_descr_csum", feat: featV3, tid: 5,
			txns: []txn{wr(7, 1), bad(wr(7, 2), func(x *txn) { x.badDesc = true })}, err: jbd2.ErrChecksum},
		{name: "corrupt_descr_csum_stale", feat: featV3, tid: 5,
			txns: []txn{wr(7, 1), bad(wr(7, 2), func(x *txn) { x.badDesc, x.sec = true, 1 })}, whole: 1, stop: StopStale},
		{name: "corrupt_descr_csum_uncommitted", feat: featV3, tid: 5,
			txns: []txn{wr(7, 1), bad(wr(7, 2), func(x *txn) { x.badDesc, x.noCommit = true, true })}, whole: 1, stop: StopMagic},
		{name: "corrupt_revoke_csum", feat: featV3, tid: 5,
			txns: []txn{wr(7, 1), {revokes: []uint64{7}, badRev: true}}, err: jbd2.ErrChecksum},
		{name: "corrupt_revoke_csum_stale", feat: featV2, tid: 5,
			txns: []txn{wr(7, 1), {revokes: []uint64{7}, badRev: true, sec: 1}}, whole: 1, stop: StopStale},
		{name: "corrupt_journal_block", feat: featV3, tid: 5,
			txns: []txn{
				{writes: []write{{1, fill(1024, 1)}, {2, fill(1024, 2)}}, badTag: true}, wr(3, 3),
			}, whole: 2, stop: StopMagic, err: jbd2.ErrChecksum,
			replay: []txn{wr(2, 2), wr(3, 3)}},
	}
}

func TestRecover(t *testing.T) {
	for _, c := range recoverCases() {
		t.Run(c.name, func(t *testing.T) {
			b := mustLog(t, c.feat, c.start, c.tid, c.txns...)
			before := superOf(t, b.log)
			m := newTarget()
			res, err := Recover(b.log, m, b.options())
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			want := c.replay
			if want == nil {
				want = c.txns[:c.whole]
			}
			if err := sameBlocks(m.blocks, model(want)); err != nil {
				t.Fatal(err)
			}
			after := superOf(t, b.log)
			if c.err != nil {
				if *after != *before {
					t.Fatalf("superblock changed after an error")
				}
				return
			}
			end := c.tid + uint32(c.whole)
			if res.Transactions != c.whole || res.LastTid != end || res.NextTid != end+1 ||
				res.FirstTid != c.tid || res.StoppedAt != c.stop {
				t.Fatalf("result %+v, want %d transactions from %d, stop %q", res, c.whole, c.tid, c.stop)
			}
			if after.Start != 0 || after.Sequence != end+1 {
				t.Fatalf("superblock start %d sequence %d, want 0, %d", after.Start, after.Sequence, end+1)
			}
			if m.flushes == 0 || b.log.flushes == 0 || len(b.log.written) != 1 {
				t.Fatalf("%d target flushes, %d log flushes, %d log writes", m.flushes, b.log.flushes, len(b.log.written))
			}
			checkEmpty(t, b, end+1)
		})
	}
}

// checkEmpty insists that a second recovery does nothing.
func checkEmpty(t *testing.T, b *logBuilder, seq uint32) {
	t.Helper()
	m := newTarget()
	res, err := Recover(b.log, m, b.options())
	if err != nil || m.writes != 0 || res.StoppedAt != StopEmpty || res.NextTid != seq+1 {
		t.Fatalf("second recovery: %+v, error %v, %d writes", res, err, m.writes)
	}
	if len(b.log.written) > 1 {
		t.Fatalf("second recovery wrote the superblock")
	}
}

func TestHead(t *testing.T) {
	b := mustLog(t, featV3, 60, 1, simple(7, 1), simple(8, 2))
	b.sb.Head = 3
	if err := b.super(); err != nil {
		t.Fatal(err)
	}
	res, err := Scan(b.log, b.options())
	if err != nil || res.Head != b.pos || res.StoppedBlock != b.pos {
		t.Fatalf("result %+v, error %v, want head %d", res, err, b.pos)
	}
	if len(b.log.written) != 0 {
		t.Fatal("scan wrote to the log")
	}
	if _, err := Recover(b.log, newTarget(), b.options()); err != nil {
		t.Fatal(err)
	}
	if got := superOf(t, b.log).Head; got != b.pos {
		t.Fatalf("s_head %d, want %d", got, b.pos)
	}
}

func TestOutOfRange(t *testing.T) {
	b := mustLog(t, featV3, 0, 1, simple(7, 1), simple(100, 2))
	o := b.options()
	o.FSBlocks = 100
	m := newTarget()
	if _, err := Recover(b.log, m, o); !errors.Is(err, ErrRange) {
		t.Fatalf("error %v, want ErrRange", err)
	}
	if m.writes != 0 {
		t.Fatalf("%d writes before the error, want 0", m.writes)
	}
	b = mustLog(t, featV3, 0, 1, simple(7, 1), txn{writes: []write{{100, fill(1024, 1)}}, noCommit: true})
	if _, err := Recover(b.log, newTarget(), o); err != nil {
		t.Fatalf("uncommitted block out of range: %v", err)
	}
}

func TestCorruptRevokeCount(t *testing.T) {
	b := mustLog(t, featNone, 0, 1, simple(7, 1), txn{revokes: []uint64{7}})
	binary.BigEndian.PutUint32(b.log.blocks[b.commit[1]-1][12:], 5000)
	if _, err := Recover(b.log, newTarget(), b.options()); !errors.Is(err, jbd2.ErrFormat) {
		t.Fatalf("error %v, want ErrFormat", err)
	}
}

// Damage to the header of a block ends the log at the transaction before.
func TestCorruptHeaders(t *testing.T) {
	txns := []txn{simple(7, 1), {writes: simple(7, 2).writes, revokes: []uint64{8}}, simple(9, 3)}
	for name, c := range map[string]struct {
		back int // blocks before the second commit
		off  int // byte to change
		stop StopReason
	}{
		"corrupt_descr_tid":    {2, 11, StopSequence},
		"corrupt_descr_magic":  {2, 0, StopMagic},
		"corrupt_revoke_block": {3, 0, StopMagic},
		"corrupt_revoke_tid":   {3, 8, StopSequence},
		"corrupt_revoke_type":  {3, 4, StopType},
		"corrupt_commit_magic": {0, 3, StopMagic},
		"corrupt_commit_type":  {0, 5, StopType},
	} {
		b := mustLog(t, featV3, 0, 1, txns...)
		b.log.blocks[b.commit[1]-uint32(c.back)][c.off] ^= 0xff
		m := newTarget()
		res, err := Recover(b.log, m, b.options())
		if err != nil || res.StoppedAt != c.stop || res.Transactions != 1 {
			t.Errorf("%s: result %+v, error %v, want 1 transaction, %q", name, res, err, c.stop)
			continue
		}
		if err := sameBlocks(m.blocks, model(txns[:1])); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSuperblockRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*logBuilder, *Options)
		want   error
	}{
		"corrupt_sb_magic":  {func(b *logBuilder, _ *Options) { b.log.blocks[0][0] = 1 }, jbd2.ErrMagic},
		"corrupt_sb_csum":   {func(b *logBuilder, _ *Options) { b.log.blocks[0][0xff] ^= 1 }, jbd2.ErrChecksum},
		"corrupt_sb_type":   {func(b *logBuilder, _ *Options) { b.log.blocks[0][7] = 9 }, jbd2.ErrType},
		"unknown_incompat":  {func(b *logBuilder, _ *Options) { b.sb.Features.Incompat |= 0x4000 }, jbd2.ErrFeature},
		"block_size":        {func(_ *logBuilder, o *Options) { o.BlockSize = 2048 }, jbd2.ErrFormat},
		"bad_option":        {func(_ *logBuilder, o *Options) { o.BlockSize = 1000 }, ErrOptions},
		"short_inode":       {func(_ *logBuilder, o *Options) { o.LogBlocks = 63 }, jbd2.ErrFormat},
		"first_out_of_log":  {func(b *logBuilder, _ *Options) { b.sb.First = 64 }, jbd2.ErrFormat},
		"start_out_of_log":  {func(b *logBuilder, _ *Options) { b.sb.Start = 64 }, jbd2.ErrFormat},
		"shared_journal":    {func(b *logBuilder, _ *Options) { b.sb.NrUsers = 2 }, ErrForeign},
		"other_uuid":        {func(_ *logBuilder, o *Options) { o.UUID = &[16]byte{1} }, ErrForeign},
		"unreadable":        {func(b *logBuilder, _ *Options) { b.log.bad[0] = true }, errMedium},
		"unreadable_log":    {func(b *logBuilder, _ *Options) { b.log.bad[1] = true }, errMedium},
		"unreadable_commit": {func(b *logBuilder, _ *Options) { b.log.bad[3] = true }, errMedium},
	} {
		t.Run(name, func(t *testing.T) {
			b := mustLog(t, featV3, 0, 1, simple(7, 1))
			o := b.options()
			raw := append([]byte(nil), b.log.blocks[0]...)
			c.change(b, &o)
			if string(raw) == string(b.log.blocks[0]) {
				if err := b.super(); err != nil {
					t.Fatal(err)
				}
			}
			m := newTarget()
			if _, err := Recover(b.log, m, o); !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if m.writes != 0 || len(b.log.written) != 0 {
				t.Fatalf("%d blocks and %d log blocks written, want none", m.writes, len(b.log.written))
			}
		})
	}
	if _, err := Recover(nil, newTarget(), Options{}); !errors.Is(err, ErrOptions) {
		t.Errorf("no log: error %v, want ErrOptions", err)
	}
	b := mustLog(t, featV3, 0, 1)
	if _, err := Recover(b.log, nil, b.options()); !errors.Is(err, ErrOptions) {
		t.Errorf("no target: error %v, want ErrOptions", err)
	}
}

func TestSuperblockV1(t *testing.T) {
	b := mustLog(t, jbd2.Features{}, 0, 1, simple(7, 1))
	b.sb.Type = jbd2.TypeSuperblockV1
	b.sb.Features.Incompat = ^uint32(0) // not a field of v1
	if err := b.super(); err != nil {
		t.Fatal(err)
	}
	m := newTarget()
	res, err := Recover(b.log, m, b.options())
	if err != nil || res.Blocks != 1 {
		t.Fatalf("result %+v, error %v, want 1 block", res, err)
	}
}

func TestDataReadError(t *testing.T) {
	b := mustLog(t, featV3, 0, 1, simple(7, 1), simple(8, 2))
	b.log.bad[2] = true
	m := newTarget()
	if _, err := Recover(b.log, m, b.options()); !errors.Is(err, errMedium) {
		t.Fatalf("error %v, want %v", err, errMedium)
	}
	if err := sameBlocks(m.blocks, model([]txn{simple(8, 2)})); err != nil {
		t.Fatal(err)
	}
	if len(b.log.written) != 0 {
		t.Fatal("journal marked empty after a read error")
	}
}

// A replay that is cut short can be repeated.
func TestRepeatAfterWriteError(t *testing.T) {
	txns := []txn{simple(7, 1), simple(8, 2), {revokes: []uint64{7}}, simple(9, 3), simple(8, 4)}
	for fail := 1; fail <= 3; fail++ {
		b := mustLog(t, featV3, 58, 1, txns...)
		m := newTarget()
		m.failAt = fail
		if _, err := Recover(b.log, m, b.options()); !errors.Is(err, errMedium) {
			t.Fatalf("write %d fails: error %v, want %v", fail, err, errMedium)
		}
		m.failAt = 0
		if _, err := Recover(b.log, m, b.options()); err != nil {
			t.Fatal(err)
		}
		if err := sameBlocks(m.blocks, model(txns)); err != nil {
			t.Fatal(err)
		}
	}
}

// A log full of revoke blocks of one transaction must not be walked for ever.
func TestBoundedWalk(t *testing.T) {
	for _, fs := range []jbd2.Features{featNone, featV1, featV3} {
		b := mustLog(t, fs, 0, 1)
		for b.free > 0 {
			if err := b.add(txn{revokes: []uint64{1}, noCommit: true}); err != nil {
				t.Fatal(err)
			}
		}
		res, err := Scan(b.log, b.options())
		if err != nil || res.StoppedAt != StopFull || res.Transactions != 0 {
			t.Fatalf("result %+v, error %v, want %q", res, err, StopFull)
		}
		if b.log.reads > 2*64 {
			t.Fatalf("%d blocks read from a log of 64", b.log.reads)
		}
		b = mustLog(t, fs, 0, 1)
		for b.free > 0 {
			if err := b.add(txn{}); err != nil {
				t.Fatal(err)
			}
		}
		res, err = Recover(b.log, newTarget(), b.options())
		if err != nil || res.StoppedAt != StopFull || res.Transactions != 63 {
			t.Fatalf("result %+v, error %v, want 63 transactions", res, err)
		}
	}
}

func TestRecoverRandom(t *testing.T) {
	feats := []jbd2.Features{featNone, featV1, featV2, featV3,
		{Incompat: jbd2.IncompatRevoke | jbd2.Incompat64Bit},
		{Incompat: jbd2.IncompatRevoke | jbd2.Incompat64Bit | jbd2.IncompatCsumV2},
		{Compat: jbd2.CompatChecksum, Incompat: jbd2.IncompatRevoke | jbd2.IncompatAsyncCommit},
		{Incompat: jbd2.IncompatRevoke | jbd2.IncompatCsumV3},
	}
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Uint32Range(8, 200).Draw(t, "size")
		b, err := newLog(1024, rapid.SampledFrom(feats).Draw(t, "features"), size,
			rapid.Uint32Range(1, size-1).Draw(t, "start"),
			rapid.SampledFrom([]uint32{1, 0xfffffff8, 0x7ffffff8}).Draw(t, "tid"))
		if err != nil {
			t.Fatal(err)
		}
		var whole []txn
		for range rapid.IntRange(0, 20).Draw(t, "transactions") {
			x := drawTxn(t)
			if b.size(x) > b.free {
				break
			}
			if err := b.add(x); err != nil {
				t.Fatal(err)
			}
			if x.noCommit {
				break
			}
			whole = append(whole, x)
		}
		first := b.sb.Sequence
		m := newTarget()
		res, err := Recover(b.log, m, b.options())
		if err != nil {
			t.Fatal(err)
		}
		if res.Transactions != len(whole) || res.LastTid != first+uint32(len(whole)) {
			t.Fatalf("result %+v, want %d transactions", res, len(whole))
		}
		if err := sameBlocks(m.blocks, model(whole)); err != nil {
			t.Fatal(err)
		}
	})
}

// drawTxn draws a transaction on few blocks, now and then one that ends the log.
func drawTxn(t *rapid.T) txn {
	var x txn
	for range rapid.IntRange(0, 6).Draw(t, "writes") {
		d := fill(1024, rapid.Byte().Draw(t, "fill"))
		if rapid.IntRange(0, 3).Draw(t, "magic") == 0 {
			binary.BigEndian.PutUint32(d, jbd2.Magic)
		}
		x.writes = append(x.writes, write{rapid.Uint64Range(0, 12).Draw(t, "block"), d})
	}
	for range rapid.IntRange(0, 3).Draw(t, "revokes") {
		x.revokes = append(x.revokes, rapid.Uint64Range(0, 12).Draw(t, "revoked"))
	}
	x.noCommit = rapid.IntRange(0, 9).Draw(t, "uncommitted") == 0
	return x
}
