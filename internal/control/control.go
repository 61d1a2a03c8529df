// Package control is how a process talks to a mounted inlinefs: the ioctl which announces a shared writable mapping before it
// exists, the extended attribute which carries the mount's report, and the look-up of the mount that a path is on.
package control

import (
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"inlinefs/internal/event"
)

const (
	// IOCAnnounceMmap is the ioctl(2) request _IO('i', 0x4d), without payload, on an open file of the mount: "this file is about to
	// be mapped shared and writable". It stands for the conversion in ext4_page_mkwrite, made earlier.
	IOCAnnounceMmap = 'i'<<8 | 0x4d
	// XattrReport is the name of the extended attribute of the mount's root that holds event.Report as JSON. The kernel carries at
	// most 64 KiB (XATTR_SIZE_MAX) of it.
	XattrReport = "inlinefs.report"
	// ReportSchema is the event.Report schema which this package understands.
	ReportSchema = 1
	// FSType is the file system type of a mounted inlinefs in /proc/self/mountinfo.
	FSType = "fuse.inlinefs"

	xattrSizeMax = 64 << 10
)

// AnnounceMmap tells the mount that the open file fd is about to be mapped shared and writable, and returns when the mount is
// ready for it. The error is a unix.Errno: what the conversion of the file failed with (ENOSPC, EIO, EUCLEAN), or ENOTTY where the
// file is not on an inlinefs mount. A signal does not end the call early.
func AnnounceMmap(fd int) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), IOCAnnounceMmap, 0)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
			continue
		}
		return errno
	}
}

// Report reads the report of the mount whose root (or any file where the daemon answers) is path. Errors name the path; a schema
// other than ReportSchema is refused, as are more than 64 KiB of JSON (E2BIG from the kernel).
func Report(path string) (event.Report, error) {
	raw, err := getxattr(path, XattrReport)
	if err != nil {
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
			return event.Report{}, fmt.Errorf("%s: no report there, is it the root of an inlinefs mount? %s: %w", path, XattrReport, err)
		}
		return event.Report{}, fmt.Errorf("%s: extended attribute %s: %w", path, XattrReport, err)
	}
	return decodeReport(path, raw)
}

// decodeReport parses raw and checks its schema before anything else is believed.
func decodeReport(path string, raw []byte) (event.Report, error) {
	var head struct {
		Schema  *int   `json:"schema"`
		Version string `json:"version"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return event.Report{}, fmt.Errorf("%s: report of %d bytes is not JSON: %w", path, len(raw), err)
	}
	if head.Schema == nil {
		return event.Report{}, fmt.Errorf("%s: report without a schema, want schema %d", path, ReportSchema)
	}
	if *head.Schema != ReportSchema {
		return event.Report{}, fmt.Errorf("%s: report has schema %d (written by version %q), want schema %d",
			path, *head.Schema, head.Version, ReportSchema)
	}
	var r event.Report
	if err := json.Unmarshal(raw, &r); err != nil {
		return event.Report{}, fmt.Errorf("%s: report of schema %d: %w", path, ReportSchema, err)
	}
	return r, nil
}

// getxattr reads a whole attribute, growing the buffer while the value outgrows it.
func getxattr(path, name string) ([]byte, error) {
	for size := 8 << 10; ; size *= 2 {
		size = min(size, xattrSizeMax)
		buf := make([]byte, size)
		n, err := unix.Getxattr(path, name, buf)
		switch {
		case err == nil:
			return buf[:n], nil
		case errors.Is(err, unix.EINTR):
			size /= 2
		case !errors.Is(err, unix.ERANGE) || size == xattrSizeMax:
			return nil, err
		}
	}
}
