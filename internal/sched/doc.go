// Package sched explores the interleavings of a few actors that run the project's real code, built with -tags explore: without the tag the
// package is empty.
//
// # The model
//
// An actor is a coroutine; one runs at a time, on one thread. The locks, flags and points of internal/lock are its switch points: there it
// hands its next operation over and goes on when a strategy has chosen it. The program is a pure function of the decisions, so that a list of
// them, a Schedule, repeats an execution exactly; a search that meets a difference ends with an error.
//
// A step is an operation and everything that the actor does until its next switch point. Of what actors share, a step touches the object of
// its operation only, if the program is what it claims to be: data is guarded by a named lock, or is a flag, or is announced by a point, or
// commutes (caches, counters under leaf classes or unnamed locks). What breaks this claim a search does not see; Crosscheck looks for it, by
// random executions that must be of an explored trace and end as it did.
//
//   - A Mutex is taken when nobody has it. After lock.Reading it is shared with others who only read, so that they commute; it stays closed to
//     writers and to its own holder.
//   - Sections that lock.Touching announces are one step, and commute if their parts of the data differ, or one is only looked at in both
//     (lock.Looking): their release orders nothing, those that they conflict with are ordered by the acquire. One with a switch point within, or under a lock that is tried, makes its class
//     whole again.
//   - A writer of a RWMutex takes two steps: it queues, which keeps later readers out, and it acquires, when those who hold it are gone. Among
//     writers there is no order. So a waiting writer blocks, as with rw_semaphore and sync.RWMutex; a reader that is kept out has not queued:
//     it is as if it came later.
//   - A release is no switch point. Whoever could notice that it comes later waits for it or tries the lock; a switch before the release
//     gives no execution that a switch after it, or before the step, does not give. Where somebody tries (TryLock) that is wrong: the
//     search notices the first try of a class, makes the releases of the class steps, and begins again.
//   - Enter and Leave are no switch points: nobody waits for them. They count for the order of classes.
//   - Locks of leaf classes and without a name are no switch points as long as the section has none. An actor that finds one taken waits in
//     the scheduler. A leaf lock that is held across a switch point is made a switch point by class, and the search begins again; one without
//     a name gives a warning.
//   - Choose is a decision of the environment: all values are explored, up to a number of them that are not 0.
//
// Failures are found by the program's Finish and by Fail; the scheduler itself reports deadlocks, contradicting orders of classes (in
// lockdep's way, from what one execution did: two orders by different actors are reported though this schedule did not block), locks that
// nobody gave back, panics and livelocks.
//
// # The reduction
//
// Two steps are dependent if they are of one actor or touch one object in modes that do not commute (deps.go). Executions that differ by
// swaps of adjacent independent steps form a trace: same steps, same happens-before, same final state, same failures. Exhaustive runs one
// execution of each trace, by source sets (Abdulla, Aronis, Jonsson, Sagonas 2014) and sleep sets (Godefroid 1996):
//
//   - Each step taken is compared, by vector clocks, with the earlier steps that it depends on and that are not before it by way of others.
//     Such a race can be turned round: at the node of the earlier step, what followed independently of it and then the later step is
//     possible. One of the actors that can begin this sequence is to be explored at that node.
//   - Acquires race with acquires. A release is before the acquire that waited for it, which keeps a step from being moved where the lock is
//     taken, but it is joined after the race check: that the holder's acquire comes before by way of its own release is no reason not to
//     turn the two round. By way of another's release it is.
//   - A step that waits for good is never taken, and races all the same with those that took the lock before it: the other order need not
//     have been a deadlock. If several keep it out, they are moved behind it together: each is enough to stop it.
//   - An actor explored at a node sleeps in the subtrees explored later there until a step dependent with its own is taken. A state in which
//     all that could go on sleep is given up (Result.Cut): its traces have been explored.
//
// So every function of the trace is covered: final states, what Finish and Fail say of them, deadlocks, orders of classes, panics, locks left.
// Livelocks are not, since an execution that is cut has no end: with one, Result.Complete stays false. Faults bounds whole traces, not orders
// of them, and keeps the argument; bounds on time and executions only end the search, which is then not complete. Bounded does not reduce:
// the number of preemptions differs within a trace.
//
// The tests hold Exhaustive against BruteForce on random programs of all these operations: final states and failures are equal, the
// happens-before relations of brute force are exactly those explored, each once, and every race could be turned round at its node.
//
// # Speed and limits
//
// Coroutines are those of iter.Pull and live on from one execution to the next, so that stacks grow once. An actor chosen again goes on
// without a switch. An execution that is given up unwinds its actors by a private panic: deferred calls run, and all operations of
// internal/lock do nothing and succeed meanwhile.
//
// One search at a time in a process: lock.Control is global. No other goroutine may use locks of internal/lock during an execution, and no
// actor may wait for anything but those locks (a sync.Cond would stop everything). Locks must be free when actors begin.
package sched
