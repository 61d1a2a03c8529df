package inline

import (
	"fmt"

	"inlinefs/inode"
	"inlinefs/internal/lock"
	"inlinefs/ondisk"
)

const dataName = "data"

// value is the part of the raw inode that holds the bytes after the first 60. The caller holds i.Mu.
func value(raw ondisk.Inode) ([]byte, error) {
	off, n, found, err := ondisk.IbodyFind(raw, ondisk.XattrSystem, dataName)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, ondisk.Corrupt("inline data", "system.data is missing")
	}
	return raw[off : off+n : off+n], nil
}

// dataParts is what says whether a file is inline, and holds its bytes then.
const dataParts = lock.RawFlags | lock.RawMap | lock.RawArea

// Max is the most bytes that the inode can hold now, 0 for none (ext4_get_max_inline_size).
func Max(i *inode.Inode) uint64 {
	lock.Reading(&i.Mu)
	lock.Touching(&i.Mu, lock.RawFlags|lock.RawArea)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	v := ondisk.IbodyMax(i.Raw)
	if v < 0 {
		return 0
	}
	return uint64(ondisk.BlockArea + v)
}

// Size is i_inline_size: 60 and the length of system.data; ok is false when the file is not inline. It may be more than i_size.
func Size(i *inode.Inode) (n uint64, ok bool, err error) {
	lock.Reading(&i.Mu)
	lock.Touching(&i.Mu, lock.RawFlags|lock.RawArea)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	if !i.Raw.Has(ondisk.FlInlineData) {
		return 0, false, nil
	}
	v, err := value(i.Raw)
	if err != nil {
		return 0, true, named(i, err)
	}
	return uint64(ondisk.BlockArea + len(v)), true, nil
}

// Read copies the file's bytes from off into dst if the file is inline; ok is false when it is not (any more). What the inode does not
// hold reads as zeros. It takes XattrSem shared (ext4_read_inline_data).
func Read(i *inode.Inode, dst []byte, off uint64) (ok bool, err error) {
	i.XattrSem.RLock()
	defer i.XattrSem.RUnlock()
	lock.Reading(&i.Mu)
	lock.Touching(&i.Mu, dataParts)
	i.Mu.Lock()
	defer i.Mu.Unlock()
	if !i.Raw.Has(ondisk.FlInlineData) {
		return false, nil
	}
	v, err := value(i.Raw)
	if err != nil {
		return true, named(i, err)
	}
	clear(dst)
	for _, part := range [2]struct {
		at uint64
		b  []byte
	}{{0, i.Raw.Block()}, {ondisk.BlockArea, v}} {
		copyRange(dst, off, part.b, part.at)
	}
	return true, nil
}

// copyRange copies what src, standing at byte srcAt of the file, has of dst, standing at dstAt.
func copyRange(dst []byte, dstAt uint64, src []byte, srcAt uint64) {
	if srcAt >= dstAt {
		if d := srcAt - dstAt; d < uint64(len(dst)) {
			copy(dst[d:], src)
		}
		return
	}
	if d := dstAt - srcAt; d < uint64(len(src)) {
		copy(dst, src[d:])
	}
}

// store copies p to byte off of the inline area, which is large enough. The caller holds XattrSem exclusively and i.Mu.
func store(raw ondisk.Inode, p []byte, off uint64) error {
	v, err := value(raw)
	if err != nil {
		return err
	}
	if end := off + uint64(len(p)); end > uint64(ondisk.BlockArea+len(v)) {
		return ondisk.Corrupt("inline data", "bytes %d to %d do not fit %d", off, end, ondisk.BlockArea+len(v))
	}
	copyRange(raw.Block(), 0, p, off)
	copyRange(v, ondisk.BlockArea, p, off)
	return nil
}

// resize makes the inline area hold at least n bytes, creating it if the file is not inline yet. Nothing is preallocated. The caller
// holds XattrSem exclusively and i.Mu.
func resize(raw ondisk.Inode, n uint64) error {
	want := max(int(n)-ondisk.BlockArea, 0)
	if raw.Has(ondisk.FlInlineData) {
		v, err := value(raw)
		if err != nil || want <= len(v) {
			return err
		}
		return ondisk.IbodyResize(raw, ondisk.XattrSystem, dataName, want)
	}
	if err := ondisk.IbodySet(raw, ondisk.XattrSystem, dataName, make([]byte, want)); err != nil {
		return err
	}
	clear(raw.Block())
	raw.SetFlags(raw.Flags()&^ondisk.FlExtents | ondisk.FlInlineData)
	return nil
}

// shrink cuts the inline area to n bytes of content: system.data to what is beyond 60, the rest of i_block to zeros. The caller holds
// XattrSem exclusively and i.Mu (ext4_inline_data_truncate).
func shrink(raw ondisk.Inode, n uint64) error {
	v, err := value(raw)
	if err != nil {
		return err
	}
	if want := max(int(n)-ondisk.BlockArea, 0); want < len(v) {
		if err := ondisk.IbodyResize(raw, ondisk.XattrSystem, dataName, want); err != nil {
			return err
		}
	}
	if n < ondisk.BlockArea {
		clear(raw.Block()[n:])
	}
	return nil
}

// destroy empties the inline area and makes the inode an ordinary, empty one (ext4_destroy_inline_data_nolock). The caller holds
// XattrSem and DataSem exclusively and i.Mu.
func destroy(i *inode.Inode) error {
	if err := ondisk.IbodyRemove(i.Raw, ondisk.XattrSystem, dataName); err != nil {
		return err
	}
	clear(i.Raw.Block())
	fl := i.Raw.Flags() &^ ondisk.FlInlineData
	if i.FS.SB.Incompat(ondisk.IncompatExtents) {
		fl |= ondisk.FlExtents
		ondisk.ExtentNode(i.Raw.Block()).Init(0)
	}
	i.Raw.SetFlags(fl)
	i.Ext = ondisk.Extent{}
	return nil
}

// content returns a copy of the file's bytes while it is inline. The caller holds XattrSem and i.Mu.
func content(raw ondisk.Inode) ([]byte, error) {
	v, err := value(raw)
	if err != nil {
		return nil, err
	}
	n := min(raw.Size(), uint64(ondisk.BlockArea+len(v)))
	out := make([]byte, n)
	copyRange(out, 0, raw.Block(), 0)
	copyRange(out, 0, v, ondisk.BlockArea)
	return out, nil
}

func named(i *inode.Inode, err error) error {
	return i.FS.Corrupted(i.Ino, 0, "ext4_inline_data", fmt.Errorf("%s: %w", i.Name(), err))
}
