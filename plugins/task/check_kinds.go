package task

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/procfs"
)

// elfClass32 is ELFCLASS32.
const elfClass32 = 1

// elfClass reads the class of a process's program, 0 if it cannot be read.
func elfClass(pid int) byte {
	f, err := os.Open(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	var ident [5]byte
	if _, err := f.ReadAt(ident[:], 0); err != nil || string(ident[:4]) != "\x7fELF" {
		return 0
	}
	return ident[4]
}

// securityLabel is the label of a security module, empty without one.
func securityLabel(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", pid))
	if err != nil {
		return ""
	}
	return string(bytes.Trim(b, "\x00\n"))
}

// coreCookie is the core scheduling cookie, 0 where there is none.
func coreCookie(tid int) uint64 {
	cookie, err := kern.SchedCoreCookie(tid)
	if err != nil {
		return 0
	}
	return cookie
}

// timers looks for POSIX timers that cannot be created again.
func (x *examination) timers() error {
	timers, err := procfs.Timers(x.proc.PID)
	if err != nil {
		return err
	}
	for _, t := range timers {
		subject := fmt.Sprintf("timer %d", t.ID)
		text, err := x.clockFinding(&t)
		if err != nil {
			return err
		}
		if text != "" {
			x.block(0, subject, text, "")
		}
		known := slices.ContainsFunc(x.proc.Threads, func(th sdk.Thread) bool { return th.TID == t.Target })
		if t.ThreadID && !known {
			x.block(0, subject, "notifies a thread that has ended", "")
		}
	}
	return nil
}

// clockFinding tells why the clock of a timer cannot be carried, if so. A
// clock of "the task that created the timer" is the main thread's after the
// restore, so for one thread's time there must be no other, nor have been. Other
// tasks are named as the process itself does (clock_getcpuclockid(3)).
func (x *examination) clockFinding(t *procfs.PosixTimer) (string, error) {
	p := x.proc
	if task, thread, ok := t.CPUClock(); ok {
		switch {
		case !thread && task == 0:
			return "", nil
		case thread && task == 0 && len(p.Threads) == 1 && !p.MainExited():
			return "", nil
		case thread && task == 0:
			return "counts the CPU time of one of several threads, and the kernel does not tell which", nil
		}
		own, err := ownNumbers(p)
		if err != nil {
			return "", err
		}
		if !thread && own.PID == task || thread && slices.ContainsFunc(own.Threads, func(th sdk.Thread) bool { return th.TID == task }) {
			return "", nil
		}
		return fmt.Sprintf("counts the CPU time of task %d", task), nil
	}
	return plainClockFinding(t), nil
}

// plainClockFinding tells why a clock that is the same for everybody cannot be
// carried, if so.
func plainClockFinding(t *procfs.PosixTimer) string {
	switch t.Clock {
	case unix.CLOCK_REALTIME, unix.CLOCK_MONOTONIC, unix.CLOCK_BOOTTIME, unix.CLOCK_REALTIME_ALARM,
		unix.CLOCK_BOOTTIME_ALARM, unix.CLOCK_TAI:
		return ""
	}
	return fmt.Sprintf("runs on clock %d, which cannot be carried", t.Clock)
}

// Before the freeze a process may share its memory with its parent for the
// moment of a vfork(2). Only what is still so after a while is reported.
const (
	vforkChecks   = 5
	vforkInterval = 20 * time.Millisecond
)

// shared are the parts of a process that it can share with its parent by flags
// of clone(2).
var shared = []struct {
	kind kern.KcmpType
	text string
}{
	{kern.KcmpVM, "memory"},
	{kern.KcmpFS, "directories and umask"},
	{kern.KcmpSighand, "signal actions"},
}

// sharing looks for what the process shares with its parent and threads alone
// should share. Memory is shared by vfork(2) as well, until the child executes
// something: the parent cannot be stopped that long.
func (x *examination) sharing(ctx context.Context) error {
	parent := x.tree.Process(x.proc.Parent)
	if parent == nil || parent.Zombie {
		return nil
	}
	for _, s := range shared {
		for checks := 0; ; checks++ {
			order, err := kern.Kcmp(x.proc.PID, parent.PID, s.kind, 0, 0)
			if err != nil {
				return fmt.Errorf("compare %s with task %d: %w", s.text, parent.ID, err)
			}
			if order != 0 {
				break
			}
			if x.frozen || checks == vforkChecks {
				x.block(0, "shared "+s.text, fmt.Sprintf("with its parent, task %d (clone or vfork)", parent.ID), "")
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(vforkInterval):
			}
		}
	}
	return nil
}

// checkTraced looks at what only the tracer sees: seccomp filters, and whether
// a thread was frozen within a critical section of rseq(2). The kernel would
// have to abort the section, and cannot know of it once the registers are set
// by a restore.
func checkTraced(ctx context.Context, host sdk.Host, exams []*examination) error {
	var tids []int
	for _, x := range exams {
		tids = append(tids, x.proc.TIDs()...)
	}
	if len(tids) == 0 {
		return nil
	}
	infos, err := host.Trace(ctx, tids)
	if err != nil {
		return err
	}
	of := make(map[int]*sdk.TraceInfo, len(infos))
	for i := range infos {
		of[infos[i].TID] = &infos[i]
	}
	return inParallel(ctx, len(exams), func(i int) error { return exams[i].traced(of) })
}

// traced looks at what was read of the threads of one process.
func (x *examination) traced(of map[int]*sdk.TraceInfo) error {
	mem := -1
	defer func() { unix.Close(mem) }()
	for i, th := range x.proc.Threads {
		info := of[th.TID]
		if info == nil {
			continue
		}
		x.seccomp(i, info.SeccompFilters)
		if info.Rseq == nil {
			continue
		}
		if mem < 0 {
			var err error
			if mem, err = unix.Open(fmt.Sprintf("/proc/%d/mem", x.proc.PID), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
				return fmt.Errorf("open memory of task %d: %w", x.proc.ID, err)
			}
		}
		inside, err := inCriticalSection(mem, info.Rseq, info.InstructionPointer)
		if err != nil {
			return fmt.Errorf("check rseq of thread %d: %w", info.TID, err)
		}
		if inside {
			x.block(i, "restartable sequence", "the thread is within one", "try again")
		}
	}
	return nil
}

// inCriticalSection reads the area that is registered with rseq(2) and the
// descriptor it points to:
//
//	struct rseq:     8 rseq_cs (pointer)
//	struct rseq_cs:  0 version  4 flags  8 start_ip  16 post_commit_offset
//
// It reads through /proc/PID/mem, open as mem: process_vm_readv(2) would copy
// pages that parent and child still share.
func inCriticalSection(mem int, r *sdk.Rseq, ip uint64) (bool, error) {
	var area [16]byte
	var cs [24]byte
	// What is not mapped is the kernel's to punish.
	if n, err := unix.Pread(mem, area[:], int64(r.Addr)); err != nil || n < len(area) {
		return false, nil
	}
	section := binary.LittleEndian.Uint64(area[8:])
	if section == 0 {
		return false, nil
	}
	if n, err := unix.Pread(mem, cs[:], int64(section)); err != nil || n < len(cs) {
		return false, nil
	}
	start, length := binary.LittleEndian.Uint64(cs[8:]), binary.LittleEndian.Uint64(cs[16:])
	return ip-start < length, nil
}

// affinityFinding compares a CPU mask with the CPUs that are online here: lost
// tells that none is left.
func affinityFinding(s *taskpb.Scheduling, online []byte) (missing []byte, lost bool) {
	lost = len(s.GetAffinity()) > 0
	missing = make([]byte, len(s.GetAffinity()))
	for i, b := range s.GetAffinity() {
		var here byte
		if i < len(online) {
			here = online[i]
		}
		missing[i] = b &^ here
		lost = lost && b&here == 0
	}
	return bytes.TrimRight(missing, "\x00"), lost
}
