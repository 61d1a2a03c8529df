package stress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// toolTimeout is for mkfs, debugfs, e2fsck and check, each on a small image.
const toolTimeout = 3 * time.Minute

// findTool gives the path of a program, looking also where administrators' programs live. Missing: an ExitError naming it.
func findTool(name, pkg string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		p := filepath.Join(dir, name)
		if unix.Access(p, unix.X_OK) == nil {
			return p, nil
		}
	}
	return "", missingf("%s is missing on this machine (package %s)", name, pkg)
}

// needFuse tells what a mount would miss here.
func needFuse() error {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return missingf("/dev/fuse cannot be opened: %w", err)
	}
	unix.Close(fd)
	if os.Geteuid() == 0 {
		var cap [2]unix.CapUserData
		if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &cap[0]); err != nil {
			return fmt.Errorf("capget: %w", err)
		}
		if cap[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
			return missingf("root without CAP_SYS_ADMIN may not mount (a container without --cap-add SYS_ADMIN)")
		}
		return nil
	}
	if _, err := findTool("fusermount3", "fuse3"); err != nil {
		return missingf("neither root nor fusermount3 (package fuse3): nothing here may mount")
	}
	return nil
}

// runTool runs a program to its end; the output is both streams.
func runTool(path string, args ...string) (out string, code int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var buf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &buf
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return buf.String(), exit.ExitCode(), nil
	}
	if err != nil {
		return buf.String(), -1, fmt.Errorf("%s %s: %w", filepath.Base(path), strings.Join(args, " "), err)
	}
	return buf.String(), 0, nil
}

// seedFreeBlocks is the count that the seed's image claims for its one group.
const seedFreeBlocks = "150994969"

// mkfsArgs are the arguments of mkfs.ext4 for a scenario and a block size in bytes, without the image, and the image's size in MiB.
func mkfsArgs(base string, journal bool, blockSize int) (args []string, mib int64) {
	mib = 8
	features := "inline_data,^has_journal,^metadata_csum,64bit"
	args = []string{"-q", "-F", "-b", strconv.Itoa(blockSize), "-I", "256"}
	switch base {
	case ScenarioHealthy:
		mib = 64
		features = "inline_data,^has_journal,metadata_csum,64bit"
	case ScenarioEnospc:
		features = "inline_data,^has_journal,metadata_csum,64bit"
		args = append(args, "-N", "64", "-m", "0")
	default:
		args = append(args, "-N", "64")
	}
	if journal {
		features = strings.Replace(features, "^has_journal", "has_journal", 1)
	}
	return append(args, "-O", features), mib
}

// makeImage makes the image of a scenario in dir, with blocks of blockSize bytes, and returns its path.
func makeImage(dir, base string, journal bool, blockSize int) (string, error) {
	mkfs, err := findTool("mkfs.ext4", "e2fsprogs")
	if err != nil {
		return "", err
	}
	debugfs, err := findTool("debugfs", "e2fsprogs")
	if err != nil {
		return "", err
	}
	img := filepath.Join(dir, base+".img")
	f, err := os.OpenFile(img, os.O_CREATE|os.O_EXCL|os.O_RDWR, filePerm)
	if err != nil {
		return "", fmt.Errorf("image: %w", err)
	}
	args, mib := mkfsArgs(base, journal, blockSize)
	err = errors.Join(f.Truncate(mib<<20), f.Close())
	if err != nil {
		return "", fmt.Errorf("image %s: %w", img, err)
	}
	if out, code, err := runTool(mkfs, append(args, img)...); err != nil || code != 0 {
		return "", fmt.Errorf("mkfs.ext4 %s: exit %d: %s: %w", strings.Join(args, " "), code, strings.TrimSpace(out), orNone(err))
	}
	if base != ScenarioSeed {
		return img, nil
	}
	if out, code, err := runTool(debugfs, "-w", "-R", "set_bg 0 free_blocks_count "+seedFreeBlocks, img); err != nil || code != 0 {
		return "", fmt.Errorf("debugfs set_bg on %s: exit %d: %s: %w", img, code, strings.TrimSpace(out), orNone(err))
	}
	return img, nil
}

var errExitCode = errors.New("exit code not 0")

func orNone(err error) error {
	if err == nil {
		return errExitCode
	}
	return err
}

// fillUp writes a file until the file system has no block left.
func fillUp(dir string) error {
	chunk := bytes.Repeat([]byte{0xF1}, 1<<20)
	for i := range 2 {
		name := filepath.Join(dir, fmt.Sprintf("fill%d", i))
		fd, err := unix.Open(name, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, uint32(filePerm))
		if errors.Is(err, unix.ENOSPC) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for size := len(chunk); size >= 4096; {
			n, err := unix.Write(fd, chunk[:size])
			switch {
			case err == nil && n > 0:
			case err == nil || errors.Is(err, unix.ENOSPC):
				size /= 2
			default:
				unix.Close(fd)
				return fmt.Errorf("filling %s: %w", name, err)
			}
		}
		if err := errors.Join(unix.Fsync(fd), unix.Close(fd)); err != nil && !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("filling %s: %w", name, err)
		}
	}
	return nil
}

// CheckResult is the verdict of a checker of images.
type CheckResult struct {
	Clean    bool     `json:"clean"`
	Findings []string `json:"findings"`
	// Skipped says why the checker did not run; Clean is false then.
	Skipped string `json:"skipped,omitempty"`
}

// maxFindings bounds what is kept of a checker's output.
const maxFindings = 50

// verdict makes a result of findings. On the seed's image the planted counter is no finding.
func verdict(findings []string, seed bool) CheckResult {
	res := CheckResult{Findings: []string{}}
	for _, f := range findings {
		if seed && plantedFinding(f) {
			continue
		}
		if len(res.Findings) < maxFindings {
			res.Findings = append(res.Findings, f)
		}
	}
	res.Clean = len(res.Findings) == 0
	return res
}

// plantedFinding knows the free block counter of group 0, the sum over the groups, and the mark that a file system leaves in the
// superblock when it has seen them.
func plantedFinding(s string) bool {
	if strings.Contains(s, seedFreeBlocks) {
		return true
	}
	low := strings.ToLower(s)
	if strings.Contains(low, "s_state") && strings.Contains(low, "errors were detected") {
		return true
	}
	if strings.Contains(low, "group #") && !strings.Contains(low, "group #0 ") {
		return false
	}
	return strings.Contains(low, "free") && strings.Contains(low, "block") && strings.Contains(low, "count")
}

// fsckFindings takes the findings out of what `e2fsck -fn` prints.
func fsckFindings(out string) []string {
	var res []string
	for _, line := range strings.Split(out, "\n") {
		line = strings.TrimSpace(line)
		low := strings.ToLower(line)
		switch {
		case line == "", strings.HasPrefix(low, "e2fsck "), strings.HasPrefix(line, "Pass "), strings.HasPrefix(line, "***"),
			strings.HasSuffix(low, "? no"), strings.HasSuffix(low, "check forced."), strings.HasPrefix(low, "warning: filesystem still has"),
			strings.Contains(line, " files (") && strings.HasSuffix(line, "blocks"), strings.Contains(line, "WARNING: Filesystem still has errors"):
		default:
			res = append(res, line)
		}
	}
	return res
}

// fsck runs e2fsck -fn on an image.
func fsck(image string, seed bool) (CheckResult, error) {
	tool, err := findTool("e2fsck", "e2fsprogs")
	if err != nil {
		return CheckResult{}, err
	}
	out, code, err := runTool(tool, "-fn", image)
	if err != nil {
		return CheckResult{}, err
	}
	found := fsckFindings(out)
	if code != 0 && len(found) == 0 {
		found = []string{fmt.Sprintf("e2fsck: exit code %d without a line", code)}
	}
	if code&^4 != 0 {
		found = append(found, fmt.Sprintf("e2fsck: exit code %d, want 0 or 4", code))
	}
	return verdict(found, seed), nil
}

// ownCheck runs `inlinefs check --json` on an image.
func ownCheck(binary, image string, seed bool) (CheckResult, error) {
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "check", "--json", image)
	var stderr tailBuffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		return CheckResult{}, fmt.Errorf("%s check %s: %s: %w", filepath.Base(binary), image, stderr.String(), err)
	}
	return parseCheck(out, err != nil, seed)
}

// parseCheck reads the JSON of check; failed says that its exit code was 1.
func parseCheck(out []byte, failed, seed bool) (CheckResult, error) {
	var c struct {
		Clean    *bool    `json:"clean"`
		Findings []string `json:"findings"`
	}
	if err := json.Unmarshal(out, &c); err != nil {
		return CheckResult{}, fmt.Errorf("output of check, %d bytes: %w", len(out), err)
	}
	if c.Clean == nil {
		return CheckResult{}, fmt.Errorf("output of check has no key clean")
	}
	if (!*c.Clean || failed) && len(c.Findings) == 0 {
		c.Findings = []string{fmt.Sprintf("check: clean %t, exit code 1 %t, and no finding named", *c.Clean, failed)}
	}
	return verdict(c.Findings, seed), nil
}
