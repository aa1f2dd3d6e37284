package task

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// Values of PR_GET_TSC, PR_MCE_KILL_GET and PR_GET_THP_DISABLE.
const (
	tscNormal      = 1 // PR_TSC_ENABLE
	mceKillDefault = 2 // PR_MCE_KILL_DEFAULT
	mceKillSet     = 1 // PR_MCE_KILL_SET
	thpDisabled    = 1
)

// commSize is TASK_COMM_LEN, with the terminating zero.
const commSize = 16

// personalityAsk makes personality(2) change nothing.
const personalityAsk = 0xffffffff

// membarrierGetRegistrations is MEMBARRIER_CMD_GET_REGISTRATIONS (since Linux
// 6.3). Its answer has a bit for every registering command.
const membarrierGetRegistrations = 512

// ioFlusherFlags are PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE in /proc/PID/stat,
// which together are what PR_SET_IO_FLUSHER sets. A task without
// CAP_SYS_RESOURCE cannot be asked; it has what it got from its main thread.
const ioFlusherFlags = 0x180000

// askProcessAttributes asks for the switches of a whole process.
func askProcessAttributes(q *inquiry) {
	q.prctl(unix.PR_GET_DUMPABLE, nil, func(of *asked, v uint64) { of.process.Dumpable = uint32(v) })
	q.prctlAt(unix.PR_GET_CHILD_SUBREAPER, 4, func(of *asked, v uint64) { of.process.ChildSubreaper = v != 0 })
	q.prctl(unix.PR_GET_THP_DISABLE, nil, func(of *asked, v uint64) { of.process.ThpDisable = uint32(v) })
	q.prctl(unix.PR_GET_MDWE, nil, func(of *asked, v uint64) { of.process.Mdwe = uint32(v) })
	r := q.Try(unix.SYS_MEMBARRIER, tape.Imm(membarrierGetRegistrations))
	q.then(func(of *asked, o *tape.Outcome) error {
		if v, err := o.Value(r); err == nil {
			of.process.Membarrier = v
		}
		return nil
	})
}

// askName asks for the name of a thread.
func askName(q *inquiry) {
	ref := q.Buffer(commSize)
	q.Call(unix.SYS_PRCTL, tape.Imm(unix.PR_GET_NAME), ref.Arg())
	q.then(func(of *asked, o *tape.Outcome) error {
		b, err := returned(o, ref)
		if err == nil {
			name, _, _ := bytes.Cut(b, []byte{0})
			of.thread.Comm = bytes.Clone(name)
		}
		return err
	})
}

// setName names a thread.
func setName(s *script, t *taskpb.Thread) error {
	name := t.GetComm()
	if len(name) >= commSize || bytes.IndexByte(name, 0) >= 0 {
		return fmt.Errorf("name %q: %w", name, sdk.ErrCorrupt)
	}
	prctl(s, "name", unix.PR_SET_NAME, s.String(string(name)).Arg())
	return nil
}

// askThreadAttributes asks for the switches of a thread.
func askThreadAttributes(q *inquiry) {
	personality := q.Call(unix.SYS_PERSONALITY, tape.Imm(personalityAsk))
	q.then(func(of *asked, o *tape.Outcome) error {
		v, err := o.Value(personality)
		of.thread.Personality = uint32(v)
		return err
	})
	q.prctlAt(unix.PR_GET_PDEATHSIG, 4, func(of *asked, v uint64) { of.thread.ParentDeathSignal = uint32(v) })
	q.prctlAt(unix.PR_GET_TSC, 4, func(of *asked, v uint64) { of.thread.Tsc = uint32(v) })
	q.prctl(unix.PR_MCE_KILL_GET, nil, func(of *asked, v uint64) { of.thread.MceKill = uint32(v) })
	q.prctl(unix.PR_GET_IO_FLUSHER, nil, func(of *asked, v uint64) { of.thread.IoFlusher = v != 0 })
	askCPUID(q)
}

// setProcessAttributes sets the switches of a process that take nothing away
// from the restore.
func setProcessAttributes(s *script, p *taskpb.Process) {
	if p.GetChildSubreaper() {
		prctl(s, "child subreaper", unix.PR_SET_CHILD_SUBREAPER, tape.Imm(1))
	}
	thp := p.GetThpDisable()
	prctl(s, "THP disable", unix.PR_SET_THP_DISABLE, tape.Imm(thp&thpDisabled), tape.Imm(thp&^thpDisabled))
	for bits := p.GetMembarrier(); bits != 0; bits &= bits - 1 {
		s.do("membarrier registration", unix.SYS_MEMBARRIER, tape.Imm(bits&-bits))
	}
}

// setThreadAttributes sets the switches of a thread.
func setThreadAttributes(s *script, t *taskpb.Thread) {
	s.do("personality", unix.SYS_PERSONALITY, tape.Imm(t.GetPersonality()))
	if tsc := t.GetTsc(); tsc != 0 && tsc != tscNormal {
		prctl(s, "TSC mode", unix.PR_SET_TSC, tape.Imm(tsc))
	}
	if mce := t.GetMceKill(); mce != mceKillDefault {
		prctl(s, "machine check policy", unix.PR_MCE_KILL, tape.Imm(mceKillSet), tape.Imm(mce))
	}
	setSpeculation(s, t)
	if t.GetIoFlusher() {
		prctl(s, "I/O flusher", unix.PR_SET_IO_FLUSHER, tape.Imm(1))
	}
	setCPUID(s, t)
}

// sealProcess sets what would be in the way of the memory's restore, or is
// cleared by a change of credentials.
func sealProcess(s *script, p *taskpb.Process) {
	if mdwe := p.GetMdwe(); mdwe != 0 {
		prctl(s, "memory-deny-write-execute", unix.PR_SET_MDWE, tape.Imm(mdwe))
	}
	// 2 (readable by root only) is the kernel's to set: 0 is the nearest.
	prctl(s, "dumpable", unix.PR_SET_DUMPABLE, tape.Imm(p.GetDumpable()&1))
}

// sealThread sets what is cleared by a change of credentials.
func sealThread(s *script, t *taskpb.Thread) {
	if sig := t.GetParentDeathSignal(); sig != 0 {
		prctl(s, "parent death signal", unix.PR_SET_PDEATHSIG, tape.Imm(sig))
	}
}

func prctl(s *script, what string, option int, args ...tape.Arg) {
	s.do(what, unix.SYS_PRCTL, append([]tape.Arg{tape.Imm(option)}, args...)...)
}
