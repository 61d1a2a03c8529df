package fs

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/internal/fserr"
	"inlinefs/journal"
	"inlinefs/mm"
)

// TestDeadlockIsBroken: two threads of one process really wait for each other, a write(2) under i_rwsem for mmap_lock and an mmap(2) under
// mmap_lock for i_rwsem. The watchdog names the cycle and breaks it at the mmap(2); the write goes on, and so does the mount.
func TestDeadlockIsBroken(t *testing.T) {
	m := observe(t, "mmap", config{races: true})
	p := m.path("f")
	write(t, p, pattern(100, 1))
	i, err := m.f.get(stat(t, p).Ino)
	must(t, err)
	defer m.f.put(i)
	space := mm.NewAddressSpace(77)
	begin := func(op string) *journal.Task {
		task := m.f.task(op, &fuse.InHeader{})
		task.Mm.Space = space
		return task
	}
	writer, mapper := begin("write"), begin("mmap")
	i.LockRw(writer)
	mapper.Mm.LockMmap()
	copied := make(chan struct{})
	go func() {
		writer.Mm.CopyFromUser()
		close(copied)
	}()
	start := time.Now()
	err = i.LockRwKillable(mapper)
	if !errors.Is(err, fserr.Deadlock) {
		t.Fatalf("i_rwsem under mmap_lock: %v, want %v", err, fserr.Deadlock)
	}
	t.Logf("broken after %v", time.Since(start))
	mapper.Mm.UnlockMmap()
	<-copied
	i.UnlockRw(writer)
	m.f.end(mapper, err)
	m.f.end(writer, nil)
	r := m.f.Report()
	if r.Violations["lock-cycle"] == 0 {
		t.Errorf("violations %v, want a lock-cycle", r.Violations)
	}
	found := false
	for _, l := range m.log.find("ERROR") {
		found = found || strings.Contains(l, "deadlock: ") && strings.Contains(l, "waits for mmap_lock(77)") && strings.Contains(l, "waits for i_rwsem(")
	}
	if !found {
		t.Errorf("no record names the cycle: %v", m.log.find("ERROR"))
	}
	write(t, p, pattern(50, 2))
}
