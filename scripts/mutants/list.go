package main

// mutant is one seeded fault.
type mutant struct {
	name   string
	file   string // below the module's root
	old    string // stands in file exactly once
	new    string
	breaks string // what the fault is
	// strategies of the search; nil is flip_folio, premmap and retry, which must be clean. What the unchanged code shows in the same scenario
	// is not held against the fault.
	strategies []string
	actors     int    // 2 unless set
	blind      bool   // the fault is in a detector: caught when a strategy's conviction is missing
	test       string // "PACKAGE TEST": found by that test, not by the search
}

// sound strategies show nothing in any scenario but retry's gup, which is known.
var sound = []string{"flip_folio", "premmap", "retry"}

var (
	withCopy = []string{"flip_folio", "premmap", "retry", "writepages_copy"}
	withFlip = []string{"flip_folio", "flip"}
)

// mutants of the inline code, then of what is above and below it.
var mutants = []mutant{
	{name: "begin-without-folio", file: "inline/engine.go",
		old: `	i.Map.Folio.Lock()
	ok, err := e.prepare(i, end)
	if err == nil && ok {
		return Token{Mode: InlineMode, handle: h, gen: i.Gen.Load(), folio: &i.Map.Folio}, nil
	}
	i.Map.Folio.Unlock()
`,
		new: `	ok, err := e.prepare(i, end)
	if err == nil && ok {
		return Token{Mode: InlineMode, handle: h, gen: i.Gen.Load()}, nil
	}
`,
		breaks: "drop a lock: an inline write(2) does not hold folio 0 from begin to end"},
	{name: "folio-before-store", file: "inline/engine.go",
		old:    "\tflipped, err := e.storeInline(i, p, off)\n\ttok.unlockFolio()\n",
		new:    "\ttok.unlockFolio()\n\tflipped, err := e.storeInline(i, p, off)\n",
		breaks: "swap two steps: folio 0 is given back before the bytes are stored"},
	{name: "folio-kept", file: "inline/engine.go",
		old:    "\tflipped, err := e.storeInline(i, p, off)\n\ttok.unlockFolio()\n",
		new:    "\tflipped, err := e.storeInline(i, p, off)\n",
		breaks: "forget to unlock: folio 0 stays locked after an inline write"},
	{name: "flip-without-recheck", file: "inline/flip.go",
		old: `	if now == nil {
		i.MayInline.Store(false) // converted by somebody else, or new and without bytes
		return nil
	}
	if *held {`,
		new: `	if now == nil {
		now = wrote
	}
	if *held {`,
		breaks: "skip the recheck: flip_folio flips a file that somebody else has converted"},
	{name: "convert-without-recheck", file: "inline/convert.go",
		old:    "\tif err != nil || now == nil {\n",
		new:    "\tif err != nil {\n",
		breaks: "skip the recheck: Convert trusts what it saw before it had xattr_sem"},
	{name: "truncate-without-recheck", file: "inline/truncate.go", strategies: []string{"flip_folio", "writepages_destroy"},
		old: `	if !i.Raw.Has(ondisk.FlInlineData) {
		i.Mu.Unlock()
		return false, nil
	}
	if size < i.Raw.Size() {`,
		new:    `	if size < i.Raw.Size() {`,
		breaks: "skip the recheck: truncate cuts inline bytes that a fault has moved"},
	{name: "stale-block", file: "inline/flip.go",
		old:    "\tcase !bytes.Equal(wrote, now):\n",
		new:    "\tcase len(wrote) > 0 && len(now) > 0 && bytes.Equal(wrote, nil):\n",
		breaks: "skip a step: the block is not written again when the bytes have changed"},
	{name: "flip-without-data-sem", file: "inline/flip.go",
		old: `	i.DataSem.Lock()
	defer i.DataSem.Unlock()
	lock.Touching(&i.Mu, dataParts|lock.RawNone)
	i.Mu.Lock()
	err := destroy(i)
	i.Mu.Unlock()
`,
		new: `	i.DataSem.Lock()
	lock.Touching(&i.Mu, dataParts|lock.RawNone)
	i.Mu.Lock()
	err := destroy(i)
	i.Mu.Unlock()
	i.DataSem.Unlock()
	i.DataSem.Lock()
	defer i.DataSem.Unlock()
`,
		breaks: "split a section: i_data_sem is free between the flag and the mapping"},
	{name: "may-inline-stays", file: "inline/flip.go", strategies: []string{"flip_folio", "premmap"},
		old:    "\ti.MayInline.Store(false)\n\ti.Gen.Add(1)\n\ti.Event(h.Task(), \"inline.flipLocked\"",
		new:    "\ti.Gen.Add(1)\n\ti.Event(h.Task(), \"inline.flipLocked\"",
		breaks: "forget a flag: MAY_INLINE_DATA survives the conversion"},
	{name: "flip-not-dirty", file: "inline/flip.go",
		old: `	if blk != 0 {
		if err := i.AddSectors(int64(e.FS.BlockSize / 512)); err != nil {
			return err
		}
	}
	return i.MarkDirty(h)
`,
		new: `	if blk != 0 {
		return i.AddSectors(int64(e.FS.BlockSize / 512))
	}
	return nil
`,
		breaks: "forget MarkDirty: the flipped inode is not written"},
	{name: "store-without-xattr-sem", file: "inline/engine.go", strategies: withFlip,
		old: `		return false, nil
	}
	i.XattrSem.Lock()
	defer i.XattrSem.Unlock()
	lock.Touching(&i.Mu, lock.RawMap|lock.RawArea|lock.RawSize)
`,
		new: `		return false, nil
	}
	lock.Touching(&i.Mu, lock.RawMap|lock.RawArea|lock.RawSize)
`,
		breaks: "drop a lock: an inline write stores without xattr_sem"},
	{name: "folio-after-xattr-sem", file: "inline/flip.go",
		old: `	i.Map.Folio.Lock()
	defer i.Map.Folio.Unlock()
	i.XattrSem.Lock()
	defer i.XattrSem.Unlock()
	now, err`,
		new: `	i.XattrSem.Lock()
	defer i.XattrSem.Unlock()
	i.Map.Folio.Lock()
	defer i.Map.Folio.Unlock()
	now, err`,
		breaks: "swap two locks: the conversion takes folio 0 under xattr_sem"},
	{name: "hold-leak", file: "inline/flip.go",
		old: `	if held {
		alloc.Unhold(i, blk)
	}
`,
		new: `	_ = held
`,
		breaks: "forget Unhold: the block that is not needed stays held in memory"},
	{name: "handle-left-open", file: "inline/engine.go",
		old:    "\tif err := errors.Join(err, e.FS.Journal.Stop(t, h, i.Ino)); err != nil {\n\t\treturn Token{}, err\n\t}\n\t// Moved",
		new:    "\tif err != nil {\n\t\treturn Token{}, err\n\t}\n\t// Moved",
		breaks: "forget journal.Stop: WriteBegin's error path leaves its handle open"},
	{name: "premmap-without-i-rwsem", file: "inline/strategy_premmap.go",
		old:    "\ti.LockRw(t)\n\tdefer i.UnlockRw(t)\n",
		new:    "",
		breaks: "drop a lock: premmap converts without i_rwsem"},
	{name: "retry-without-i-rwsem", file: "inline/strategy_retry.go",
		old:    "\ti.LockRw(t)\n\tdefer i.UnlockRw(t)\n",
		new:    "",
		breaks: "drop a lock: retry converts without i_rwsem"},
	{name: "retry-without-convert", file: "inline/strategy_retry.go",
		old:    "\treturn e.Convert(t, i)\n",
		new:    "\treturn nil\n",
		breaks: "skip a step: retry drops its locks and converts nothing"},
	{name: "writeback-without-i-rwsem", file: "inline/strategy.go",
		old:    "\ti.LockRw(t)\n\tdefer i.UnlockRw(t)\n\tsize := i.Size()\n",
		new:    "\tsize := i.Size()\n",
		breaks: "drop a lock: write-back stores by an i_size that may change"},
	{name: "copy-ignores-flip", file: "inline/flip.go", strategies: withCopy,
		old:    "\tif err != nil || !moved {\n\t\treturn err\n\t}\n\treturn e.storeMapped(t, i, p, off)\n",
		new:    "\treturn err\n",
		breaks: "forget the other case: write-back finds the file converted and stores nothing"},
	{name: "write-without-token", file: "inline/engine.go", blind: true, strategies: []string{"mkwrite"},
		old:    "\tif has && may {\n\t\tnow = InlineMode\n\t}\n",
		new:    "\tif now = tok.Mode; has && may && now == InlineMode {\n\t\tnow = InlineMode\n\t}\n",
		breaks: "blind a detector: WriteEnd trusts the token and asks the inode no more"},
	{name: "shrink-leaves-bytes", file: "inline/data.go",
		old:    "\tif n < ondisk.BlockArea {\n\t\tclear(raw.Block()[n:])\n\t}\n",
		new:    "",
		breaks: "skip a step: truncate leaves cut-off bytes in i_block"},
	{name: "merge-whole-page", file: "mm/mm.go",
		old:    "\tif f == nil {\n\t\tm.mu.Unlock()\n\t\treturn apply(base, data)\n",
		new:    "\tif f == nil || len(data) > 0 {\n\t\tm.mu.Unlock()\n\t\treturn apply(base, data)\n",
		breaks: "skip a check: write-back applies the whole page, not the bytes that were stored"},
	{name: "truncate-keeps-fills", file: "fs/lookup.go",
		old:    "\t\ti.Map.Drop(int64(size), 1<<62)\n",
		new:    "\t\t_ = i.Map\n",
		breaks: "forget a step: truncate leaves the remembered fill of the page as it was"},
	{name: "size-not-told", file: "fs/file.go",
		old:    "\t\tf.raise(in, data[:n], old)\n",
		new:    "\t\t_ = f.raise\n",
		breaks: "forget a step: the client hears of the size after the write is answered"},
	{name: "growth-forgotten", file: "mm/mm.go",
		old:    "\tf.blank(in, data, was[:])\n",
		new:    "\t_ = f.blank\n",
		breaks: "forget a step: what the client zeroed behind its i_size counts as stored"},
	{name: "growth-never-ends", file: "mm/mm.go",
		old:    "\tm.growing--\n",
		new:    "",
		breaks: "forget a step: zeros stored behind the size of old count as the client's for ever"},
	{name: "hold-is-not-busy", file: "alloc/hold.go",
		old:    "\tg.Busy = append(g.Busy, super.Run{Start: start, Len: 1})\n",
		new:    "",
		breaks: "forget a step: a held block may be given to somebody else"},
	{name: "freed-at-once", file: "alloc/blocks.go", test: "./crash TestCrash",
		old:    "\t\tg.HoldBusy(super.Run{Start: idx, Len: n}, h.OnCommit)\n",
		new:    "\t\t_ = h.OnCommit\n",
		breaks: "forget a step: freed blocks are used again before the commit"},
	{name: "journal-nil-handle", file: "journal/handle.go", blind: true, strategies: []string{"mkwrite"},
		old:    "\t\treturn j.V.Raise(NilHandle, t, uint64(ino), nil, \"task %d (%s) stops a handle that was never started, inode %d\", t.ID, t.Op, ino)\n",
		new:    "\t\treturn nil\n",
		breaks: "blind a detector: Stop of no handle is no violation"},
	{name: "journal-credits", file: "journal/handle.go", test: "./journal TestCredits|TestCrimes",
		old:    "\t\tif h.credits <= 0 {\n",
		new:    "\t\tif h.credits < -64 {\n",
		breaks: "skip a check: a handle changes more blocks than it has credits for"},
	{name: "journal-write-access", file: "journal/handle.go", test: "./journal TestCrimes",
		old:    "\tif e == nil {\n\t\treturn h.fail(h.j.V.Raise(NoWriteAccess,",
		new:    "\tif e == nil {\n\t\th.touch(b)\n\t\te = h.find(b)\n\t}\n\tif e == nil {\n\t\treturn h.fail(h.j.V.Raise(NoWriteAccess,",
		breaks: "skip a check: a block is changed without write access"},
	{name: "commit-without-flush", file: "journal/commit.go", test: "./crash .",
		old:    "\tif err := errors.Join(w.flush(), l.dev.Flush()); err != nil {\n\t\treturn err\n\t}\n\tnow := time.Now()\n",
		new:    "\tif err := w.flush(); err != nil {\n\t\treturn err\n\t}\n\tnow := time.Now()\n",
		breaks: "skip a barrier: the commit block may reach the device before what it commits"},
	{name: "commit-with-updates", file: "journal/commit.go", test: "./journal TestCommitWaitsForHandles",
		old:    "\tfor t.updates > 0 {\n\t\tl.cond.Wait()\n\t}\n",
		new:    "",
		breaks: "skip a wait: a transaction is committed under the handles that are open in it"},
	{name: "revoke-forgotten", file: "journal/commit.go", test: "./journal TestRevoke|TestCancelRevoke|TestRevokeHistory",
		old:    "\tfor b := range t.revokes {\n\t\tblks = append(blks, b)\n\t}\n",
		new:    "",
		breaks: "skip a step: no revoke record is written for freed metadata"},
}
