package task

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/tape"
)

// loginUnset is the loginuid of a task that did not log in.
const loginUnset = 1<<32 - 1

// readNumber reads a file of /proc/PID that holds one number.
func readNumber(pid int, file string, base int) (int64, error) {
	b, err := procfs.Read(pid, file)
	if err != nil {
		return 0, err
	}
	return parseNumber(file, b, base)
}

func parseNumber(file string, b []byte, base int) (int64, error) {
	v, err := strconv.ParseInt(string(bytes.TrimSpace(b)), base, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", file, err)
	}
	return v, nil
}

// readOptional is readNumber for a file that not every kernel has.
func readOptional(pid int, file string, base int, missing int64) (int64, error) {
	v, err := readNumber(pid, file, base)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		return missing, nil
	}
	return v, err
}

// writeNumber writes a file of /proc/PID.
func writeNumber(pid int, file, value string) error {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/%s", pid, file), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set %s of task %d: %w", file, pid, err)
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("set %s of task %d to %s: %w", file, pid, value, err)
	}
	return nil
}

// readProcFiles reads what files of /proc tell about a process.
func readProcFiles(pid int, p *taskpb.Process) error {
	oom, err := readNumber(pid, "oom_score_adj", 10)
	if err != nil {
		return err
	}
	login, err := readOptional(pid, "loginuid", 10, loginUnset)
	if err != nil {
		return err
	}
	filter, err := readOptional(pid, "coredump_filter", 16, -1)
	if err != nil {
		return err
	}
	p.OomScoreAdj, p.Loginuid = int32(oom), uint32(login)
	if filter >= 0 {
		p.CoredumpFilter = &[]uint32{uint32(filter)}[0]
	}
	return nil
}

// writeProcFiles sets what can be set from outside. Only what differs is
// written: to lower the OOM score needs CAP_SYS_RESOURCE.
func writeProcFiles(pid int, p *taskpb.Process) error {
	oom, err := readNumber(pid, "oom_score_adj", 10)
	if err != nil {
		return err
	}
	if int32(oom) != p.GetOomScoreAdj() {
		if err := writeNumber(pid, "oom_score_adj", strconv.Itoa(int(p.GetOomScoreAdj()))); err != nil {
			return err
		}
	}
	if p.CoredumpFilter == nil {
		return nil
	}
	filter, err := readOptional(pid, "coredump_filter", 16, -1)
	if err != nil || filter < 0 || uint32(filter) == p.GetCoredumpFilter() {
		return err
	}
	return writeNumber(pid, "coredump_filter", fmt.Sprintf("%#x", p.GetCoredumpFilter()))
}

// setLoginUID sets the id of the login that a thread belongs to, which only
// the thread itself can do. The descriptor is closed again. Whether it worked
// depends on rights that CheckImage has told about.
func setLoginUID(s *script, have, want uint32) {
	if want == loginUnset || want == have {
		return
	}
	value := strconv.FormatUint(uint64(want), 10)
	fd := s.try("loginuid", unix.SYS_OPENAT, tape.Imm(int64(unix.AT_FDCWD)),
		s.String("/proc/thread-self/loginuid").Arg(), tape.Imm(unix.O_WRONLY|unix.O_CLOEXEC))
	s.try("loginuid", unix.SYS_WRITE, fd.Arg(), s.String(value).Arg(), tape.Imm(len(value)))
	s.try("loginuid", unix.SYS_CLOSE, fd.Arg())
}
