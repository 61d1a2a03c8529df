package fs

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"inlinefs/blockdev"
	"inlinefs/internal/fserr"
	"inlinefs/ondisk"
)

// errnos is the one place where outcomes become errno.
var errnos = []struct {
	err error
	no  syscall.Errno
}{
	{fserr.NotExist, syscall.ENOENT},
	{fserr.NoSpace, syscall.ENOSPC},
	{fserr.ReadOnly, syscall.EROFS},
	{blockdev.ErrReadOnly, syscall.EROFS},
	{fserr.Exist, syscall.EEXIST},
	{fserr.NotEmpty, syscall.ENOTEMPTY},
	{fserr.NotDir, syscall.ENOTDIR},
	{fserr.IsDir, syscall.EISDIR},
	{fserr.TooBig, syscall.EFBIG},
	{fserr.NoData, syscall.ENODATA},
	{fserr.Range, syscall.ERANGE},
	{fserr.TooManyLinks, syscall.EMLINK},
	{fserr.Invalid, syscall.EINVAL},
	{fserr.NotSupported, syscall.EOPNOTSUPP},
	{fserr.NameTooLong, syscall.ENAMETOOLONG},
	{fserr.NotPermitted, syscall.EPERM},
	{fserr.Stale, syscall.ESTALE},
	{fserr.NoAddress, syscall.ENXIO},
	{fserr.Interrupted, syscall.EINTR},
	{fserr.Deadlock, syscall.EDEADLK},
	{fserr.IO, syscall.EIO},
}

// errno maps an error to what the client sees; what is not known is EIO.
func errno(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	var c *ondisk.CorruptError
	if errors.As(err, &c) {
		if c.Checksum {
			return fuse.Status(syscall.EBADMSG)
		}
		return fuse.Status(syscall.EUCLEAN)
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return fuse.Status(e.no)
		}
	}
	var no syscall.Errno
	if errors.As(err, &no) && (no == syscall.ENOSPC || no == syscall.EROFS) {
		return fuse.Status(no)
	}
	return fuse.EIO
}
