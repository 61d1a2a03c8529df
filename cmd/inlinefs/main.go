// Command inlinefs mounts ext4 images through FUSE and races write(2) against page faults on them.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"inlinefs/stress"
)

// Exit codes of mount(8).
const (
	exitUsage = 1
	exitMount = 32
)

// codeError is an error with the exit code that it stands for.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

// ExitCode is the process's exit code.
func (e *codeError) ExitCode() int { return e.code }

func main() {
	root := newRootCmd()
	switch base := filepath.Base(os.Args[0]); {
	case strings.HasPrefix(base, "mount."):
		// mount(8) calls its helpers as mount.fuse.inlinefs IMAGE MNT -o OPTS.
		root.SetArgs(append([]string{"mount"}, os.Args[1:]...))
	case strings.HasPrefix(base, "umount."):
		// umount(8) calls them as umount.fuse.inlinefs MNT [-flnrv] [-N namespace] [-t type].
		root.SetArgs(append([]string{"umount"}, os.Args[1:]...))
	}
	err := root.Execute()
	if err == nil {
		return
	}
	// Not that of a process that was started (exec.ExitError): its codes mean something else.
	code := exitUsage
	var own *codeError
	var stressed *stress.ExitError
	switch {
	case errors.As(err, &own):
		code = own.code
	case errors.As(err, &stressed):
		code = stressed.Code
	}
	if msg := err.Error(); msg != "" && !errors.Is(err, errTold) {
		fmt.Fprintln(os.Stderr, "inlinefs:", msg)
	}
	os.Exit(code)
}

func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "inlinefs",
		Short: "ext4 with inline data in user space, and a test bench for its race",
		Long: "inlinefs mounts ext4 images through FUSE, with small files and directories kept in their inodes, and races write(2)\n" +
			"against the page faults that move a file out of its inode.",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(newMountCmd(), newUmountCmd(), newExecCmd(), newStressCmd(), newExploreCmd(), newCompareCmd(), newCheckCmd(), newDumpCmd(), newVersionCmd())
	return root
}
