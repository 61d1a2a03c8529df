package fs

import (
	"errors"
	"time"

	"inlinefs/internal/fserr"
)

// again runs op, and runs it again when it found no space while space was on its way back (ext4_should_retry_alloc): deleted inodes
// that the kernel has just forgotten, or blocks that wait for the transaction which freed them. op must have changed nothing when it
// fails for want of space, and hold no lock when it returns.
func (f *FileSystem) again(op func() error) error {
	for n := 0; ; n++ {
		freed, returned := f.freed.Load(), f.fs.Returned()
		err := op()
		if n == 2 || !errors.Is(err, fserr.NoSpace) || !f.reclaim(freed, returned) {
			return err
		}
	}
}

// reclaim waits for space that is being freed and says whether there is any since freed inodes had been freed and returned runs of blocks
// had come back. The kernel queues a FORGET before unlink(2) returns, and requests are served by several threads: the one that found no
// space may have overtaken it. A commit is made only where blocks wait for it (s_mb_free_pending): a full disk, a damaged group and an attribute
// that is too large have none.
func (f *FileSystem) reclaim(freed, returned uint64) bool {
	if f.fs.ReadOnly() {
		return false
	}
	for n := 0; n < 100 && f.freed.Load() == freed && (f.leaving.Load() > 0 || n < 5 && f.hasOrphans()); n++ {
		time.Sleep(time.Millisecond << min(n, 5))
	}
	if f.fs.Journal.Journalled() && f.fs.Busy() > 0 && f.fs.Journal.Commit() == nil {
		return true
	}
	return f.freed.Load() != freed || f.fs.Returned() != returned
}

func (f *FileSystem) hasOrphans() bool {
	f.orphanMu.Lock()
	defer f.orphanMu.Unlock()
	return f.orphans != nil || f.orphanFile != nil && f.orphanFile.used > 0
}
