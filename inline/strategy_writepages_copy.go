package inline

import (
	"inlinefs/inode"
	"inlinefs/journal"
)

// writepagesCopy converts nothing: stores go to the page, and write-back copies the page into the inode.
//
// Lock order: handle, xattr_sem; never i_rwsem, which write-back may not take (reclaim).
// Prevents: every flip caused by a mapping; a store needs no space.
// Costs: one copy for each write-back.
// Precedent: Wilcox and Kara on the list.
// Known failure: i_size, and with it whether the page fits the inode, is not stable in write-back without i_rwsem: a truncate between
// reading it and the copy lets cut-off bytes come back beyond i_size, and a write(2) may convert the file meanwhile.
type writepagesCopy struct{}

var _ = register(writepagesCopy{})

func (writepagesCopy) Name() string { return "writepages_copy" }

// BeforeMmap: idle, a mapping changes nothing.
func (writepagesCopy) BeforeMmap(*Engine, *journal.Task, *inode.Inode) error { return nil }

// MmapLocked: idle, a mapping changes nothing.
func (writepagesCopy) MmapLocked(*Engine, *journal.Task, *inode.Inode) error { return nil }

// PageMkwrite: idle, the page is dirtied and the file stays inline.
func (writepagesCopy) PageMkwrite(*Engine, *journal.Task, *inode.Inode) error { return nil }

// FaultRetry: idle, PageMkwrite never asks for it.
func (writepagesCopy) FaultRetry(*Engine, *journal.Task, *inode.Inode) error { return nil }

// Writepage copies into the inode by the i_size that it sees, without the inode lock.
func (writepagesCopy) Writepage(e *Engine, t *journal.Task, i *inode.Inode, p []byte, off uint64) error {
	return e.copyUnlocked(t, i, p, off)
}
