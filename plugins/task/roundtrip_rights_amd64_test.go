package task

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
	"github.com/firn-cr/firn/sdk/tape"
)

func TestCredentials(t *testing.T) {
	for _, c := range []int{unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETPCAP} {
		gate.Cap(t, c)
	}
	self := currentOf(t)
	user := func(edit func(c *taskpb.Credentials)) *taskpb.Credentials {
		c := &taskpb.Credentials{Uids: []uint32{1000, 1000, 1000, 1000}, Gids: []uint32{100, 100, 100, 100},
			Groups: []uint32{4, 100, 5000}, CapBounding: self.CapBounding}
		edit(c)
		return c
	}
	netBind := uint64(1) << unix.CAP_NET_BIND_SERVICE
	for name, want := range map[string]*taskpb.Credentials{
		"user":      user(func(*taskpb.Credentials) {}),
		"no groups": user(func(c *taskpb.Credentials) { c.Groups = nil }),
		"four ids": user(func(c *taskpb.Credentials) {
			c.Uids, c.Gids = []uint32{1, 2, 3, 4}, []uint32{5, 6, 7, 8}
			c.NoNewPrivs = true
		}),
		"saved root": user(func(c *taskpb.Credentials) {
			c.Uids = []uint32{1000, 1000, 0, 1000}
			c.CapPermitted = self.CapPermitted
		}),
		"ambient": user(func(c *taskpb.Credentials) {
			c.CapPermitted, c.CapEffective, c.CapInheritable, c.CapAmbient = netBind, netBind, netBind, netBind
			c.CapBounding = netBind
		}),
		"inheritable outside the bounding set": user(func(c *taskpb.Credentials) {
			c.CapInheritable, c.CapBounding = netBind|1, 0
			c.CapPermitted = 1
		}),
		"securebits": user(func(c *taskpb.Credentials) {
			c.Securebits = 0x2f | 1<<6
			c.CapPermitted, c.CapEffective = self.CapPermitted, 0
		}),
		"keepcaps": user(func(c *taskpb.Credentials) { c.Securebits = secbitKeepCaps }),
		"root without rights": {Uids: []uint32{0, 0, 0, 0}, Gids: []uint32{0, 0, 0, 0}, Groups: []uint32{0},
			CapBounding: 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRoundTrip(t, 2)
			// Only one thread changes: credentials are per thread.
			s := &script{}
			setCredentials(s, self, want, nil)
			o := r.host.Run(r.from.Threads[1].TID, &s.Tape)
			if err := s.err(r.from.Threads[1].ID, &o); err != nil {
				t.Fatal(err)
			}
			_, threads := r.run()
			if err := verifyCredentials(threads[1].Credentials, want); err != nil {
				t.Error(err)
			}
			got := threads[1].Credentials
			if got.CapBounding != want.CapBounding || got.Securebits != want.Securebits {
				t.Errorf("bounding set %x, securebits %x", got.CapBounding, got.Securebits)
			}
			if err := verifyCredentials(threads[0].Credentials, self); err != nil {
				t.Errorf("the other thread: %v", err)
			}
		})
	}
}

func currentOf(t *testing.T) *taskpb.Credentials {
	t.Helper()
	status, err := procfs.Status(selfPID)
	if err != nil {
		t.Fatal(err)
	}
	return credentialsOf(&status)
}

func TestLimits(t *testing.T) {
	r := newRoundTrip(t, 1)
	set := func(resource int, soft, hard uint64) {
		r.with(r.from.PID, unix.SYS_PRLIMIT64, words(soft, hard), func(ref tape.Arg) []tape.Arg {
			return []tape.Arg{tape.Imm(0), tape.Imm(resource), ref, tape.Imm(0)}
		})
	}
	set(unix.RLIMIT_NOFILE, 3, 4)
	set(unix.RLIMIT_AS, 1<<20, 1<<30)
	set(unix.RLIMIT_STACK, 4096, unix.RLIM_INFINITY)
	set(unix.RLIMIT_NPROC, 0, 0)
	set(unix.RLIMIT_CORE, unix.RLIM_INFINITY, unix.RLIM_INFINITY)
	set(unix.RLIMIT_RTTIME, 1, 2)
	p, _ := r.run()
	if l := p.Limits[unix.RLIMIT_AS]; l.Soft != 1<<20 || l.Hard != 1<<30 {
		t.Errorf("RLIMIT_AS %v", l)
	}
}

func TestScheduling(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_NICE)
	r := newRoundTrip(t, 5)
	set := func(i int, s *taskpb.Scheduling) {
		r.with(r.from.Threads[i].TID, unix.SYS_SCHED_SETATTR, encodeSchedAttr(s), func(ref tape.Arg) []tape.Arg {
			return []tape.Arg{tape.Imm(0), ref, tape.Imm(0)}
		})
	}
	set(0, &taskpb.Scheduling{Policy: schedOther, Nice: -7})
	set(1, &taskpb.Scheduling{Policy: schedRR, Priority: 3, Flags: schedResetOnFork})
	set(2, &taskpb.Scheduling{Policy: schedBatch, Nice: 19, Runtime: 900_000})
	set(3, &taskpb.Scheduling{Policy: schedIdle})
	set(4, &taskpb.Scheduling{Policy: schedDeadline, Runtime: 1e6, Deadline: 50e6, Period: 100e6})
	one := r.from.Threads[1].TID
	r.with(one, unix.SYS_SCHED_SETAFFINITY, words(1), func(ref tape.Arg) []tape.Arg {
		return []tape.Arg{tape.Imm(0), tape.Imm(8), ref}
	})
	r.call(one, unix.SYS_IOPRIO_SET, tape.Imm(1), tape.Imm(0), tape.Imm(2<<13|6))
	r.call(r.from.PID, unix.SYS_PRCTL, tape.Imm(unix.PR_SET_TIMERSLACK), tape.Imm(123456))
	_, threads := r.run()
	if s := threads[1].Scheduling; s.Policy != schedRR || s.Priority != 3 || s.Ioprio != 2<<13|6 || s.Flags != schedResetOnFork {
		t.Errorf("scheduling %v", s)
	}
	if s := threads[4].Scheduling; s.Policy != schedDeadline || s.Runtime != 1e6 {
		t.Errorf("scheduling %v", s)
	}
	if threads[0].Scheduling.TimerSlackNs != 123456 || threads[0].Scheduling.Nice != -7 {
		t.Errorf("scheduling %v", threads[0].Scheduling)
	}
}

func TestAttributes(t *testing.T) {
	r := newRoundTrip(t, 2)
	main, other := r.from.PID, r.from.Threads[1].TID
	for _, c := range [][]tape.Arg{
		{tape.Imm(unix.PR_SET_CHILD_SUBREAPER), tape.Imm(1)},
		{tape.Imm(unix.PR_SET_THP_DISABLE), tape.Imm(1)},
		{tape.Imm(unix.PR_SET_MDWE), tape.Imm(3)},
		{tape.Imm(unix.PR_SET_DUMPABLE), tape.Imm(0)},
	} {
		r.call(main, unix.SYS_PRCTL, c...)
	}
	r.call(main, unix.SYS_MEMBARRIER, tape.Imm(membarrierPrivate))
	r.call(main, unix.SYS_MEMBARRIER, tape.Imm(membarrierGlobal))
	if err := writeNumber(main, "coredump_filter", "0x7"); err != nil {
		t.Fatal(err)
	}
	if err := writeNumber(main, "oom_score_adj", "321"); err != nil {
		t.Fatal(err)
	}
	r.call(other, unix.SYS_PRCTL, tape.Imm(unix.PR_SET_PDEATHSIG), tape.Imm(15))
	r.call(other, unix.SYS_PRCTL, tape.Imm(unix.PR_SET_TSC), tape.Imm(unix.PR_TSC_SIGSEGV))
	r.call(other, unix.SYS_PRCTL, tape.Imm(unix.PR_MCE_KILL), tape.Imm(1), tape.Imm(1))
	r.call(other, unix.SYS_PERSONALITY, tape.Imm(0x0040000))
	p, threads := r.run()
	if !p.ChildSubreaper || p.ThpDisable != 1 || p.Mdwe != 3 || p.Dumpable != 0 || p.OomScoreAdj != 321 || p.GetCoredumpFilter() != 7 {
		t.Errorf("process %v", p)
	}
	if p.Membarrier != membarrierPrivate|membarrierGlobal {
		t.Errorf("membarrier %#x", p.Membarrier)
	}
	if th := threads[1]; th.ParentDeathSignal != 15 || th.Tsc != unix.PR_TSC_SIGSEGV || th.MceKill != 1 || th.Personality != 0x40000 {
		t.Errorf("thread %v", th)
	}
	if th := threads[0]; th.ParentDeathSignal != 0 || th.Tsc != tscNormal || th.MceKill != mceKillDefault {
		t.Errorf("thread %v", th)
	}
}

func TestTimers(t *testing.T) {
	r := newRoundTrip(t, 2)
	main := r.from.PID
	create := func(clock int, value uint64, signal, notify uint32, thread int) {
		event := make([]byte, sigeventSize)
		copy(event, words(value))
		binary.LittleEndian.PutUint32(event[8:], signal)
		binary.LittleEndian.PutUint32(event[12:], notify)
		binary.LittleEndian.PutUint32(event[16:], uint32(thread))
		var tp tape.Tape
		ev, id := tp.Bytes(event), tp.Buffer(4)
		tp.Call(unix.SYS_TIMER_CREATE, tape.Imm(clock), ev.Arg(), id.Arg())
		r.host.Run(main, &tp)
	}
	create(unix.CLOCK_MONOTONIC, 1, 14, procfs.NotifySignal, 0)
	create(unix.CLOCK_MONOTONIC, 0, 0, procfs.NotifyNone, 0)
	create(unix.CLOCK_REALTIME, 0xdeadbeefcafe, 40, sigevThreadID, r.from.Threads[1].TID)
	create(unix.CLOCK_BOOTTIME, 2, 34, procfs.NotifySignal, 0)
	create(unix.CLOCK_PROCESS_CPUTIME_ID, 3, 35, procfs.NotifySignal, 0)
	create(unix.CLOCK_TAI, 3, 35, procfs.NotifyThread, 0)
	r.call(main, unix.SYS_TIMER_DELETE, tape.Imm(1))
	arm := func(id int, interval, value uint64) {
		r.with(main, unix.SYS_TIMER_SETTIME, words(interval, 0, value, 0), func(ref tape.Arg) []tape.Arg {
			return []tape.Arg{tape.Imm(id), tape.Imm(0), ref, tape.Imm(0)}
		})
	}
	arm(0, 0, 1000)
	arm(2, 500, 2000)
	arm(4, 3000, 7000)
	for which, v := range []uint64{1000, 2000, 3000} {
		r.with(main, unix.SYS_SETITIMER, words(600, 7, v, 0), func(ref tape.Arg) []tape.Arg {
			return []tape.Arg{tape.Imm(which), ref, tape.Imm(0)}
		})
	}
	p, _ := r.run()
	var ids []uint32
	for _, timer := range p.PosixTimers {
		ids = append(ids, timer.Id)
	}
	if len(ids) != 5 || ids[1] != 2 || p.PosixTimers[1].Thread != uint32(r.from.Threads[1].ID) {
		t.Errorf("timers %v", p.PosixTimers)
	}
	if len(p.IntervalTimers) != 3 || p.IntervalTimers[2].RemainingUs != 30 || p.IntervalTimers[1].IntervalUs != 600_000_007 {
		t.Errorf("interval timers %v", p.IntervalTimers)
	}
}

// Commands of membarrier(2) that register a process.
const (
	membarrierGlobal  = 1 << 2
	membarrierPrivate = 1 << 4
)
