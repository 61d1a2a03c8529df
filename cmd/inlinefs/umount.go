package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"inlinefs/blockdev"
	"inlinefs/internal/control"
	"inlinefs/ondisk"
)

// umountConfig is what the command line of umount says.
type umountConfig struct {
	lazy, force, verbose bool
	timeout              time.Duration
	point                string
	warn                 io.Writer
	ctx                  context.Context // nil: none
}

func newUmountCmd() *cobra.Command {
	c := &umountConfig{}
	var ignore bool
	var ignored, namespace string
	cmd := &cobra.Command{
		Use:   "umount [-lfv] [--timeout DURATION] MNT",
		Short: "unmount, and return when the image is written back and let go",
		Long: `umount unmounts MNT and waits until the daemon has written everything back and let the image go: the image may be copied,
checked or mounted elsewhere at once. umount(8) and fusermount3 -u return before that (a FUSE daemon hears of the unmount afterwards), unless
this program is /sbin/umount.fuse.inlinefs as well. Exit status: 0 done, 1 usage, 32 not unmounted, or the journal was not emptied.`,
		DisableFlagsInUseLine: true,
		Args:                  func(cmd *cobra.Command, args []string) error { return wantArgs(cmd, args, 1, 1) },
		RunE: func(cmd *cobra.Command, args []string) error {
			if namespace != "" {
				return &codeError{exitUsage, fmt.Errorf("umount -N %s: unmounting in another namespace is not supported", namespace)}
			}
			c.ctx, c.point, c.warn = cmd.Context(), args[0], cmd.ErrOrStderr()
			if err := c.run(); err != nil {
				return &codeError{exitMount, err}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&c.lazy, "lazy", "l", false, "detach the mount now although it is busy, and do not wait")
	cmd.Flags().BoolVarP(&c.force, "force", "f", false, "end the requests that wait for the daemon")
	cmd.Flags().BoolVarP(&c.verbose, "verbose", "v", false, "say what was done")
	cmd.Flags().DurationVar(&c.timeout, "timeout", 0, "wait so long for the image (0: as long as it takes)")
	cmd.Flags().BoolVarP(&ignore, "no-mtab", "n", false, "accepted for umount(8)")
	cmd.Flags().StringVarP(&ignored, "types", "t", "", "accepted for umount(8)")
	cmd.Flags().StringVarP(&namespace, "namespace", "N", "", "refused")
	return cmd
}

func (c *umountConfig) run() error {
	point, image, err := c.find()
	if err != nil {
		return err
	}
	if err := c.unmount(point); err != nil {
		return err
	}
	switch {
	case c.lazy:
		return nil
	case image == "":
		_, err := fmt.Fprintf(c.warn, "inlinefs: %s: the daemon did not say which image it has, so nothing is waited for\n", point)
		return err
	}
	if err := c.wait(point, image); err != nil {
		return err
	}
	if c.verbose {
		_, err = fmt.Fprintf(c.warn, "inlinefs: %s unmounted, %s is free\n", point, image)
	}
	return err
}

// find returns the mount point and the image that its daemon has; no image if the daemon does not answer.
func (c *umountConfig) find() (point, image string, err error) {
	m, err := control.MountOf(c.point)
	if err != nil {
		return "", "", err
	}
	abs, err := filepath.Abs(c.point)
	if err != nil {
		return "", "", err
	}
	if real, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		abs = filepath.Join(real, filepath.Base(abs))
	}
	switch {
	case m.FSType != control.FSType:
		return "", "", fmt.Errorf("%s: is on a mount of type %s at %s, want a mount point of type %s", c.point, m.FSType, m.Point, control.FSType)
	case m.Point != abs:
		return "", "", fmt.Errorf("%s: is not a mount point, its mount is at %s", c.point, m.Point)
	}
	// A daemon that is gone or hangs (the request would hang too) must not be in the way of -f and -l.
	if c.lazy || c.force {
		return m.Point, "", nil
	}
	rep, err := control.Report(m.Point)
	if err != nil && !errors.Is(err, unix.ENOTCONN) {
		return "", "", err
	}
	return m.Point, rep.Image, nil
}

// unmount detaches the mount: umount2(2) for root, fusermount3 for everybody else.
func (c *umountConfig) unmount(point string) error {
	flags := unix.UMOUNT_NOFOLLOW
	args := []string{"-u"}
	if c.lazy {
		flags |= unix.MNT_DETACH
		args = append(args, "-z")
	}
	if c.force {
		flags |= unix.MNT_FORCE
	}
	err := unix.Unmount(point, flags)
	if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
		if c.force {
			return fmt.Errorf("%s: only root may force an unmount", point)
		}
		out, err := exec.Command("fusermount3", append(args, "--", point)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("fusermount3 -u %s: %w: %s", point, err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("umount %s: %w", point, err)
	}
	return nil
}

// forever is the wait without --timeout.
const forever = time.Duration(math.MaxInt64)

// wait returns when nobody has the image for writing, with an error if what is left needs a replay.
func (c *umountConfig) wait(point, image string) error {
	bound := forever
	if c.timeout > 0 {
		bound = c.timeout
	}
	read := blockdev.FileOptions{ReadOnly: true}
	dev, err := openWithin(c.ctx, image, read, min(bound, lockWait))
	if errors.Is(err, blockdev.ErrBusy) && bound > lockWait {
		if _, err := fmt.Fprintf(c.warn, "inlinefs: %s is unmounted; waiting for %s, which is being written back, or mounted in another namespace\n", point, image); err != nil {
			return err
		}
		dev, err = openWithin(c.ctx, image, read, bound-lockWait)
	}
	switch {
	case errors.Is(err, blockdev.ErrBusy):
		return fmt.Errorf("%s is unmounted, and after %v the daemon still has its image: %w", point, bound, err)
	case err != nil:
		return fmt.Errorf("%s is unmounted; whether its image is written back cannot be told: %w", point, err)
	}
	return errors.Join(journalEmpty(dev, image), dev.Close())
}

// journalEmpty looks at the superblock that the daemon left.
func journalEmpty(dev blockdev.Device, image string) error {
	raw := make([]byte, ondisk.SuperSize)
	if _, err := dev.ReadAt(raw, ondisk.SuperOffset); err != nil {
		return fmt.Errorf("%s: superblock: %w", image, err)
	}
	sb, err := ondisk.NewSuper(raw)
	if err != nil {
		// A file system behind an offset: its daemon said what went wrong, if anything did.
		return nil
	}
	if sb.FeatureIncompat()&ondisk.IncompatRecover != 0 {
		return fmt.Errorf("%s is unmounted, and its journal was not emptied: the daemon was killed, or its log says why; the next mount replays it", image)
	}
	return nil
}
