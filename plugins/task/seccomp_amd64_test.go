package task

import (
	"context"
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/tracetest"
	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
	"github.com/firn-cr/firn/sdk/tape"
)

// insn is one instruction of a filter.
func insn(code uint16, jt, jf byte, k uint32) []byte {
	b := binary.LittleEndian.AppendUint16(nil, code)
	return binary.LittleEndian.AppendUint32(append(b, jt, jf), k)
}

// filterOf makes a program of instructions.
func filterOf(insns ...[]byte) (program []byte) {
	for _, i := range insns {
		program = append(program, i...)
	}
	return program
}

func ret(v uint32) []byte { return insn(unix.BPF_RET|unix.BPF_K, 0, 0, v) }

var (
	retAllow = ret(unix.SECCOMP_RET_ALLOW)
	loadNr   = insn(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, dataNr)
	loadArch = insn(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, dataArch)
)

// refusing answers one system call with a verdict and allows all others.
func refusing(nr int, verdict uint32) []byte {
	return filterOf(loadNr, insn(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 0, 1, uint32(nr)), ret(verdict), retAllow)
}

// filterThread installs a filter in a thread of the subject, which may have
// CAP_SYS_ADMIN or no_new_privs.
func filterThread(r *roundTrip, tid int, flags uint64, program []byte) {
	r.t.Helper()
	s := &script{}
	installFilter(s, &taskpb.SeccompFilter{Program: program, Flags: flags}, 0, 0)
	r.host.Run(tid, &s.Tape)
}

// needSeccomp: without the right the tracer can neither read filters nor
// suspend them.
func needSeccomp(t *testing.T) { gate.Cap(t, unix.CAP_SYS_ADMIN) }

func TestSeccompFilters(t *testing.T) {
	needSeccomp(t)
	r := newRoundTrip(t, 4)
	main, one, two := r.from.Threads[0].TID, r.from.Threads[1].TID, r.from.Threads[2].TID
	errno := func(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }
	// Two for all threads, the second of which would end the task for what
	// installs the others; then some that differ.
	filterThread(r, main, unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_LOG, refusing(unix.SYS_GETPPID, errno(unix.EXDEV)))
	filterThread(r, main, unix.SECCOMP_FILTER_FLAG_TSYNC, refusing(unix.SYS_SECCOMP, unix.SECCOMP_RET_KILL_PROCESS))
	filterThread(r, one, 0, refusing(unix.SYS_GETPGRP, errno(unix.EDOM)))
	filterThread(r, two, 0, refusing(unix.SYS_GETPGRP, errno(unix.EDOM)))
	filterThread(r, two, unix.SECCOMP_FILTER_FLAG_LOG, refusing(unix.SYS_UMASK, unix.SECCOMP_RET_TRAP))
	r.call(one, unix.SYS_SET_ROBUST_LIST, tape.Imm(0x601200), tape.Imm(robustListSize))
	_, threads := r.run()
	for i, want := range []uint32{2, 3, 4, 2} {
		if s := threads[i].GetSeccomp(); s.GetMode() != unix.SECCOMP_MODE_FILTER || s.GetFilter() != want {
			t.Errorf("thread %d: %v, want filter %d", i, s, want)
		}
	}
	for i, th := range r.to.Threads {
		from, err1 := procfs.Status(r.from.Threads[i].TID)
		to, err2 := procfs.Status(th.TID)
		if err1 != nil || err2 != nil || from.Seccomp != to.Seccomp || from.SeccompFilters != to.SeccompFilters || to.NoNewPrivs {
			t.Errorf("thread %d: mode %d with %d filters, want %d with %d (%v, %v)", i,
				to.Seccomp, to.SeccompFilters, from.Seccomp, from.SeccompFilters, err1, err2)
		}
	}
	// The first two filters are the kernel's very same for all threads: a TSYNC
	// works from a thread of whose filters the others have the first ones only.
	s := &script{}
	result := installFilter(s, &taskpb.SeccompFilter{Program: retAllow}, unix.SECCOMP_FILTER_FLAG_TSYNC, 0)
	o := r.host.Run(r.to.Threads[0].TID, &s.Tape)
	if v, err := o.Value(result); err != nil || v == 0 {
		t.Errorf("TSYNC although threads have others: %d, %v", v, err)
	}
}

// TestSeccompShared: TSYNC by the program works after a restore.
func TestSeccompShared(t *testing.T) {
	needSeccomp(t)
	r := newRoundTrip(t, 3)
	filterThread(r, r.from.PID, unix.SECCOMP_FILTER_FLAG_TSYNC, retAllow)
	filterThread(r, r.from.Threads[2].TID, 0, retAllow)
	r.run()
	filterThread(r, r.to.Threads[2].TID, unix.SECCOMP_FILTER_FLAG_TSYNC, retAllow)
	for _, th := range r.to.Threads {
		if st, err := procfs.Status(th.TID); err != nil || st.SeccompFilters != 3 {
			t.Errorf("thread %d has %d filters, want 3 (%v)", th.TID, st.SeccompFilters, err)
		}
	}
}

func TestSeccompStrict(t *testing.T) {
	needSeccomp(t)
	r := newRoundTrip(t, 3)
	strict := r.from.Threads[1].TID
	r.call(strict, unix.SYS_PRCTL, tape.Imm(unix.PR_SET_SECCOMP), tape.Imm(unix.SECCOMP_MODE_STRICT))
	filterThread(r, r.from.Threads[2].TID, 0, refusing(unix.SYS_CAPSET, unix.SECCOMP_RET_KILL_THREAD))
	const note = "1 seccomp: ends the task"
	wantFindings(t, checkOf(t, r.host, true, r.from), note)
	_, threads := r.run()
	if threads[0].Seccomp != nil || threads[1].GetSeccomp().GetMode() != unix.SECCOMP_MODE_STRICT {
		t.Errorf("threads %v", threads)
	}
}

// TestSeccompRights: filters without no_new_privs, of a thread that has given
// up the right to install them.
func TestSeccompRights(t *testing.T) {
	needSeccomp(t)
	gate.Cap(t, unix.CAP_SETPCAP)
	r := newRoundTrip(t, 1)
	filterThread(r, r.from.PID, 0, refusing(unix.SYS_CAPSET, unix.SECCOMP_RET_KILL_PROCESS))
	s := &script{}
	setCapabilities(s, 0, 0, 0)
	r.host.Run(r.from.PID, &s.Tape)
	_, threads := r.run()
	if c := threads[0].Credentials; c.CapPermitted != 0 || c.NoNewPrivs || threads[0].GetSeccomp().GetFilter() != 1 {
		t.Errorf("thread %v", threads[0])
	}
}

func TestCheckSeccompListener(t *testing.T) {
	needSeccomp(t)
	r := newRoundTrip(t, 1)
	filterThread(r, r.from.PID, 0, refusing(unix.SYS_MOUNT, unix.SECCOMP_RET_ERRNO|1))
	filterThread(r, r.from.PID, 0, refusing(unix.SYS_MOUNT, unix.SECCOMP_RET_USER_NOTIF))
	filterThread(r, r.from.PID, 0, filterOf(loadNr, insn(unix.BPF_RET|unix.BPF_A, 0, 0, 0)))
	wantFindings(t, checkOf(t, r.host, true, r.from), "1 seccomp: ends the task",
		"3 seccomp filter 1: a listener decides", "3 seccomp filter 2: computes its answers")
}

func TestVerdicts(t *testing.T) {
	jump := func(op uint16, k uint32, jt, jf byte) []byte { return insn(unix.BPF_JMP|op|unix.BPF_K, jt, jf, k) }
	const kill, errno = unix.SECCOMP_RET_KILL_PROCESS, unix.SECCOMP_RET_ERRNO | 1
	for name, c := range map[string]struct {
		program []byte
		ends    bool
		any     bool
	}{
		"allows all":     {program: retAllow},
		"kills":          {program: ret(kill), ends: true},
		"refuses all":    {program: ret(errno), ends: true}, // rt_sigreturn, too
		"refuses others": {program: filterOf(loadNr, jump(unix.BPF_JEQ, unix.SYS_RT_SIGRETURN, 0, 1), retAllow, ret(errno))},
		"kills others":   {program: filterOf(loadNr, jump(unix.BPF_JEQ, unix.SYS_RT_SIGRETURN, 0, 1), retAllow, ret(kill)), ends: true},
		"wrong architecture only": {program: filterOf(loadArch, jump(unix.BPF_JEQ, auditArch, 1, 0), ret(kill),
			loadNr, jump(unix.BPF_JGE, 500, 0, 1), ret(errno), retAllow)},
		"by an argument": {program: filterOf(insn(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, 16), jump(unix.BPF_JSET, 1, 0, 1), ret(kill), retAllow), ends: true},
		"a known answer": {program: filterOf(insn(unix.BPF_LD|unix.BPF_IMM, 0, 0, unix.SECCOMP_RET_ALLOW), insn(unix.BPF_ST, 0, 0, 3),
			loadNr, insn(unix.BPF_LDX|unix.BPF_W|unix.BPF_MEM, 0, 0, 3), insn(unix.BPF_MISC|unix.BPF_TXA, 0, 0, 0), insn(unix.BPF_RET|unix.BPF_A, 0, 0, 0))},
		"a sum": {program: filterOf(insn(unix.BPF_LD|unix.BPF_IMM, 0, 0, unix.SECCOMP_RET_ALLOW-1),
			insn(unix.BPF_ALU|unix.BPF_ADD|unix.BPF_K, 0, 0, 1), insn(unix.BPF_RET|unix.BPF_A, 0, 0, 0))},
		"an unknown answer": {program: filterOf(loadNr, insn(unix.BPF_RET|unix.BPF_A, 0, 0, 0)), ends: true, any: true},
		"past the end":      {program: filterOf(insn(unix.BPF_JMP|unix.BPF_JA, 0, 0, 1<<31)), ends: true, any: true},
	} {
		if got := mayEnd(c.program); got != c.ends {
			t.Errorf("%s: may end the task: %v", name, got)
		}
		if got := filterVerdicts(c.program, nil); got.any != c.any {
			t.Errorf("%s: any answer: %v", name, got.any)
		}
	}
}

// TestSeccompRecords: what no dump writes is refused, not installed.
func TestSeccompRecords(t *testing.T) {
	good := &taskpb.SeccompFilter{Id: 1, Program: retAllow}
	for name, list := range map[string][]*taskpb.SeccompFilter{
		"gap":        {good, {Id: 3, Ancestor: 1, Program: retAllow}},
		"itself":     {{Id: 1, Ancestor: 1, Program: retAllow}},
		"no program": {{Id: 1}},
		"half":       {{Id: 1, Program: retAllow[:4]}},
		"too long":   {{Id: 1, Program: make([]byte, (unix.BPF_MAXINSNS+1)*sockFilterSize)}},
		"listener":   {{Id: 1, Program: retAllow, Flags: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER}},
	} {
		records := &tracetest.Records{}
		if err := (&filterForest{filters: list}).emit(context.Background(), records); err != nil {
			t.Fatal(err)
		}
		if _, err := loadFilters(records); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	filters := []*taskpb.SeccompFilter{good, {Id: 2, Ancestor: 1, Program: retAllow}}
	for _, s := range []*taskpb.Seccomp{{Mode: 2}, {Mode: 2, Filter: 3}, {Mode: 1, Filter: 1}, {Mode: 3}, {}} {
		if _, err := chainOf(filters, s); err == nil {
			t.Errorf("%v: no error", s)
		}
	}
	if chain, err := chainOf(filters, &taskpb.Seccomp{Mode: 2, Filter: 2}); err != nil || len(chain) != 2 || chain[0] != good {
		t.Errorf("chain %v, %v", chain, err)
	}
}

func TestFilterForest(t *testing.T) {
	var f filterForest
	a, b := sdk.SeccompFilter{Program: []byte("a")}, sdk.SeccompFilter{Program: []byte("b")}
	logged := sdk.SeccompFilter{Program: []byte("a"), Flags: unix.SECCOMP_FILTER_FLAG_LOG}
	for i, chain := range [][]sdk.SeccompFilter{{a, b}, {a}, {a, b}, {b}, {a, a}, {logged}} {
		if got, want := f.add(chain), []uint32{2, 1, 2, 3, 4, 5}[i]; got != want {
			t.Errorf("chain %d is filter %d, want %d", i, got, want)
		}
	}
}

// FuzzFilterVerdicts: a program comes from the kernel, but nothing that it could
// be makes the check fail; and what is known of a call only narrows the answers.
func FuzzFilterVerdicts(f *testing.F) {
	f.Add(refusing(unix.SYS_GETPPID, unix.SECCOMP_RET_ERRNO|1))
	f.Add(filterOf(loadArch, insn(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, 1, 0, auditArch), ret(0), retAllow))
	f.Add(filterOf(insn(unix.BPF_JMP|unix.BPF_JA, 0, 0, 1<<31), insn(unix.BPF_STX, 0, 0, 99)))
	f.Fuzz(func(t *testing.T, program []byte) {
		all := filterVerdicts(program, nil)
		native := filterVerdicts(program, map[uint32]uint32{dataArch: auditArch, dataNr: unix.SYS_RT_SIGRETURN})
		for v := range native.set {
			if !all.set[v] && !all.any {
				t.Errorf("%#x for one call, but not for any", v)
			}
		}
	})
}
