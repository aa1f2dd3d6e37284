package task

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/tracetest"
	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
	"github.com/firn-cr/firn/sdk/tape"
)

// checkOf checks one process and returns its findings as "LEVEL subject: text".
func checkOf(t *testing.T, h *tracetest.Host, frozen bool, processes ...sdk.Process) []string {
	t.Helper()
	req := &sdk.CheckRequest{Session: h.Session(processes...), Frozen: frozen}
	findings, err := (&plugin{}).Check(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	return texts(findings)
}

func texts(findings []sdk.Finding) (lines []string) {
	for _, f := range findings {
		lines = append(lines, fmt.Sprintf("%d %s: %s", f.Level, f.Subject, f.Text))
	}
	slices.Sort(lines)
	return lines
}

// wantFindings compares findings with the starts of what is wanted, in order.
func wantFindings(t *testing.T, got []string, want ...string) {
	t.Helper()
	same := len(got) == len(want)
	for i := 0; same && i < len(want); i++ {
		same = strings.HasPrefix(got[i], want[i])
	}
	if !same {
		t.Errorf("findings\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCheckNothing(t *testing.T) {
	h := tracetest.New(t)
	wantFindings(t, checkOf(t, h, true, h.Start(3)))
}

func TestCheckTracer(t *testing.T) {
	h := tracetest.New(t)
	wantFindings(t, checkOf(t, h, false, h.Start(3)), "3 tracer: task")
}

func TestCheckGone(t *testing.T) {
	h := tracetest.New(t)
	p := h.Start(1)
	p.PID, p.Threads = 1<<30, []sdk.Thread{{ID: p.ID, TID: 1 << 30}}
	wantFindings(t, checkOf(t, h, false, p))
	req := &sdk.CheckRequest{Session: h.Session(p), Frozen: true}
	if _, err := (&plugin{}).Check(context.Background(), req); err == nil {
		t.Error("a frozen task is gone, and no error")
	}
}

func TestCheckAll(t *testing.T) {
	r := newRoundTrip(t, 2)
	main, other := r.from.PID, r.from.Threads[1].TID
	dir := t.TempDir() + "/gone"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.with(main, unix.SYS_CHROOT, append([]byte(dir), 0), func(ref tape.Arg) []tape.Arg { return []tape.Arg{ref} })
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	var tp tape.Tape
	id := tp.Buffer(4)
	tp.Call(unix.SYS_TIMER_CREATE, tape.Imm(unix.CLOCK_THREAD_CPUTIME_ID), tape.Imm(0), id.Arg())
	r.host.Run(main, &tp)
	r.call(main, unix.SYS_PRCTL, tape.Imm(unix.PR_SET_NO_NEW_PRIVS), tape.Imm(1))
	r.call(other, unix.SYS_PRCTL, tape.Imm(unix.PR_SET_NO_NEW_PRIVS), tape.Imm(1))
	filterThread(r, other, 0, retAllow)
	wantFindings(t, checkOf(t, r.host, true, r.from),
		"3 root directory: "+dir+" is deleted",
		"3 timer 0: counts the CPU time of one of several threads")
}

func TestCheckNamespaceOfThread(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	r := newRoundTrip(t, 2)
	r.call(r.from.Threads[1].TID, unix.SYS_UNSHARE, tape.Imm(unix.CLONE_NEWUTS))
	r.call(r.from.Threads[1].TID, unix.SYS_UNSHARE, tape.Imm(unix.CLONE_NEWPID))
	wantFindings(t, checkOf(t, r.host, true, r.from), "3 pid_for_children namespace: a new one", "3 uts namespace: uts")
}

func TestCheckTimeNamespaceOfChildren(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	_, err := os.Stat("/proc/self/timens_offsets")
	gate.Feature(t, "time namespaces", err == nil)
	r := newRoundTrip(t, 1)
	r.call(r.from.PID, unix.SYS_UNSHARE, tape.Imm(unix.CLONE_NEWTIME))
	wantFindings(t, checkOf(t, r.host, true, r.from), "3 time_for_children namespace: time:")
}

func TestCheckShared(t *testing.T) {
	h := tracetest.New(t)
	parent := h.Start(1)
	ordinary, vfork := h.Clone(parent, 0), h.Clone(parent, unix.CLONE_VM|unix.CLONE_FS|unix.CLONE_SIGHAND)
	with := fmt.Sprintf("with its parent, task %d", parent.ID)
	wantFindings(t, checkOf(t, h, true, parent, ordinary, vfork),
		"3 shared directories and umask: "+with, "3 shared memory: "+with, "3 shared signal actions: "+with)
}

func TestCheckSequence(t *testing.T) {
	r := newRoundTrip(t, 1)
	const area, section = 0x600000, 0x600100
	r.call(r.from.PID, unix.SYS_RSEQ, tape.Imm(area), tape.Imm(32), tape.Imm(0), tape.Imm(0x53053053))
	info := sdk.TraceInfo{Rseq: &sdk.Rseq{Addr: area, Size: 32}}
	for _, c := range []struct {
		ip     uint64
		inside bool
	}{{0x400077, false}, {0x400078, true}, {0x40007f, true}, {0x400080, false}} {
		poke(t, r.from.PID, section, words(0, 0x400078, 8, 0x400090))
		poke(t, r.from.PID, area+8, words(section))
		inside, err := inCriticalSection(memoryOf(t, r.from.PID), info.Rseq, c.ip)
		if err != nil || inside != c.inside {
			t.Errorf("at %#x: inside %v, %v", c.ip, inside, err)
		}
	}
	poke(t, r.from.PID, area+8, words(0))
	if inside, err := inCriticalSection(memoryOf(t, r.from.PID), info.Rseq, 0x400078); err != nil || inside {
		t.Errorf("without a section: %v, %v", inside, err)
	}
}

func poke(t *testing.T, pid int, addr int64, b []byte) {
	t.Helper()
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	if _, err := mem.WriteAt(b, addr); err != nil {
		t.Fatal(err)
	}
}

func TestCheckImage(t *testing.T) {
	r := newRoundTrip(t, 1)
	image := r.dump(r.from)
	req := &sdk.RestoreRequest{Session: r.host.Session(r.from), Records: image}
	check := func(may bool, edit func(p *taskpb.Process, th *taskpb.Thread)) []string {
		saved, err := load(req)
		if err != nil {
			t.Fatal(err)
		}
		edit(saved[0].rec, saved[0].threads[0].rec)
		c := &imageCheck{p: saved[0], seen: map[[2]string]bool{}}
		if c.restorer, err = readRestorer(); err != nil {
			t.Fatal(err)
		}
		if !may {
			c.rights.CapEffective = 0
		}
		c.run()
		return texts(c.findings)
	}
	nothing := func(*taskpb.Process, *taskpb.Thread) {}
	wantFindings(t, check(true, nothing))
	wantFindings(t, check(false, nothing))
	if findings, err := (&plugin{}).CheckImage(context.Background(), req); err != nil || len(findings) != 0 {
		t.Errorf("%v, %v", findings, err)
	}
	wantFindings(t, check(false, func(p *taskpb.Process, th *taskpb.Thread) {
		p.Limits[unix.RLIMIT_NOFILE].Hard = 1 << 60
		p.Fs.Cwd = []byte("/no/such/directory")
		p.Fs.Root = []byte("/usr")
		p.PosixTimers = []*taskpb.PosixTimer{{Id: 3, Clock: unix.CLOCK_BOOTTIME_ALARM}}
		p.Dumpable = 2
		p.OomScoreAdj = -1000
		p.Cgroups = append(p.Cgroups, &taskpb.Cgroup{Controllers: "name=none", Path: []byte("/x")})
		th.Credentials.Uids[1]++
		th.Credentials.Gids[1]++
		th.Credentials.Groups = []uint32{77}
		th.Credentials.CapBounding |= 1 << 63
		th.Credentials.CapPermitted |= 1 << 62
		th.Credentials.Securebits ^= 1
		th.Scheduling.Affinity = make([]byte, 1024)
		th.Scheduling.Affinity[1023] = 0x80
		th.Scheduling.Policy, th.Scheduling.Priority = schedFIFO, 99
		th.IoFlusher = true
	}),
		"1 bounding set: will lack capability 63", "1 cgroup name=none: will be the restorer's, not /x",
		"1 dumpable: will be 0",
		"3 CPU affinity: none of the CPUs 8191", "3 I/O flusher: ", "3 OOM score: adjustment -1000",
		"3 RLIMIT_NOFILE: hard limit 1152921504606846976 is above fs.nr_open",
		"3 RLIMIT_NOFILE: hard limit 1152921504606846976 is above the restorer's",
		"3 capabilities: the restorer lacks capability 62", "3 current directory: /no/such/directory: no such file",
		"3 group ids: ", "3 groups: ", "3 root directory: /usr needs CAP_SYS_CHROOT",
		"3 scheduling policy: a real-time priority needs CAP_SYS_NICE", "3 securebits: ",
		"3 timer 3: a timer that wakes the machine", "3 user ids: ")
}

// memoryOf opens the memory of a process until the test ends.
func memoryOf(t *testing.T, pid int) int {
	t.Helper()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mem.Close() })
	return int(mem.Fd())
}
