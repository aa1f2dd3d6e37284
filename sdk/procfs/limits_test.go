package procfs

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// printLimits prints limits as the kernel does.
func printLimits(limits [NLimits]Limit) string {
	text := func(v uint64) string {
		if v == unix.RLIM_INFINITY {
			return "unlimited"
		}
		return fmt.Sprint(v)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-25s %-20s %-20s %-10s\n", "Limit", "Soft Limit", "Hard Limit", "Units")
	for i, l := range limits {
		fmt.Fprintf(&b, "%-25s %-20s %-20s %-10s\n", limitNames[i], text(l.Soft), text(l.Hard), "units")
	}
	return b.String()
}

func TestParseLimits(t *testing.T) {
	var want [NLimits]Limit
	for i := range want {
		want[i] = Limit{Soft: uint64(i), Hard: 1 << (4 * i)}
	}
	want[3].Hard = unix.RLIM_INFINITY
	got, err := ParseLimits([]byte(printLimits(want)))
	if err != nil || got != want {
		t.Fatalf("%v, %v", got, err)
	}
	text := printLimits(want)
	for _, in := range []string{"", text[:len(text)/2], text + "Max something            1  2  x\n",
		strings.Replace(text, "unlimited", "many", 1), text + text} {
		if _, err := ParseLimits([]byte(in)); !errors.Is(err, ErrFormat) {
			t.Errorf("error %v of %q", err, in)
		}
	}
}

func TestLimitsOfSelf(t *testing.T) {
	limits, err := Limits(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for resource, l := range limits {
		var want unix.Rlimit
		if err := unix.Prlimit(0, resource, nil, &want); err != nil {
			t.Fatal(err)
		}
		if l.Soft != want.Cur || l.Hard != want.Max {
			t.Errorf("limit %d is %v, want %v", resource, l, want)
		}
	}
}

func FuzzParseLimits(f *testing.F) {
	f.Add([]byte(printLimits([NLimits]Limit{})))
	f.Fuzz(func(t *testing.T, b []byte) {
		limits, err := ParseLimits(b)
		if err != nil {
			return
		}
		again, err := ParseLimits([]byte(printLimits(limits)))
		if err != nil || again != limits {
			t.Errorf("%v became %v, %v", limits, again, err)
		}
	})
}

const timersSample = `ID: 0
signal: 60/00007fff86e452a8
notify: signal/pid.2634
ClockID: 0
ID: 7
signal: 60/0000000000000001
notify: none/tid.2635
ClockID: -6
`

func TestParseTimers(t *testing.T) {
	timers, err := ParseTimers([]byte(timersSample))
	if err != nil || len(timers) != 2 {
		t.Fatalf("%v, %v", timers, err)
	}
	if want := (PosixTimer{ID: 0, Signal: 60, Value: 0x7fff86e452a8, Target: 2634}); timers[0] != want {
		t.Errorf("timer %+v, want %+v", timers[0], want)
	}
	want := PosixTimer{ID: 7, Signal: 60, Value: 1, Notify: NotifyNone, ThreadID: true, Target: 2635, Clock: -6}
	if timers[1] != want {
		t.Errorf("timer %+v, want %+v", timers[1], want)
	}
	for _, in := range []string{"ID: 0\n", "ID: x\nsignal: 1/0\nnotify: signal/pid.1\nClockID: 0\n",
		"ID: 0\nsignal: 1/0\nnotify: smoke/pid.1\nClockID: 0\n", "ID: 0\nsignal: 1\nnotify: signal/pid.1\nClockID: 0\n",
		"ID: 0\nsignal: 1/0\nnotify: signal/gid.1\nClockID: 0\n"} {
		if _, err := ParseTimers([]byte(in)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: error %v", in, err)
		}
	}
}

func TestCPUClock(t *testing.T) {
	for _, c := range []struct {
		clock, task int
		thread, ok  bool
	}{
		{unix.CLOCK_MONOTONIC, 0, false, false},
		{unix.CLOCK_PROCESS_CPUTIME_ID, 0, false, true},
		{unix.CLOCK_THREAD_CPUTIME_ID, 0, true, true},
		{-6, 0, false, true},
		{-2, 0, true, true},
		{^4711<<3 | 2, 4711, false, true},
		{^4711<<3 | 4 | 2, 4711, true, true},
		{^5<<3 | 3, 0, false, false}, // a clock behind fd 5
	} {
		timer := PosixTimer{Clock: c.clock}
		if task, thread, ok := timer.CPUClock(); task != c.task || thread != c.thread || ok != c.ok {
			t.Errorf("clock %d: task %d, thread %v, %v", c.clock, task, thread, ok)
		}
	}
}

func TestTimersOfSelf(t *testing.T) {
	if timers, err := Timers(os.Getpid()); err != nil || len(timers) != 0 {
		t.Errorf("%v, %v", timers, err)
	}
}

func FuzzParseTimers(f *testing.F) {
	f.Add([]byte(timersSample))
	f.Fuzz(func(t *testing.T, b []byte) {
		timers, err := ParseTimers(b)
		if err != nil && (!errors.Is(err, ErrFormat) || timers != nil) {
			t.Errorf("%v, %v", timers, err)
		}
		for i := range timers {
			timers[i].CPUClock()
		}
	})
}
