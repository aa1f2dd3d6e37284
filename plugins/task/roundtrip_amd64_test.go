package task

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/firn-cr/firn/plugins/internal/tracetest"
	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// Flags of sigaction(2).
const (
	saNoCldWait = 0x2
	saSiginfo   = 0x4
	saRestorer  = 0x04000000
	saOnStack   = 0x08000000
	saRestart   = 0x10000000
	saNoDefer   = 0x40000000
	saResetHand = 0x80000000
)

// roundTrip is a test that gives a subject some state, dumps it, restores it
// to another subject, dumps that and compares the records.
type roundTrip struct {
	t    *testing.T
	host *tracetest.Host
	// from has the state, to gets it.
	from, to sdk.Process
}

func newRoundTrip(t *testing.T, threads int) *roundTrip {
	t.Helper()
	r := &roundTrip{t: t, host: tracetest.New(t)}
	r.from, r.to = r.host.Start(threads), r.host.Start(threads)
	return r
}

// run dumps, restores and compares. The image's ids are those of from.
func (r *roundTrip) run() (*taskpb.Process, []*taskpb.Thread) {
	r.t.Helper()
	ctx, p := context.Background(), &plugin{}
	image := r.dump(r.from)
	to := r.from
	to.PID, to.Threads = r.to.PID, nil
	for i, th := range r.to.Threads {
		to.Threads = append(to.Threads, sdk.Thread{ID: r.from.Threads[i].ID, TID: th.TID})
	}
	req := &sdk.RestoreRequest{Session: r.host.Session(to), Records: image}
	if err := p.RestoreTasks(ctx, req); err != nil {
		r.t.Fatal(err)
	}
	if err := p.Seal(ctx, req); err != nil {
		r.t.Fatal(err)
	}
	got := r.dump(to)
	wantProcess, wantThreads := decode(r.t, image)
	gotProcess, gotThreads := decode(r.t, got)
	if d := cmp.Diff(wantProcess, gotProcess, protocmp.Transform()); d != "" {
		r.t.Errorf("process -saved +restored:\n%s", d)
	}
	if d := cmp.Diff(wantThreads, gotThreads, protocmp.Transform()); d != "" {
		r.t.Errorf("threads -saved +restored:\n%s", d)
	}
	return gotProcess, gotThreads
}

func (r *roundTrip) dump(proc sdk.Process) *tracetest.Records {
	r.t.Helper()
	records := &tracetest.Records{}
	req := &sdk.DumpRequest{Session: r.host.Session(proc), Records: records}
	if err := (&plugin{}).Dump(context.Background(), req); err != nil {
		r.t.Fatal(err)
	}
	return records
}

// decode takes records apart. What goes on while the test runs, time, is
// rounded to 100 seconds; tests use times far above that.
func decode(t *testing.T, records *tracetest.Records) (p *taskpb.Process, threads []*taskpb.Thread) {
	t.Helper()
	for rec, err := range records.All() {
		if err != nil {
			t.Fatal(err)
		}
		switch rec.Kind {
		case kindThread:
			th := &taskpb.Thread{}
			err = rec.Decode(th)
			threads = append(threads, th)
		case kindProcess:
			p = &taskpb.Process{}
			err = rec.Decode(p)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, timer := range p.PosixTimers {
		timer.RemainingNs = (timer.RemainingNs + 50e9) / 100e9
	}
	for _, timer := range p.IntervalTimers {
		timer.RemainingUs = (timer.RemainingUs + 50e6) / 100e6
	}
	return p, threads
}

// call runs a call in a thread that must succeed.
func (r *roundTrip) call(tid, nr int, args ...tape.Arg) int64 {
	r.t.Helper()
	v := r.host.Call(tid, nr, args...)
	if v < 0 && v >= -4095 {
		r.t.Fatalf("system call %d in thread %d: %v", nr, tid, unix.Errno(-v))
	}
	return v
}

// with runs a call with data in a thread that must succeed.
func (r *roundTrip) with(tid, nr int, data []byte, args func(ref tape.Arg) []tape.Arg) []byte {
	r.t.Helper()
	var tp tape.Tape
	ref := tp.Bytes(data)
	tp.Call(nr, args(ref.Arg())...)
	o := r.host.Run(tid, &tp)
	return o.Bytes(ref)
}

func TestNothingSet(t *testing.T) {
	r := newRoundTrip(t, 3)
	p, threads := r.run()
	if len(p.Actions) != 0 || len(p.Pending) != 0 || len(threads) != 3 {
		t.Errorf("an idle process has %d actions, %d pending signals, %d threads", len(p.Actions), len(p.Pending), len(threads))
	}
}

func TestSignals(t *testing.T) {
	r := newRoundTrip(t, 2)
	main, other := r.from.Threads[0].TID, r.from.Threads[1].TID
	set := func(sig int, handler, flags, mask uint64) {
		action := words(handler, flags|saRestorer, 0x400100, mask)
		r.with(main, unix.SYS_RT_SIGACTION, action, func(ref tape.Arg) []tape.Arg {
			return []tape.Arg{tape.Imm(sig), ref, tape.Imm(0), tape.Imm(8)}
		})
	}
	set(int(unix.SIGUSR1), 0x400200, saSiginfo|saRestart|saOnStack, 1<<63|5)
	set(int(unix.SIGCHLD), 1, saNoCldWait, 0) // SIG_IGN
	set(64, 0x400300, saNoDefer|saResetHand, ^uint64(0))
	set(int(unix.SIGPIPE), 1, 0, 0)
	r.with(other, unix.SYS_SIGALTSTACK, words(0x500000, 1<<31, 65536), func(ref tape.Arg) []tape.Arg {
		return []tape.Arg{ref, tape.Imm(0)}
	})
	// Two queues; ignored ones, real-time ones twice, a code of the kernel's.
	for _, sig := range []unix.Signal{unix.SIGUSR1, unix.SIGPIPE, unix.SIGCHLD} {
		if err := unix.Kill(r.from.PID, sig); err != nil {
			t.Fatal(err)
		}
	}
	send := func(tid, sig, code int, value uint64) {
		info := make([]byte, siginfoSize)
		binary.LittleEndian.PutUint32(info, uint32(sig))
		binary.LittleEndian.PutUint32(info[8:], uint32(code))
		copy(info[16:], words(uint64(os.Getpid())|7<<32, value))
		r.with(tid, unix.SYS_RT_TGSIGQUEUEINFO, info, func(ref tape.Arg) []tape.Arg {
			return []tape.Arg{tape.Imm(r.from.PID), tape.Imm(tid), tape.Imm(sig), ref}
		})
	}
	send(other, 40, -1, 11)
	send(other, 40, -1, 12)
	send(other, int(unix.SIGSEGV), 2, 0xdead)
	send(main, 34, 0x80, 0)
	p, threads := r.run()
	if len(p.Actions) != 4 || len(p.Pending) != 3 || len(threads[0].Pending) != 1 || len(threads[1].Pending) != 3 {
		t.Errorf("actions %v, pending %v, %v, %v", p.Actions, p.Pending, threads[0].Pending, threads[1].Pending)
	}
	if threads[0].SignalStack != nil || threads[1].SignalStack.GetFlags() != 1<<31 {
		t.Errorf("stacks %v, %v", threads[0].SignalStack, threads[1].SignalStack)
	}
}

func TestAddresses(t *testing.T) {
	r := newRoundTrip(t, 3)
	for i, th := range r.from.Threads[1:] {
		area := uint64(0x600000 + i*0x1000)
		r.call(th.TID, unix.SYS_SET_TID_ADDRESS, tape.Imm(area+0x100))
		r.call(th.TID, unix.SYS_SET_ROBUST_LIST, tape.Imm(area+0x200), tape.Imm(robustListSize))
		r.call(th.TID, unix.SYS_RSEQ, tape.Imm(area), tape.Imm(32), tape.Imm(0), tape.Imm(0x53053053))
	}
	_, threads := r.run()
	if threads[0].Rseq != nil || threads[1].Rseq.GetAddr() != 0x600000 || threads[2].ClearChildTid != 0x601100 ||
		threads[2].RobustList != 0x601200 {
		t.Errorf("threads %v", threads)
	}
}

func TestNamesAndDirectories(t *testing.T) {
	r := newRoundTrip(t, 3)
	dir := t.TempDir()
	chdir := func(tid int, path string) {
		r.with(tid, unix.SYS_CHDIR, append([]byte(path), 0), func(ref tape.Arg) []tape.Arg { return []tape.Arg{ref} })
	}
	for i, th := range r.from.Threads {
		r.with(th.TID, unix.SYS_PRCTL, fmt.Appendf(nil, "a)\n %d\x00", i), func(ref tape.Arg) []tape.Arg {
			return []tape.Arg{tape.Imm(unix.PR_SET_NAME), ref}
		})
	}
	own := r.from.Threads[2].TID
	r.call(own, unix.SYS_UNSHARE, tape.Imm(unix.CLONE_FS))
	chdir(own, "/usr")
	r.call(own, unix.SYS_UMASK, tape.Imm(0o77))
	chdir(r.from.PID, dir)
	r.call(r.from.PID, unix.SYS_UMASK, tape.Imm(0o27))
	p, threads := r.run()
	if string(p.Fs.Cwd) != dir || p.Fs.Umask != 0o27 || threads[1].Fs != nil || string(threads[2].Fs.Cwd) != "/usr" {
		t.Errorf("process %v, threads %v", p.Fs, threads)
	}
	for i, th := range r.to.Threads {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/comm", r.to.PID, th.TID))
		if want := fmt.Sprintf("a)\n %d\n", i); err != nil || !bytes.Equal(comm, []byte(want)) {
			t.Errorf("name %q, want %q (%v)", comm, want, err)
		}
	}
}
