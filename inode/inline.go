package inode

import (
	"inlinefs/ondisk"
	"inlinefs/super"
)

// checkInline validates the attributes in the inode, and that inline data has its entry. A size beyond the capacity is left to the
// reader: mke2fs -d makes such files from sources of zeros, and what is missing reads as zeros.
func checkInline(f *super.FS, where string, raw ondisk.Inode) error {
	if raw.ExtraIsize() == 0 {
		if raw.Has(ondisk.FlInlineData) {
			return ondisk.Corrupt(where, "inline data without room for attributes (i_extra_isize 0)")
		}
		return nil
	}
	if err := ondisk.IbodyCheck(raw); err != nil {
		return err
	}
	if !raw.Has(ondisk.FlInlineData) {
		return nil
	}
	_, _, found, err := ondisk.IbodyFind(raw, ondisk.XattrSystem, "data")
	if err == nil && !found {
		err = ondisk.Corrupt(where, "inline data flag without the attribute system.data")
	}
	return err
}
