// Package stress races write(2) against page faults on a real mount and judges what comes out.
//
// A campaign (Run) makes or takes an image, mounts it with this very binary as a child process, starts workers and leads them
// through rounds. A round makes fresh inline files, lets writers (write, pwrite, append, truncate) and mappers (shared mapping,
// store, msync, munmap) at them at the same instant, and then reads the files back. Every 8 bytes of a file belong to exactly one
// worker, so each value found has one owner and one right answer. Afterwards the image is unmounted and checked twice, by e2fsck
// and by `inlinefs check`.
//
// The workers are processes of their own (or threads of one, modifier one-process): what they race on is the kernel's own path
// into the daemon, not calls within one program. They meet in a piece of shared memory, see shared.
//
// Compare sets results side by side; Timeline draws the first violation the way kernel mails do.
package stress
