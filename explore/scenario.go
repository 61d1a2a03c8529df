//go:build explore

package explore

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/internal/sched"
)

// ActorSpec is one thread of a scenario.
type ActorSpec struct {
	Name string
	Pid  uint32 // of its process: threads of one process share mmap_lock
	Ops  []op
	// NoRetry: its faults come from callers that may not drop mmap_lock.
	NoRetry bool
}

// Scenario is a few actors on one file.
type Scenario struct {
	Name string
	// Mirrors is the upstream report or commit that this is about, and what inlinefs does.
	Mirrors string
	Actors  []ActorSpec
	// Before is done before the race, unscheduled.
	Before []op
	// Fresh: the file has no bytes yet and is not inline on disk.
	Fresh bool
	// Faults names the steps that may fail, one of them once: "alloc", "xattr-grow", "device write", "user-copy" (the buffer of a write(2) is
	// gone when it is to be copied).
	Faults []string
	// Journal: the image has a journal.
	Journal bool
	// Three marks the scenarios of three actors.
	Three bool
}

// start is the content that the file has before the race.
func (sc *Scenario) start() []byte {
	if sc.Fresh {
		return nil
	}
	b := bytes.Repeat([]byte{start0}, 100)
	for _, o := range sc.Before {
		b = o.apply(b)
	}
	return b
}

// crashes says whether power is lost in some execution.
func (sc *Scenario) crashes() bool {
	return slices.ContainsFunc(sc.Actors, func(a ActorSpec) bool {
		return slices.ContainsFunc(a.Ops, func(o op) bool { return o.kind == opCrash })
	})
}

var alloc = []string{"alloc"}

// The pieces that scenarios are made of. Each actor writes bytes of its own, so that whose are missing can be told.
func writer() ActorSpec    { return ActorSpec{Name: "write", Pid: 10, Ops: []op{wr('W', 8, 8)}} }
func writer2() ActorSpec   { return ActorSpec{Name: "write2", Pid: 11, Ops: []op{wr('V', 24, 8)}} }
func grower() ActorSpec    { return ActorSpec{Name: "grow", Pid: 10, Ops: []op{wr('G', 190, 8)}} }
func mapper() ActorSpec    { return ActorSpec{Name: "fault", Pid: 20, Ops: []op{st('S', 40, 8)}} }
func mapper2() ActorSpec   { return ActorSpec{Name: "fault2", Pid: 21, Ops: []op{st('Z', 56, 8)}} }
func announcer() ActorSpec { return ActorSpec{Name: "mmap", Pid: 20, Ops: []op{{kind: opAnnounce}}} }
func announced() ActorSpec {
	return ActorSpec{Name: "mmap+store", Pid: 20, Ops: []op{{kind: opAnnounce}, st('S', 40, 8)}}
}
func cutter() ActorSpec {
	return ActorSpec{Name: "truncate", Pid: 12, Ops: []op{{kind: opTruncate, size: 30}}}
}
func extender() ActorSpec {
	return ActorSpec{Name: "extend", Pid: 12, Ops: []op{{kind: opTruncate, size: 300}}}
}
func cutExtend() ActorSpec {
	return ActorSpec{Name: "cut+extend", Pid: 12, Ops: []op{{kind: opTruncate, size: 30}, {kind: opTruncate, size: 100}}}
}
func preallocator() ActorSpec {
	return ActorSpec{Name: "fallocate", Pid: 13, Ops: []op{{kind: opFallocate, size: 2048}}}
}
func xattrer() ActorSpec {
	return ActorSpec{Name: "setxattr", Pid: 14, Ops: []op{{kind: opSetxattr, size: 20}}}
}
func reader() ActorSpec  { return ActorSpec{Name: "read", Pid: 15, Ops: []op{{kind: opRead}}} }
func flusher() ActorSpec { return ActorSpec{Name: "writeback", Ops: []op{{kind: opWriteback}}} }
func evicter() ActorSpec { return ActorSpec{Name: "evict", Ops: []op{{kind: opEvict}}} }
func gup() ActorSpec {
	a := mapper()
	a.Name, a.Pid, a.NoRetry = "gup", 22, true
	return a
}
func (a ActorSpec) writes() bool {
	return slices.ContainsFunc(a.Ops, func(o op) bool { return o.kind == opWrite })
}
func (a ActorSpec) in(pid uint32) ActorSpec { a.Pid = pid; return a }

// dirty is a store that happened before the race, through a mapping that nobody announced.
var dirty = []op{st('D', 72, 8)}

func pair(name, mirrors string, a, b ActorSpec, before ...op) Scenario {
	return Scenario{Name: name, Mirrors: mirrors, Actors: []ActorSpec{a, b}, Before: before, Faults: alloc}
}

// Pairs are the scenarios of two actors.
func Pairs() []Scenario {
	out := []Scenario{
		pair("write,fault", "the race itself: syzbot bdab24d5bf96d57c50b0", writer(), mapper()),
		pair("write,mmap", "Li v1/v2 2023: convert at ->mmap", writer(), announcer()),
		pair("write,mmap+store", "the race with an announced mapping", writer(), announced()),
		pair("write,gup", "a fault that may not be retried (Li 2024-04)", writer(), gup()),
		pair("grow,fault", "two conversions of one file", grower(), mapper()),
		pair("write,truncate", "i_rwsem keeps them apart", writer(), cutter()),
		pair("write,fallocate", "write vs fallocate convert, CVE-2022-49414", writer(), preallocator()),
		pair("write,setxattr", "stale i_inline_size, 892e1cf17555", writer(), xattrer()),
		pair("write,write", "two writers", writer(), writer2()),
		pair("write,read", "ext4_read_inline_data under xattr_sem", writer(), reader()),
		pair("truncate,fault", "truncate vs conversion in a fault", cutter(), mapper()),
		pair("extend,fault", "truncate-grow then sendfile, ed9356a30e59", extender(), mapper()),
		pair("fallocate,fault", "syzbot d14b2bea87fe2aaffa3b", preallocator(), mapper()),
		pair("setxattr,fault", "attributes move while the fault converts", xattrer(), mapper()),
		pair("read,fault", "destroy_inline vs map_blocks, 103ce01cd045", reader(), mapper()),
		pair("fault,fault", "two faults convert", mapper(), mapper2()),
		pair("mmap,fault", "an announcement meets a fault", announcer(), mapper2()),
		pair("write,writeback", "Cascardo v1 2025, write-back without i_rwsem", writer(), flusher(), dirty...),
		pair("grow,writeback", "conversion meets write-back", grower(), flusher(), dirty...),
		pair("truncate,writeback", "i_size is unstable in write-back", cutter(), flusher(), dirty...),
		pair("cut+extend,writeback", "cut-off bytes must not come back", cutExtend(), flusher(), dirty...),
		pair("fallocate,writeback", "ALLOC_DA_BLKS meets I1 (Ye Bin 2022-05)", preallocator(), flusher(), dirty...),
		pair("setxattr,writeback", "capacity changes under write-back", xattrer(), flusher(), dirty...),
		pair("fault,writeback", "a second store while the first is written back", mapper(), flusher(), dirty...),
		pair("read,writeback", "read vs write-back", reader(), flusher(), dirty...),
		pair("write,evict", "reclaim of the page under write(2)", writer(), evicter(), dirty...),
		pair("fault,evict", "reclaim of the page under a fault", mapper(), evicter(), dirty...),
		pair("write,fault same process", "write(2) and a fault share mmap_lock (Kara)", writer(), mapper().in(10)),
		pair("write,mmap same process", "write(2) and mmap(2) share mmap_lock (Kara 2025-05-26)", writer(), announcer().in(10)),
	}
	fresh := pair("fresh write,fault", "the first write decides; MAY_INLINE_DATA without INLINE_DATA_FL", writer(), ActorSpec{Name: "touch", Pid: 20, Ops: []op{{kind: opTouch}}})
	fresh.Fresh = true
	grow := pair("write,setxattr grow fails", "the attribute area cannot grow", ActorSpec{Name: "append", Pid: 10, Ops: []op{wr('W', 100, 20)}}, xattrer())
	grow.Faults = []string{"xattr-grow", "alloc"}
	again := pair("cut+extend+store,writeback", "a store of the bytes that were there before truncate cut them off",
		ActorSpec{Name: "cut+extend+store", Pid: 12, Ops: []op{{kind: opTruncate, size: 30}, {kind: opTruncate, size: 100}, st(start0, 72, 8)}}, flusher(), dirty...)
	late := pair("append,store+writeback+store", "a write-back that ends at an i_size which the client has not raised yet: an hour of stress lost one write",
		ActorSpec{Name: "append", Pid: 10, Ops: []op{wr('W', 100, 8)}},
		ActorSpec{Name: "store+writeback+store", Pid: 20, Ops: []op{st('S', 40, 8), {kind: opWriteback}, st('Z', 56, 8)}})
	blank := pair("append+store of zeros,touch+writeback", "zeros behind an old i_size are the client's, unless a mapping stored them",
		ActorSpec{Name: "append+store", Pid: 10, Ops: []op{wr('W', 100, 8), st(0, 100, 8)}},
		ActorSpec{Name: "touch+writeback", Pid: 20, Ops: []op{{kind: opTouch}, {kind: opWriteback}}})
	out = append(out, fresh, grow, again)
	for k := range out {
		if slices.ContainsFunc(out[k].Actors, ActorSpec.writes) {
			out[k].Faults = append(slices.Clone(out[k].Faults), "user-copy")
		}
	}
	out = append(out, late, blank)
	return append(out, crashes()...)
}

// crashes are the scenarios of one actor and a loss of power, with a journal: the crash may come before any write to the device, and
// commits wherever the actor's own fsync puts them.
func crashes() (out []Scenario) {
	crash := ActorSpec{Name: "crash", Ops: []op{{kind: opCrash}}}
	synced := func(a ActorSpec) ActorSpec {
		var ops []op
		for _, o := range a.Ops {
			ops = append(ops, o, op{kind: opFsync})
		}
		a.Ops = ops
		return a
	}
	for _, a := range []ActorSpec{writer(), grower(), mapper(), cutter(), extender(), preallocator(), xattrer()} {
		sc := pair(a.Name+",crash", "no crash point leaves INLINE without system.data or N bytes of zeros (A.4(3), A.4(4))", synced(a), crash)
		sc.Journal = true
		out = append(out, sc)
		bad := sc
		bad.Name, bad.Mirrors = a.Name+",device error", "a failed write of data or of the log: abort, EIO or EROFS, and nothing acknowledged is lost"
		bad.Actors, bad.Faults = sc.Actors[:1], []string{"device write"}
		out = append(out, bad)
	}
	return out
}

// committer is the commit timer: it commits what others have done so far.
func committer() ActorSpec { return ActorSpec{Name: "commit", Ops: []op{{kind: opCommit}}} }

// Triples are the scenarios of three actors.
func Triples() []Scenario {
	out := []Scenario{
		{Name: "write,fault,fault", Mirrors: "two faults against one write", Actors: []ActorSpec{writer(), mapper(), mapper2()}},
		{Name: "write,fault,writeback", Mirrors: "all three ways to the page", Actors: []ActorSpec{writer(), mapper(), flusher()}},
		{Name: "write,fault,truncate", Mirrors: "conversion between write and truncate", Actors: []ActorSpec{writer(), mapper(), cutter()}},
		{Name: "write,fault,setxattr", Mirrors: "capacity and conversion", Actors: []ActorSpec{writer(), mapper(), xattrer()}},
		{Name: "write,fault,fallocate", Mirrors: "three conversions", Actors: []ActorSpec{writer(), mapper(), preallocator()}},
		{Name: "write,fault,read", Mirrors: "who reads meanwhile", Actors: []ActorSpec{writer(), mapper(), reader()}},
		{Name: "write,write,fault", Mirrors: "two writers and a fault", Actors: []ActorSpec{writer(), writer2(), mapper()}},
		{Name: "write,fault,mmap same process", Mirrors: "a waiting mmap_lock writer stops the write's fault (Kara, Li 2025-03-31)",
			Actors: []ActorSpec{writer(), mapper().in(10), announcer().in(10)}},
	}
	crash := ActorSpec{Name: "crash", Ops: []op{{kind: opCrash}}}
	for _, a := range []ActorSpec{writer(), grower(), mapper(), cutter(), preallocator()} {
		out = append(out, Scenario{Name: a.Name + ",commit,crash", Mirrors: "a commit at any moment, then a crash at any moment", Journal: true,
			Actors: []ActorSpec{a, committer(), crash}})
	}
	out = append(out, Scenario{Name: "write,fault,crash", Mirrors: "the race on a journalled image, and a crash at any moment of it", Journal: true,
		Actors: []ActorSpec{writer(), mapper(), crash}})
	for k := range out {
		out[k].Faults, out[k].Three = alloc, true
	}
	return out
}

// program makes a scenario's executions under a strategy. last is set to the world of the newest execution.
func (sc *Scenario) program(b *base, strategy string, last **world) sched.Program {
	judged := map[string][]sched.Failure{}
	return sched.Program{Name: strategy + ":" + sc.Name, New: func() sched.World {
		w, err := sc.fork(b, strategy, judged)
		if err != nil { // what is done before the race does not work: that is the failure
			return sched.World{Actors: []sched.Actor{{Name: "set-up", Run: func() { sched.Fail("set-up", fmt.Sprintf("scenario %s: %v", sc.Name, err)) }}}}
		}
		*last = w
		var actors []sched.Actor
		for n, a := range sc.Actors {
			ops := make([]*op, len(a.Ops))
			for k := range a.Ops {
				o := a.Ops[k]
				o.actor = n
				ops[k] = &o
				w.ops = append(w.ops, &o)
			}
			actors = append(actors, sched.Actor{Name: a.Name, Run: func() {
				for _, o := range ops {
					if o.skip {
						continue
					}
					if o.run(w, a.Pid) != fuse.OK && o.kind == opAnnounce {
						return // mmap(2) failed: there is no mapping to store through
					}
				}
			}})
		}
		return sched.World{Actors: actors, Finish: w.finish}
	}}
}
