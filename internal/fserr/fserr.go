// Package fserr names the outcomes of file system operations. Only fs turns them into errno (fs/errno.go).
package fserr

import "errors"

// What an operation may end in besides success.
var (
	NoSpace      = errors.New("no space left on device")        // ENOSPC
	NotExist     = errors.New("no such entry")                  // ENOENT
	Exist        = errors.New("entry exists")                   // EEXIST
	NotEmpty     = errors.New("directory not empty")            // ENOTEMPTY
	NotDir       = errors.New("not a directory")                // ENOTDIR
	IsDir        = errors.New("is a directory")                 // EISDIR
	TooBig       = errors.New("file too large")                 // EFBIG
	NoData       = errors.New("no such attribute")              // ENODATA
	Range        = errors.New("result does not fit the buffer") // ERANGE
	ReadOnly     = errors.New("read-only file system")          // EROFS
	IO           = errors.New("input/output error")             // EIO
	TooManyLinks = errors.New("too many links")                 // EMLINK
	Invalid      = errors.New("invalid argument")               // EINVAL
	NotSupported = errors.New("operation not supported")        // EOPNOTSUPP
	NameTooLong  = errors.New("name too long")                  // ENAMETOOLONG
	NotPermitted = errors.New("operation not permitted")        // EPERM
	Stale        = errors.New("stale inode")                    // ESTALE
	NoAddress    = errors.New("no data or hole there")          // ENXIO
	Interrupted  = errors.New("interrupted")                    // EINTR
	Deadlock     = errors.New("resource deadlock avoided")      // EDEADLK
)
