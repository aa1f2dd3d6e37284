package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

func readCount(t *testing.T, fd int) (uint64, error) {
	t.Helper()
	var b [8]byte
	_, err := unix.Read(fd, b[:])
	return binary.NativeEndian.Uint64(b[:]), err
}

func eventfd(t *testing.T, count uint64, flags int) int {
	t.Helper()
	fd, err := unix.Eventfd(0, flags|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if count != 0 {
		mustWrite(t, fd, string(binary.NativeEndian.AppendUint64(nil, count)))
	}
	return fd
}

func TestEventfd(t *testing.T) {
	plain := eventfd(t, 7, 0)
	sem := eventfd(t, 3, unix.EFD_SEMAPHORE|unix.EFD_NONBLOCK)
	empty := eventfd(t, 0, unix.EFD_NONBLOCK)
	full := eventfd(t, math.MaxUint64-1, unix.EFD_NONBLOCK)
	trip := fdtest.Dump(t, New(), nil, plain, sem, empty, full)
	if v, err := readCount(t, plain); v != 7 || err != nil {
		t.Errorf("the dump changed the count to %d: %v", v, err)
	}
	trip.Restore()
	if v, _ := readCount(t, plain); v != 7 || fdtest.Flags(t, plain)&unix.O_NONBLOCK != 0 {
		t.Errorf("count %d, flags %#o", v, fdtest.Flags(t, plain))
	}
	if a, _ := readCount(t, sem); a != 1 {
		t.Errorf("semaphore gave %d", a)
	}
	if v, err := readCount(t, empty); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("empty eventfd gave %d, %v", v, err)
	}
	if v, _ := readCount(t, full); v != math.MaxUint64-1 {
		t.Errorf("full eventfd gave %#x", v)
	}
}

func TestSignalfd(t *testing.T) {
	mask := unix.Sigset_t{Val: [16]uint64{1<<(unix.SIGUSR1-1) | 1<<(64-1)}}
	fd, err := unix.Signalfd(-1, &mask, unix.SFD_CLOEXEC|unix.SFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	want, flags := readSigmask(t, fd), fdtest.Flags(t, fd)
	fdtest.Dump(t, New(), nil, fd).Restore()
	if got := readSigmask(t, fd); got != want || got != mask.Val[0] {
		t.Errorf("mask %#x, want %#x", got, want)
	}
	if got := fdtest.Flags(t, fd); got != flags {
		t.Errorf("flags %#o, want %#o", got, flags)
	}
}

func readSigmask(t *testing.T, fd int) uint64 {
	t.Helper()
	info := fdinfoOf(t, fd)
	if info.Sigmask == nil {
		t.Fatal("no mask")
	}
	return *info.Sigmask
}

func timerfd(t *testing.T, clock, flags int, value, interval time.Duration) int {
	t.Helper()
	fd, err := unix.TimerfdCreate(clock, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(value)), Interval: unix.NsecToTimespec(int64(interval))}
	if err := unix.TimerfdSettime(fd, flags, &spec, nil); err != nil {
		t.Fatal(err)
	}
	return fd
}

func left(t *testing.T, fd int) (value, interval time.Duration) {
	t.Helper()
	var s unix.ItimerSpec
	if err := unix.TimerfdGettime(fd, &s); err != nil {
		t.Fatal(err)
	}
	return time.Duration(s.Value.Nano()), time.Duration(s.Interval.Nano())
}

func TestTimerfd(t *testing.T) {
	probe := timerfd(t, unix.CLOCK_MONOTONIC, 0, 0, 0)
	gate.Feature(t, "TFD_IOC_SET_TICKS", kern.SetTimerfdTicks(probe, 1) == nil)
	unix.Close(probe)
	now := time.Duration(time.Now().UnixNano())
	idle := timerfd(t, unix.CLOCK_MONOTONIC, 0, 0, 0)
	far := timerfd(t, unix.CLOCK_BOOTTIME, 0, time.Hour, time.Minute)
	wall := timerfd(t, unix.CLOCK_REALTIME, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, now+time.Hour, 0)
	mono := timerfd(t, unix.CLOCK_MONOTONIC, unix.TFD_TIMER_ABSTIME, monotonic(t)+time.Hour, 0)
	done := timerfd(t, unix.CLOCK_MONOTONIC, 0, time.Nanosecond, 0)
	fast := timerfd(t, unix.CLOCK_MONOTONIC, 0, time.Millisecond, time.Millisecond)
	time.Sleep(20 * time.Millisecond)
	trip := fdtest.Dump(t, New(), nil, idle, far, wall, mono, done, fast)
	trip.Restore()
	if v, i := left(t, idle); v != 0 || i != 0 {
		t.Errorf("idle: %v, %v", v, i)
	}
	if _, err := readCount(t, idle); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("idle: read: %v", err)
	}
	for name, fd := range map[string]int{"far": far, "wall": wall, "mono": mono} {
		v, i := left(t, fd)
		if v < 59*time.Minute || v > time.Hour || (i == time.Minute) != (fd == far) {
			t.Errorf("%s: %v left, interval %v", name, v, i)
		}
	}
	if info := fdinfoOf(t, wall); info.Timerfd.Settime != unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET ||
		info.Timerfd.ClockID != unix.CLOCK_REALTIME {
		t.Errorf("wall: %+v", info.Timerfd)
	}
	if n, err := readCount(t, done); n != 1 || err != nil {
		t.Errorf("expired: %d, %v", n, err)
	}
	if n, err := readCount(t, fast); n < 19 || err != nil {
		t.Errorf("periodic: %d expirations, %v", n, err)
	}
}

func monotonic(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// TestTimerfdWallClock: a timer that was set for a time of day expires at that
// time, also if that passed while nothing ran.
func TestTimerfdWallClock(t *testing.T) {
	past := time.Now().Add(-time.Hour).UnixNano()
	fd, err := makeTimerfd(&filespb.Timerfd{
		Clock: unix.CLOCK_REALTIME, SettimeFlags: unix.TFD_TIMER_ABSTIME, Remaining: int64(time.Hour), Deadline: past,
		Description: &filespb.Description{Flags: unix.O_RDWR | unix.O_NONBLOCK},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if n, err := readCount(t, fd); n != 1 || err != nil {
		t.Errorf("%d expirations, %v", n, err)
	}
	if _, err := makeTimerfd(&filespb.Timerfd{Clock: unix.CLOCK_MONOTONIC, Remaining: -1}); err == nil {
		t.Error("a negative time was taken")
	}
}

func epollWith(t *testing.T, targets ...unix.EpollEvent) int {
	t.Helper()
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	for _, ev := range targets {
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, int(ev.Fd), &ev); err != nil {
			t.Fatal(err)
		}
	}
	return ep
}

// ready returns what an instance reports, by Pad (which the tests set to tell
// the targets apart).
func ready(t *testing.T, ep int) map[int32]uint32 {
	t.Helper()
	evs := make([]unix.EpollEvent, 16)
	n, err := unix.EpollWait(ep, evs, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[int32]uint32{}
	for _, ev := range evs[:n] {
		out[ev.Pad] = ev.Events
	}
	return out
}

func TestEpoll(t *testing.T) {
	ev := eventfd(t, 0, unix.EFD_NONBLOCK)
	r, w := pipe2(t, unix.O_NONBLOCK)
	inner := epollWith(t, unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(r), Pad: 3})
	ep := epollWith(t,
		unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(ev), Pad: 1},
		unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(inner), Pad: 2})
	want := fdinfoOf(t, ep).Epoll
	// The instance comes first: it is filled when its members are there.
	fdtest.Dump(t, New(), nil, ep, inner, ev, r, w).Restore()
	got := fdinfoOf(t, ep).Epoll
	if len(got) != 2 {
		t.Fatalf("%d members: %+v", len(got), got)
	}
	for _, g := range got {
		for _, x := range want {
			if g.FD == x.FD && (g.Events != x.Events || g.Data != x.Data) {
				t.Errorf("member %+v, want %+v", g, x)
			}
		}
	}
	if e := ready(t, ep); len(e) != 0 {
		t.Errorf("nothing happened, got %v", e)
	}
	mustWrite(t, ev, string(binary.NativeEndian.AppendUint64(nil, 1)))
	mustWrite(t, w, "x")
	if e := ready(t, ep); len(e) != 2 || e[1] != unix.EPOLLIN || e[2] != unix.EPOLLIN {
		t.Errorf("after both: %v", e)
	}
	if e := ready(t, ep); len(e) != 1 || e[2] != unix.EPOLLIN {
		t.Errorf("the edge of the eventfd came again: %v", e)
	}
	if e := ready(t, inner); e[3] != unix.EPOLLIN {
		t.Errorf("inner: %v", e)
	}
}

// TestEpollMoved: members whose number was closed or reused.
func TestEpollMoved(t *testing.T) {
	first, second, third := eventfd(t, 0, 0), eventfd(t, 0, 0), eventfd(t, 0, 0)
	a, b := open(t, "/dev/null", unix.O_RDONLY), open(t, "/dev/null", unix.O_RDONLY)
	ep := epollWith(t, unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(first), Pad: 1},
		unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(second), Pad: 2})
	// The number of first is taken by third, which is a member too; that of
	// second is free.
	for from, to := range map[int]int{first: a, second: b} {
		if err := unix.Dup3(from, to, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Dup3(third, first, 0); err != nil {
		t.Fatal(err)
	}
	unix.Close(third)
	unix.Close(second)
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, first, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(first), Pad: 3}); err != nil {
		t.Fatal(err)
	}
	fdtest.Dump(t, New(), nil, ep, a, b, first).Restore()
	// The number may be taken by something else of this process by now.
	if link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", second)); err == nil && strings.Contains(link, "eventfd") {
		t.Errorf("fd %d was closed and is %s now", second, link)
	}
	for i, fd := range []int{a, b, first} {
		mustWrite(t, fd, string(binary.NativeEndian.AppendUint64(nil, 1)))
		if e := ready(t, ep); len(e) != 1 || e[int32(i+1)] != unix.EPOLLIN {
			t.Errorf("member %d: %v", i+1, e)
		}
		readCount(t, fd)
	}
	if n := len(fdinfoOf(t, ep).Epoll); n != 3 {
		t.Errorf("%d members", n)
	}
}

func TestEpollLostMember(t *testing.T) {
	ev := eventfd(t, 0, 0)
	ep := epollWith(t, unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(ev)})
	defer unix.Close(ep)
	// A child keeps the file open, the task does not.
	f := fileOf(t, ev)
	startChild(t, "hold", "", f)
	f.Close()
	unix.Close(ev)
	blocked(t, ep, "is no longer open in the task")
}

func TestEpollMany(t *testing.T) {
	const n = 3000
	ev := eventfd(t, 1, 0)
	fds := []int{ev}
	var targets []unix.EpollEvent
	for range n {
		fd, err := unix.FcntlInt(uintptr(ev), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		targets = append(targets, unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
	}
	ep := epollWith(t, targets...)
	trip := fdtest.Dump(t, New(), nil, append(fds, ep)...)
	if err := trip.TryRestore(); err != nil {
		t.Fatal(err)
	}
	if got := len(fdinfoOf(t, ep).Epoll); got != n {
		t.Errorf("%d members, want %d", got, n)
	}
}

func TestEpollEvent(t *testing.T) {
	b := epollEvent(&filespb.EpollTarget{Events: 0x80000019, Data: 0x1122334455667788})
	if got := binary.NativeEndian.Uint32(b); got != 0x80000019 {
		t.Errorf("events %#x", got)
	}
	if got := binary.NativeEndian.Uint64(b[len(b)-8:]); got != 0x1122334455667788 {
		t.Errorf("data %#x", got)
	}
	if !strings.Contains("12 16", string(rune('0'+len(b)/10))+string(rune('0'+len(b)%10))) {
		t.Errorf("%d bytes", len(b))
	}
}
