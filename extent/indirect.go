package extent

import (
	"encoding/binary"
	"fmt"

	"inlinefs/alloc"
	"inlinefs/buffer"
	"inlinefs/inode"
	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/ondisk"
)

// indPath splits a logical block into the indexes on its way: the i_block slot and the index in each indirect block
// (ext4_block_to_path).
func indPath(i *inode.Inode, lblk uint32) (at [4]int, depth int, err error) {
	n := uint64(i.FS.BlockSize / 4)
	b := uint64(lblk)
	switch {
	case b < ondisk.NDirect:
		at[0] = int(b)
		return at, 0, nil
	case b-ondisk.NDirect < n:
		b -= ondisk.NDirect
		return [4]int{12, int(b)}, 1, nil
	case b-ondisk.NDirect-n < n*n:
		b -= ondisk.NDirect + n
		return [4]int{13, int(b / n), int(b % n)}, 2, nil
	case b-ondisk.NDirect-n-n*n < n*n*n:
		b -= ondisk.NDirect + n + n*n
		return [4]int{14, int(b / n / n), int(b / n % n), int(b % n)}, 3, nil
	}
	return at, 0, fmt.Errorf("%s: logical block %d is beyond the indirect map: %w", i.Name(), lblk, fserr.TooBig)
}

func readInd(i *inode.Inode, blk uint32) (*buffer.Head, error) {
	if !i.FS.ValidBlocks(uint64(blk), 1) {
		return nil, i.FS.Corrupted(i.Ino, uint64(blk), "ext4_get_branch", ondisk.Corrupt(i.Name(), "indirect block %d is not a data block", blk))
	}
	b, err := i.FS.Bufs.Read(uint64(blk))
	if err != nil {
		return nil, i.FS.Corrupted(i.Ino, uint64(blk), "ext4_get_branch", err)
	}
	return b, nil
}

func ptr(b *buffer.Head, k int) uint32 { return binary.LittleEndian.Uint32(b.Data()[4*k:]) }

// indMap is Map for files with indirect blocks. The caller holds DataSem.
func indMap(i *inode.Inode, lblk, n uint32) (Run, error) {
	at, depth, err := indPath(i, lblk)
	if err != nil {
		return Run{}, err
	}
	i.Mu.Lock()
	var top [ondisk.NBlocks]uint32
	for k := range top {
		top[k] = i.Raw.BlockPtr(k)
	}
	i.Mu.Unlock()
	if depth == 0 {
		return indRun(i, n, uint32(ondisk.NDirect-at[0]), func(k uint32) uint32 { return top[at[0]+int(k)] })
	}
	blk := top[at[0]]
	per := uint32(i.FS.BlockSize / 4)
	for d := 1; ; d++ {
		if blk == 0 {
			// A missing subtree is a hole at least to the end of the last level's block.
			return Run{Len: min(n, per-uint32(at[depth]))}, nil
		}
		b, err := readInd(i, blk)
		if err != nil {
			return Run{}, err
		}
		if d == depth {
			r, err := indRun(i, n, per-uint32(at[d]), func(k uint32) uint32 { return ptr(b, at[d]+int(k)) })
			b.Release()
			return r, err
		}
		blk = ptr(b, at[d])
		b.Release()
	}
}

// indRun counts contiguous pointers.
func indRun(i *inode.Inode, n, room uint32, get func(k uint32) uint32) (Run, error) {
	n = min(n, room)
	first := get(0)
	k := uint32(1)
	if first == 0 {
		for k < n && get(k) == 0 {
			k++
		}
		return Run{Len: k}, nil
	}
	for k < n && get(k) == first+k {
		k++
	}
	if !i.FS.ValidBlocks(uint64(first), uint64(k)) {
		return Run{}, i.FS.Corrupted(i.Ino, uint64(first), "ext4_ind_map_blocks", ondisk.Corrupt(i.Name(), "blocks %d to %d are not data blocks", first, first+k-1))
	}
	return Run{Physical: uint64(first), Len: k, State: Mapped}, nil
}

// indSet points [lblk, lblk+n) at phys, making indirect blocks as needed. The caller holds DataSem exclusively.
func indSet(h *journal.Handle, i *inode.Inode, lblk, n uint32, phys uint64) error {
	if phys+uint64(n) > 1<<32 {
		return fmt.Errorf("%s: block %d needs more than 32 bits: %w", i.Name(), phys+uint64(n)-1, fserr.NoSpace)
	}
	for k := uint32(0); k < n; k++ {
		if err := indSetOne(h, i, lblk+k, uint32(phys)+k); err != nil {
			for k > 0 { // what was set is unset: the caller frees the blocks
				k--
				if e := indSetOne(h, i, lblk+k, 0); e != nil {
					return fmt.Errorf("%w (and %w)", err, e)
				}
			}
			return err
		}
	}
	return nil
}

func indSetOne(h *journal.Handle, i *inode.Inode, lblk, phys uint32) error {
	at, depth, err := indPath(i, lblk)
	if err != nil {
		return err
	}
	if err := h.EnsureCredits(4*(alloc.Credits+1) + 2); err != nil {
		return err
	}
	i.Mu.Lock()
	blk := i.Raw.BlockPtr(at[0])
	if depth == 0 {
		i.Raw.SetBlockPtr(at[0], phys)
	}
	i.Mu.Unlock()
	if depth == 0 {
		return nil
	}
	if blk == 0 {
		if blk, err = newInd(h, i); err != nil {
			return err
		}
		i.Mu.Lock()
		i.Raw.SetBlockPtr(at[0], blk)
		i.Mu.Unlock()
	}
	for d := 1; d <= depth; d++ {
		b, err := readInd(i, blk)
		if err != nil {
			return err
		}
		next := ptr(b, at[d])
		if d == depth {
			next = phys
			err = setPtr(h, b, at[d], phys)
		} else if next == 0 {
			if next, err = newInd(h, i); err == nil {
				err = setPtr(h, b, at[d], next)
			}
		}
		b.Release()
		if err != nil {
			return err
		}
		blk = next
	}
	return nil
}

func setPtr(h *journal.Handle, b *buffer.Head, k int, v uint32) error {
	if err := h.GetWriteAccess(b); err != nil {
		return err
	}
	b.Lock()
	binary.LittleEndian.PutUint32(b.Data()[4*k:], v)
	b.Unlock()
	return h.DirtyMetadata(b)
}

func newInd(h *journal.Handle, i *inode.Inode) (uint32, error) {
	blk, err := alloc.NewBlock(h, i, i.Goal)
	if err != nil {
		return 0, err
	}
	if blk >= 1<<32 {
		return 0, undo(h, i, blk, 1, fserr.NoSpace)
	}
	if err := i.AddSectors(int64(i.FS.BlockSize / 512)); err != nil {
		return 0, err
	}
	b := i.FS.Bufs.Get(blk)
	defer b.Release()
	b.Lock()
	if err := h.GetCreateAccess(b); err != nil {
		b.Unlock()
		return 0, err
	}
	clear(b.Data())
	b.SetUptodate()
	b.Unlock()
	return uint32(blk), h.DirtyMetadata(b)
}

// indBatch bounds the blocks freed under one handle.
const indBatch = 1024

// indRemove frees up to indBatch blocks of [lo, hi) from the end, and indirect blocks that become empty. The caller holds DataSem
// exclusively.
func indRemove(h *journal.Handle, i *inode.Inode, lo, hi uint32) (more bool, err error) {
	left := indBatch
	n := uint64(i.FS.BlockSize / 4)
	start := [4]uint64{0, ondisk.NDirect, ondisk.NDirect + n, ondisk.NDirect + n + n*n}
	for depth := 3; depth >= 1 && left > 0; depth-- {
		i.Mu.Lock()
		blk := i.Raw.BlockPtr(11 + depth)
		i.Mu.Unlock()
		if blk == 0 || uint64(hi) <= start[depth] {
			continue
		}
		empty, err := indPrune(h, i, blk, depth, start[depth], uint64(lo), uint64(hi), &left)
		if err != nil {
			return false, err
		}
		if empty {
			i.Mu.Lock()
			i.Raw.SetBlockPtr(11+depth, 0)
			i.Mu.Unlock()
			if err := freeInd(h, i, uint64(blk), true); err != nil {
				return false, err
			}
		}
	}
	for k := min(hi, ondisk.NDirect); k > lo && left > 0; k-- {
		i.Mu.Lock()
		blk := i.Raw.BlockPtr(int(k - 1))
		i.Raw.SetBlockPtr(int(k-1), 0)
		i.Mu.Unlock()
		if blk != 0 {
			left--
			if err := freeInd(h, i, uint64(blk), buffered(i)); err != nil {
				return false, err
			}
		}
	}
	return left == 0, nil
}

// indPrune frees what [lo, hi) covers below indirect block blk, whose first logical block is base; empty says that nothing is left.
func indPrune(h *journal.Handle, i *inode.Inode, blk uint32, depth int, base, lo, hi uint64, left *int) (empty bool, err error) {
	b, err := readInd(i, blk)
	if err != nil {
		return false, err
	}
	defer b.Release()
	n := i.FS.BlockSize / 4
	span := uint64(1)
	for range depth - 1 {
		span *= uint64(n)
	}
	for k := n - 1; k >= 0 && *left > 0; k-- {
		first := base + uint64(k)*span
		child := ptr(b, k)
		if child == 0 || first >= hi || first+span <= lo {
			continue
		}
		gone := true
		if depth > 1 {
			if gone, err = indPrune(h, i, child, depth-1, first, lo, hi, left); err != nil {
				return false, err
			}
		} else {
			*left--
		}
		if !gone {
			continue
		}
		if err := h.EnsureCredits(alloc.Credits*2 + 3); err != nil {
			return false, err
		}
		if err := setPtr(h, b, k, 0); err != nil {
			return false, err
		}
		if err := freeInd(h, i, uint64(child), depth > 1 || buffered(i)); err != nil {
			return false, err
		}
	}
	for k := range n {
		if ptr(b, k) != 0 {
			return false, nil
		}
	}
	return true, nil
}

func freeInd(h *journal.Handle, i *inode.Inode, blk uint64, meta bool) error {
	if err := alloc.FreeBlocks(h, i, blk, 1, meta); err != nil {
		return err
	}
	if err := i.AddSectors(-int64(i.FS.BlockSize / 512)); err != nil {
		return i.FS.Corrupted(i.Ino, blk, "ext4_free_data", err)
	}
	return nil
}
