package probe

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func haveTCPRepair() (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, 1); err != nil {
		return "", fmt.Errorf("%w: needs CAP_NET_ADMIN in the network namespace", err)
	}
	return "", nil
}

// haveCgroupFreezer looks for a cgroup v2 hierarchy in which groups can be
// made: every group but the root has cgroup.freeze (Linux 5.2).
func haveCgroupFreezer() (string, error) {
	root, err := cgroup2Mount()
	if err != nil {
		return "", err
	}
	groups, err := filepath.Glob(filepath.Join(root, "*", "cgroup.freeze"))
	if err != nil {
		return "", err
	}
	if len(groups) == 0 {
		return "", errors.New("no group below " + root + " to look at")
	}
	if err := unix.Access(groups[0], unix.W_OK); err != nil {
		return "", fmt.Errorf("%s: %w", groups[0], err)
	}
	return root, nil
}

func cgroup2Mount() (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(before)
		if ok && strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 {
			return fields[4], nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", err
	}
	return "", fmt.Errorf("no cgroup v2 hierarchy is mounted: %w", fs.ErrNotExist)
}
