package procfs

import (
	"bytes"

	"golang.org/x/sys/unix"
)

// Kinds of notification of a POSIX timer (sigevent(3type)), without
// SIGEV_THREAD_ID, which [PosixTimer.ThreadID] tells.
const (
	NotifySignal = 0 // SIGEV_SIGNAL
	NotifyNone   = 1 // SIGEV_NONE
	NotifyThread = 2 // SIGEV_THREAD
)

// PosixTimer is one timer of /proc/PID/timers.
type PosixTimer struct {
	ID     int
	Signal int
	// Value is sigev_value, which comes with the signal.
	Value  uint64
	Notify int
	// ThreadID tells that Target is a thread (SIGEV_THREAD_ID), not a process.
	ThreadID bool
	// Target is the PID or TID that is notified; 0 if it is gone.
	Target int
	// Clock as the kernel keeps it: negative for CPU clocks, see
	// clock_getcpuclockid(3).
	Clock int
}

// Timers reads /proc/PID/timers. It needs CONFIG_CHECKPOINT_RESTORE.
func Timers(pid int) ([]PosixTimer, error) {
	return readAndParse(pid, "timers", ParseTimers)
}

// ParseTimers parses the content of /proc/PID/timers: four lines a timer.
//
//	ID: 1
//	signal: 60/00007fff86e452a8
//	notify: signal/pid.2634
//	ClockID: 0
func ParseTimers(b []byte) ([]PosixTimer, error) {
	var timers []PosixTimer
	for len(b) > 0 {
		var t PosixTimer
		l := lines{rest: b}
		id := words{rest: l.value("ID: ")}
		t.ID = int(id.signed())
		signal, value, _ := bytes.Cut(l.value("signal: "), []byte("/"))
		sig, val := words{rest: signal}, words{rest: value}
		t.Signal, t.Value = int(sig.signed()), val.hex()
		t.notify(&l)
		clock := words{rest: l.value("ClockID: ")}
		t.Clock = int(clock.signed())
		if l.bad || id.bad || sig.bad || val.bad || clock.bad {
			return nil, malformed("timers: timer %d of the list", len(timers)+1)
		}
		timers = append(timers, t)
		b = l.rest
	}
	return timers, nil
}

func (t *PosixTimer) notify(l *lines) {
	how, target, _ := bytes.Cut(l.value("notify: "), []byte("/"))
	kind, id, _ := bytes.Cut(target, []byte("."))
	t.Notify = map[string]int{"signal": NotifySignal, "none": NotifyNone, "thread": NotifyThread}[string(how)]
	known := t.Notify != 0 || string(how) == "signal"
	t.ThreadID = string(kind) == "tid"
	w := words{rest: id}
	t.Target = int(w.signed())
	l.bad = l.bad || w.bad || !known || (!t.ThreadID && string(kind) != "pid")
}

// CPUClock takes a CPU clock apart: the task whose time it counts (0: the
// task that created the timer) and whether that is one thread's.
func (t *PosixTimer) CPUClock() (task int, thread, ok bool) {
	switch {
	case t.Clock == unix.CLOCK_PROCESS_CPUTIME_ID:
		return 0, false, true
	case t.Clock == unix.CLOCK_THREAD_CPUTIME_ID:
		return 0, true, true
	case t.Clock >= 0 || t.Clock&3 == 3: // 3 is a clock behind a descriptor
		return 0, false, false
	}
	return ^(t.Clock >> 3), t.Clock&4 != 0, true
}

// lines takes "name: value" lines apart in their order.
type lines struct {
	rest []byte
	bad  bool
}

func (l *lines) value(prefix string) []byte {
	var line []byte
	line, l.rest = cutLine(l.rest)
	value, ok := bytes.CutPrefix(line, []byte(prefix))
	l.bad = l.bad || !ok
	return value
}
