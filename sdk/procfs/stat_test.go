package procfs

import (
	"errors"
	"os"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

const statSample = "4711 (a) R (b\n) S 1 4710 4709 34816 -1 4194560 100 200 3 4 50 60 -7 80 -2 19 3 0 " +
	"134955 3133440 382 18446744073709551615 94529950711808 94529950731689 140723893716704 5 6 0 0 0 0 0 0 0 17 1 " +
	"99 2 10 11 12 94529950747696 94529950749312 94530744537088 140723893721794 140723893721814 140723893721815 140723893723115 256\n"

func TestParseStat(t *testing.T) {
	s, err := ParseStat([]byte(statSample))
	if err != nil {
		t.Fatal(err)
	}
	want := TaskStat{PID: 4711, Comm: "a) R (b\n", State: 'S', PPID: 1, PGRP: 4710, Session: 4709,
		TTY: 34816, TPGID: -1, Flags: 4194560, MinFlt: 100, CMinFlt: 200, MajFlt: 3, CMajFlt: 4,
		UTime: 50, STime: 60, CUTime: ^uint64(6), CSTime: 80, Priority: -2, Nice: 19, NumThreads: 3,
		StartTime: 134955, VSize: 3133440, RSS: 382, RSSLimit: ^uint64(0),
		StartCode: 94529950711808, EndCode: 94529950731689, StartStack: 140723893716704, ESP: 5, EIP: 6,
		ExitSignal: 17, Processor: 1, RTPriority: 99, Policy: 2, BlkIODelay: 10, GuestTime: 11, CGuestTime: 12,
		StartData: 94529950747696, EndData: 94529950749312, StartBrk: 94530744537088,
		ArgStart: 140723893721794, ArgEnd: 140723893721814, EnvStart: 140723893721815, EnvEnd: 140723893723115,
		ExitCode: 256}
	if s != want {
		t.Errorf("stat\n%+v, want\n%+v", s, want)
	}
	if tty := s.Terminal(); tty != "pts/0" {
		t.Errorf("terminal %q", tty)
	}
}

func TestTerminal(t *testing.T) {
	for dev, want := range map[uint32]string{0: "", 0x8803: "pts/3", 0x8901: "pts/257", 0x0401: "tty1",
		0x0440: "ttyS0", 0x101103: "17:259"} {
		s := TaskStat{TTY: dev}
		if got := s.Terminal(); got != want {
			t.Errorf("terminal %#x is %q, want %q", dev, got, want)
		}
	}
}

func TestParseStatErrors(t *testing.T) {
	for _, in := range []string{"", "1", "1 (a", "1 (a) ", "1 (a) S", "x (a) S 1 2 3", statSample[:100], "1 (a) S " + statSample[60:]} {
		if _, err := ParseStat([]byte(in)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: error %v", in, err)
		}
	}
}

func TestStatOfSelf(t *testing.T) {
	s, err := Stat(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if s.PID != os.Getpid() || s.PPID != os.Getppid() || s.NumThreads < 2 || s.StartTime == 0 || s.VSize == 0 {
		t.Errorf("stat %+v", s)
	}
	if th, err := ThreadStat(os.Getpid(), os.Getpid()); err != nil || th.StartTime != s.StartTime || th.Comm != s.Comm {
		t.Errorf("thread stat %+v, %v", th, err)
	}
	if _, err := Stat(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such task: %v", err)
	}
}

func TestStatusOfSelf(t *testing.T) {
	s, err := Status(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	groups, _ := os.Getgroups()
	if s.Tgid != os.Getpid() || s.UID[IDEffective] != uint32(os.Geteuid()) || len(s.Groups) != len(groups) ||
		s.Umask < 0 || !s.HasMemory || s.VmRSS == 0 || s.RssAnon == 0 || s.CapBnd == 0 || len(s.NStgid) == 0 {
		t.Errorf("status %+v", s)
	}
	// The runtime catches SIGSEGV.
	if s.SigCgt&(1<<(unix.SIGSEGV-1)) == 0 {
		t.Errorf("caught signals %x", s.SigCgt)
	}
}

const statusSample = `Name:	a\nb
Umask:	0027
State:	t (tracing stop)
Tgid:	10
Pid:	11
TracerPid:	12
Uid:	1	2	3	4
Gid:	5	6	7	4294967295
Groups:	4 24 1000 
NSpid:	11	2	1
VmSize:	    3060 kB
VmLck:	       8 kB
untag_mask:	0x7fffffffffffffff
Threads:	1
SigQ:	3/96365
SigPnd:	0000000000000001
ShdPnd:	8000000000000000
CapInh:	0000000000000000
CapPrm:	000001fffeffffff
NoNewPrivs:	1
Seccomp:	2
Seccomp_filters:	3
Speculation_Store_Bypass:	thread vulnerable
x86_Thread_features:	shstk wrss 
x86_Thread_features_locked:	
NewLineOfTheFuture:	who knows
`

func TestParseStatus(t *testing.T) {
	s, err := ParseStatus([]byte(statusSample))
	if err != nil {
		t.Fatal(err)
	}
	want := TaskStatus{Name: `a\nb`, Umask: 0o27, State: 't', Tgid: 10, Pid: 11, TracerPid: 12,
		UID: [4]uint32{1, 2, 3, 4}, GID: [4]uint32{5, 6, 7, 1<<32 - 1}, Groups: []uint32{4, 24, 1000},
		NSpid: []int{11, 2, 1}, HasMemory: true, VmSize: 3060 << 10, VmLck: 8 << 10, UntagMask: 1<<63 - 1,
		Threads: 1, SigQueued: 3, SigQueueLimit: 96365, SigPnd: 1, ShdPnd: 1 << 63, CapPrm: 0x1fffeffffff,
		NoNewPrivs: true, Seccomp: 2, SeccompFilters: 3, SpeculationStoreBypass: "thread vulnerable",
		X86Features: []string{"shstk", "wrss"}, X86FeaturesLocked: []string{}}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("status\n%+v, want\n%+v", s, want)
	}
	for _, in := range []string{"", "Pid:\t1\n", "no colon", "State:\tSS\nPid:\t1\nUid:\t1 2 3 4\n",
		"State:\tS\nPid:\t1\nUid:\t1 2 3\n", "State:\tS\nPid:\t1\nUid:\t1 2 3 4294967296\n", "Pid:\tx\nState:\tS\nUid:\t1 2 3 4\n"} {
		if _, err := ParseStatus([]byte(in)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: error %v", in, err)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte(statSample))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseStat(b); err != nil && s != (TaskStat{}) {
			t.Errorf("answer %+v with error %v", s, err)
		}
	})
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(statusSample))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ParseStatus(b); err != nil && !errors.Is(err, ErrFormat) {
			t.Errorf("error %v", err)
		}
	})
}
