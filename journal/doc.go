// Package journal gives handles: every change of metadata happens between Start and Stop of a Handle that belongs to a Task.
//
// A Task stands for the kernel's current task (current->journal_info): one per request, passed explicitly. The same Handle type
// serves the no-journal mode of the original bug and the jbd2 journal; "no handle" is nil and nothing else. Every rule that the
// kernel guards with BUG_ON or J_ASSERT (ext4_jbd2.c, jbd2/transaction.c) is checked here and becomes a Violation: recorded with
// both stacks and the inode's last events, logged once, counted, and returned as EIO to the caller that broke it.
package journal
