package ipc

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/firn-cr/firn/plugins/ipc/ipcpb"
	"github.com/firn-cr/firn/sdk"
)

// sysctls are the limits that a namespace has of its own, below /proc/sys.
// auto_msgmni does nothing since Linux 3.19.
var sysctls = []string{
	"kernel/shmmax", "kernel/shmall", "kernel/shmmni", "kernel/shm_rmid_forced",
	"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem",
	"fs/mqueue/queues_max", "fs/mqueue/msg_max", "fs/mqueue/msgsize_max",
	"fs/mqueue/msg_default", "fs/mqueue/msgsize_default",
}

// rmidForced ties segments that nobody has attached to the tasks that made
// them.
const rmidForced = "kernel/shm_rmid_forced"

// maxSysctl is more than any value takes.
const maxSysctl = 256

// readSysctls reads the limits of the namespace of the calling thread.
func readSysctls() ([]*ipcpb.Sysctl, error) {
	var all []*ipcpb.Sysctl
	for _, name := range sysctls {
		b, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without POSIX message queues
		}
		if err != nil {
			return nil, err
		}
		all = append(all, &ipcpb.Sysctl{Name: name, Value: strings.TrimSpace(string(b))})
	}
	return all, nil
}

func writeSysctl(name, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0)
}

// writeSysctls sets those limits of the calling thread's namespace that differ.
func writeSysctls(want []*ipcpb.Sysctl) error {
	have, err := readSysctls()
	if err != nil {
		return err
	}
	for _, w := range want {
		same := func(h *ipcpb.Sysctl) bool { return h.Name == w.Name && h.Value == w.Value }
		if slices.ContainsFunc(have, same) {
			continue
		}
		if err := writeSysctl(w.Name, w.Value); err != nil {
			return err
		}
	}
	return nil
}

func validSysctls(list []*ipcpb.Sysctl) error {
	for _, s := range list {
		if !slices.Contains(sysctls, s.Name) || len(s.Value) > maxSysctl {
			return fmt.Errorf("limit %q: %w", s.Name, sdk.ErrCorrupt)
		}
	}
	return nil
}

// raise makes the numbers of a limit of the calling thread's namespace at least
// n. A limit may have been lowered below what there was.
func raise(name string, n ...uint64) error {
	b, err := os.ReadFile(filepath.Join("/proc/sys", name))
	if err != nil {
		return err
	}
	fields := strings.Fields(string(b))
	if len(fields) != len(n) {
		return fmt.Errorf("%s has %d numbers, want %d: %w", name, len(fields), len(n), sdk.ErrKernel)
	}
	higher := false
	for i, f := range fields {
		have, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if have < n[i] {
			fields[i], higher = strconv.FormatUint(min(n[i], math.MaxInt32), 10), true
		}
	}
	if !higher {
		return nil
	}
	return writeSysctl(name, strings.Join(fields, " "))
}
