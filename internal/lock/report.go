package lock

// Report is what the lock-checking build has to say about one acquisition.
type Report struct {
	// Kind is one of the Kind constants.
	Kind string
	// Held and Taken are the names of the two classes; empty for a wait.
	Held, Taken string
	// Text is the whole report in lockdep's manner, several lines, the last one ended.
	Text string
}

// The kinds of reports.
const (
	KindRank      = "rank"      // a class is taken under one that stands behind it in the order
	KindCycle     = "cycle"     // the orders seen so far make a circle of classes
	KindRecursion = "recursion" // a lock is taken by the goroutine that holds it
	KindNesting   = "nesting"   // two locks of a class that does not nest
	KindInstances = "instances" // two locks of a class that nests, taken in both orders; or two locks without names
	KindWait      = "wait"      // a lock is waited for longer than the timeout
)
