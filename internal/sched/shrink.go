//go:build explore

package sched

// Case is a program made of parts that can be left out.
type Case[C any] interface {
	Program() Program
	// Reduce lists the cases with something less, the largest cuts first. Each must be smaller than this one.
	Reduce() []C
}

// Shrink finds a case, by leaving out one part after the other while some execution still fails as wanted, from which nothing more can be
// left out, and its schedule with the fewest preemptions. search is how a case is searched; nil is Exhaustive. The error is ErrNotFound
// if c itself does not fail so; bounds are those of o, for each search.
func Shrink[C Case[C]](c C, want func(Failure) bool, search func(Program, Options) Result, o Options) (C, Found, error) {
	if search == nil {
		search = Exhaustive
	}
	fails := func(c C) (Found, bool, error) {
		o := o
		o.Until = want
		r := search(c.Program(), o)
		for _, f := range r.Failures {
			if want(f.Failure) {
				return f, true, nil
			}
		}
		return Found{}, false, r.Err
	}
	found, ok, err := fails(c)
	if err != nil || !ok {
		return c, found, orNotFound(err)
	}
	for smaller := true; smaller; {
		smaller = false
		for _, r := range c.Reduce() {
			f, ok, err := fails(r)
			if err != nil {
				return c, found, err
			}
			if ok {
				c, found, smaller = r, f, true
				break
			}
		}
	}
	best, _, err := Fewest(c.Program(), want, o)
	if err != nil {
		return c, found, err
	}
	return c, best, nil
}

func orNotFound(err error) error {
	if err != nil {
		return err
	}
	return ErrNotFound
}
