package task

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/plugins/internal/tracetest"
	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

func TestActionRecord(t *testing.T) {
	b := words(1, 2, 3, 4)
	a := decodeAction(9, b)
	if a.Signal != 9 || a.Handler != 1 || a.Flags != 2 || a.Restorer != 3 || a.Mask != 4 {
		t.Errorf("action %v", a)
	}
	if !bytes.Equal(encodeAction(a), b) {
		t.Errorf("encoded %x", encodeAction(a))
	}
}

func TestStackRecord(t *testing.T) {
	if s := decodeStack(words(1, ssDisable, 3)); s != nil {
		t.Errorf("disabled stack is %v", s)
	}
	s := decodeStack(words(0x1000, 1<<31|ssOnStack, 8192))
	if s.Addr != 0x1000 || s.Flags != 1<<31 || s.Size != 8192 {
		t.Errorf("stack %v", s)
	}
	if want := words(0x1000, 1<<31, 8192); !bytes.Equal(encodeStack(s), want) {
		t.Errorf("encoded %x", encodeStack(s))
	}
}

func TestIntervalTimerRecord(t *testing.T) {
	if r := decodeIntervalTimer(0, words(0, 0, 0, 0)); r != nil {
		t.Errorf("timer that is not armed: %v", r)
	}
	// Its signal is pending.
	if r := decodeIntervalTimer(0, words(5, 6, 0, 0)); r.RemainingUs != 1 || r.IntervalUs != 5_000_006 {
		t.Errorf("timer %v", r)
	}
	b := words(1, 999_999, 2, 3)
	if got := encodeIntervalTimer(decodeIntervalTimer(2, b)); !bytes.Equal(got, b) {
		t.Errorf("encoded %x, want %x", got, b)
	}
}

// info is a siginfo_t of a signal.
func info(sig uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, sig)
	return append(b, bytes.Repeat([]byte{7}, siginfoSize-4)...)
}

func TestPendingSignals(t *testing.T) {
	set := uint64(1<<9 | 1<<33 | 1<<8 | 1<<14) // 10, 34, SIGKILL, 15
	got, err := pendingSignals([][]byte{info(34), info(10), info(34), info(9)}, set)
	if err != nil {
		t.Fatal(err)
	}
	var signals []uint32
	for _, s := range got {
		signals = append(signals, s.Signal)
	}
	if !slices.Equal(signals, []uint32{34, 10, 34, 15}) {
		t.Errorf("signals %v", signals)
	}
	if made := got[3].Info; len(made) != siginfoSize || made[0] != 15 || !bytes.Equal(made[4:], make([]byte, siginfoSize-4)) {
		t.Errorf("made up %x", made)
	}
	for _, bad := range [][]byte{info(1)[:127], info(0), info(65)} {
		if _, err := pendingSignals([][]byte{bad}, 0); !errors.Is(err, sdk.ErrCorrupt) {
			t.Errorf("%x: %v", bad[:4], err)
		}
	}
}

func TestSIGSTOPIsNotQueued(t *testing.T) {
	s := &script{}
	stop := []*taskpb.QueuedSignal{{Signal: uint32(unix.SIGSTOP), Info: info(uint32(unix.SIGSTOP))}}
	if err := sendPending(s, queue{tgid: 1}, stop); err != nil || len(s.Calls) != 0 || !stopsAgain(stop) {
		t.Errorf("%d calls, %v", len(s.Calls), err)
	}
}

func TestScriptNamesWhatFailed(t *testing.T) {
	s := &script{}
	s.do("first", 1)
	s.try("second", 2)
	s.do("third", 3)
	err := s.err(42, &tape.Outcome{Err: fmt.Errorf("far away: %w", &tape.CallError{Index: 2, Nr: 3, Errno: syscall.EPERM})})
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "set third of task 42") {
		t.Errorf("error %v", err)
	}
	for _, cause := range []error{&tape.CallError{Index: 3, Errno: unix.EPERM}, &tape.CallError{Index: -1, Errno: unix.EPERM}, sdk.ErrTaskGone} {
		if err := s.err(42, &tape.Outcome{Err: cause}); !errors.Is(err, cause) {
			t.Errorf("error %v", err)
		}
	}
}

func TestCountUp(t *testing.T) {
	p := &sdk.Process{ID: 1}
	s := &script{}
	timers := []*taskpb.PosixTimer{{Id: 2}, {Id: 3}, {Id: 6}}
	if err := createPosixTimers(s, p, timers, false); err != nil {
		t.Fatal(err)
	}
	creates, deletes := 0, 0
	for _, c := range s.Calls {
		switch c.Nr {
		case unix.SYS_TIMER_CREATE:
			creates++
		case unix.SYS_TIMER_DELETE:
			deletes++
		}
	}
	if creates != 7 || deletes != 4 {
		t.Errorf("%d timers created, %d deleted", creates, deletes)
	}
	for _, timers := range [][]*taskpb.PosixTimer{{{Id: 3}, {Id: 2}}, {{Id: maxTimerID + 1}}} {
		if err := createPosixTimers(&script{}, p, timers, false); !errors.Is(err, sdk.ErrKernel) {
			t.Errorf("%v: %v", timers, err)
		}
	}
}

func TestCPULists(t *testing.T) {
	for list, mask := range map[string][]byte{"0": {1}, "0-3,8": {0xf, 1}, "7-8,15": {0x80, 0x81}} {
		got, err := parseCPUList(list)
		if err != nil || !bytes.Equal(got, mask) {
			t.Errorf("%s is %x, %v", list, got, err)
		}
		if back := cpuList(mask); back != list {
			t.Errorf("%x is %s, want %s", mask, back, list)
		}
	}
	for _, bad := range []string{"", "a", "3-1", "1-", "8192", "70000"} {
		if _, err := parseCPUList(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
	if !covers([]byte{0xff}, []byte{0x0f, 0}) || covers([]byte{0x0f}, []byte{0x1f}) || covers([]byte{0xff}, []byte{1, 1}) {
		t.Error("covers")
	}
}

func TestRefusesBadClocks(t *testing.T) {
	ctx := context.Background()
	for name, emit := range map[string]func(*tracetest.Records) error{
		"none": func(*tracetest.Records) error { return nil },
		"negative": func(r *tracetest.Records) error {
			return r.Emit(ctx, kindClocks, clocksObject, &taskpb.Clocks{MonotonicNs: 1, BoottimeNs: -1})
		},
		"no message": func(r *tracetest.Records) error { return r.EmitRaw(ctx, kindClocks, clocksObject, []byte{0xff}) },
		"of a task":  func(r *tracetest.Records) error { return r.Emit(ctx, kindClocks, 5, &taskpb.Clocks{}) },
	} {
		records := &tracetest.Records{}
		if err := emit(records); err != nil {
			t.Fatal(err)
		}
		if got, err := loadClocks(records); !errors.Is(err, sdk.ErrCorrupt) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestRefusesBadRecords(t *testing.T) {
	good := func() (*taskpb.Process, *taskpb.Thread) {
		return &taskpb.Process{Id: 5, Fs: &taskpb.FileSystem{Root: []byte("/"), Cwd: []byte("/")}},
			&taskpb.Thread{Id: 5, Scheduling: &taskpb.Scheduling{}, Credentials: &taskpb.Credentials{
				Uids: make([]uint32, 4), Gids: make([]uint32, 4)}}
	}
	for name, edit := range map[string]func(p *taskpb.Process, th *taskpb.Thread){
		"no directories":      func(p *taskpb.Process, _ *taskpb.Thread) { p.Fs = nil },
		"no scheduling":       func(_ *taskpb.Process, th *taskpb.Thread) { th.Scheduling = nil },
		"no credentials":      func(_ *taskpb.Process, th *taskpb.Thread) { th.Credentials = nil },
		"three uids":          func(_ *taskpb.Process, th *taskpb.Thread) { th.Credentials.Uids = make([]uint32, 3) },
		"another thread":      func(_ *taskpb.Process, th *taskpb.Thread) { th.Id = 6 },
		"action of SIGKILL":   func(p *taskpb.Process, _ *taskpb.Thread) { p.Actions = []*taskpb.SignalAction{{Signal: 9}} },
		"action of signal 65": func(p *taskpb.Process, _ *taskpb.Thread) { p.Actions = []*taskpb.SignalAction{{Signal: 65}} },
		"short siginfo": func(_ *taskpb.Process, th *taskpb.Thread) {
			th.Pending = []*taskpb.QueuedSignal{{Signal: 1, Info: info(1)[:9]}}
		},
		"siginfo of another": func(_ *taskpb.Process, th *taskpb.Thread) {
			th.Pending = []*taskpb.QueuedSignal{{Signal: 1, Info: info(2)}}
		},
		"long name": func(_ *taskpb.Process, th *taskpb.Thread) { th.Comm = bytes.Repeat([]byte("x"), 16) },
		"timer of another": func(p *taskpb.Process, _ *taskpb.Thread) {
			p.PosixTimers = []*taskpb.PosixTimer{{Notify: 4, Thread: 99}}
		},
		"zero in a name":         func(_ *taskpb.Process, th *taskpb.Thread) { th.Comm = []byte("a\x00b") },
		"17 limits (in Seal)":    func(p *taskpb.Process, _ *taskpb.Thread) { p.Limits = make([]*taskpb.Limit, 17) },
		"relative cwd (in Seal)": func(p *taskpb.Process, _ *taskpb.Thread) { p.Fs.Cwd = []byte("a") },
		"zero in cwd (in Seal)":  func(p *taskpb.Process, _ *taskpb.Thread) { p.Fs.Cwd = []byte("/\x00") },
		"timer 3 (in Seal)":      func(p *taskpb.Process, _ *taskpb.Thread) { p.IntervalTimers = []*taskpb.IntervalTimer{{Which: 3}} },
	} {
		p, th := good()
		edit(p, th)
		if _, err := buildAll(p, th); !errors.Is(err, sdk.ErrCorrupt) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := buildAll(good()); err != nil {
		t.Errorf("good records: %v", err)
	}
}

// buildAll builds every script of a process of one thread with id 5, all in
// one tape.
func buildAll(p *taskpb.Process, th *taskpb.Thread) (*tape.Tape, error) {
	records := &tracetest.Records{}
	ctx := context.Background()
	if err := errors.Join(records.Emit(ctx, kindProcess, 5, p), records.Emit(ctx, kindThread, 5, th)); err != nil {
		return nil, err
	}
	proc := &sdk.Process{ID: 5, PID: 50, Threads: []sdk.Thread{{ID: 5, TID: 50}}}
	saved, err := loadProcess(records, proc, nil)
	if err != nil {
		return nil, err
	}
	s, t := &script{}, &saved.threads[0]
	for _, step := range []func(*script, *savedProcess, *savedThread) error{
		func(s *script, p *savedProcess, _ *savedThread) error { return setProcess(s, p, true) },
		setThread, (&placer{}).thread,
		func(s *script, p *savedProcess, t *savedThread) error {
			setCredentials(s, &taskpb.Credentials{}, t.rec.GetCredentials(), nil)
			return setLimits(s, p.rec.GetLimits())
		},
		startClocks,
	} {
		if err := step(s, saved, t); err != nil {
			return nil, err
		}
	}
	return &s.Tape, nil
}

// FuzzRecords builds scripts from records of any content: they may be refused,
// and every address must lie within the tape's data.
func FuzzRecords(f *testing.F) {
	p, _ := proto.Marshal(&taskpb.Process{Id: 5, Fs: &taskpb.FileSystem{Root: []byte("/"), Cwd: []byte("/")},
		Actions: []*taskpb.SignalAction{{Signal: 1, Handler: 7}}, PosixTimers: []*taskpb.PosixTimer{{Id: 3}}})
	th, _ := proto.Marshal(&taskpb.Thread{Id: 5, Scheduling: &taskpb.Scheduling{Affinity: []byte{1}},
		Credentials: &taskpb.Credentials{Uids: make([]uint32, 4), Gids: make([]uint32, 4)},
		Pending:     []*taskpb.QueuedSignal{{Signal: 34, Info: info(34)}}, MemoryPolicy: &taskpb.MemoryPolicy{Mode: 3}})
	f.Add(p, th)
	f.Fuzz(func(t *testing.T, process, thread []byte) {
		p, th := &taskpb.Process{}, &taskpb.Thread{}
		if proto.Unmarshal(process, p) != nil || proto.Unmarshal(thread, th) != nil {
			return
		}
		tp, err := buildAll(p, th)
		if err != nil {
			return
		}
		for i, c := range tp.Calls {
			for _, a := range c.Args {
				if a.Kind == tape.ArgData && a.Value > uint64(len(tp.Data)) || a.Kind == tape.ArgResult && a.Value >= uint64(i) {
					t.Errorf("call %d has the argument %+v", i, a)
				}
			}
		}
	})
}

// words are the bytes of 64-bit numbers.
func words(v ...uint64) (b []byte) {
	for _, w := range v {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}
