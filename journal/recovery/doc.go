// Package recovery replays a jbd2 journal. Recover walks the log three times,
// as the kernel's do_one_pass does: to find its end, to collect the revoked
// blocks and to write the logged blocks to their places. Then it marks the log
// empty, so that an old transaction can't be replayed again.
//
// The package knows nothing of ext4: it reads log blocks by their number in
// the journal from a Log and writes file system blocks to a Target. A hostile
// log can't make it read more than the log's length in each pass, nor write
// outside the file system.
package recovery
