package procfs

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

const fdinfoHead = "pos:\t0\nflags:\t02000002\nmnt_id:\t17\nino:\t18\n"

const (
	eventfdSample = fdinfoHead + "eventfd-count:                5\neventfd-id: 1\neventfd-semaphore: 1\n"
	epollSample   = fdinfoHead +
		"tfd:        5 events: 80000019 data:                5  pos:0 ino:6301 sdev:f\n" +
		"tfd:        3 events:       19 data: ffffffffffffffff  pos:-1 ino:12 sdev:10\n"
	timerfdSample  = fdinfoHead + "clockid: 1\nticks: 2\nsettime flags: 01\nit_value: (3, 4)\nit_interval: (0, 999999999)\n"
	signalfdSample = fdinfoHead + "sigmask:\t0000000000004402\n"
	inotifySample  = fdinfoHead + "inotify wd:1f ino:986537 sdev:fe00000 mask:80000002 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:37659800a0e4f68d\n" +
		"inotify wd:1 ino:5 sdev:1b mask:4000100 ignored_mask:0\n"
	fanotifySample = fdinfoHead + "fanotify flags:10 event-flags:8000\n" +
		"fanotify sdev:1b mflags:0 mask:20 ignored_mask:0\n" +
		"fanotify mnt_id:1e mflags:40 mask:20 ignored_mask:8000001\n" +
		"fanotify ino:98 sdev:fe00000 mflags:0 mask:20 ignored_mask:0 fhandle-bytes:2 fhandle-type:81 f_handle:37ff\n"
	pidfdSample = fdinfoHead + "Pid:\t-1\nNSpid:\t-1\n"
	lockSample  = "pos:\t12\nflags:\t02100001\nmnt_id:\t27\nino:\t9977956\n" +
		"lock:\t1: FLOCK  ADVISORY  WRITE 16278 fe:00:9977956 0 EOF\n" +
		"lock:\t2: OFDLCK ADVISORY  READ -1 fe:00:9977956 5 10\n"
)

func TestParseFDInfo(t *testing.T) {
	mask, tty := uint64(0x4402), 12
	head := FDInfo{Flags: 02000002, MountID: 17, Ino: 18}
	with := func(f func(*FDInfo)) FDInfo { h := head; f(&h); return h }
	tests := map[string]FDInfo{
		fdinfoHead: head,
		eventfdSample: with(func(i *FDInfo) {
			i.Eventfd = &EventfdInfo{Count: 5, Semaphore: true, SemaphoreKnown: true}
		}),
		fdinfoHead + "eventfd-count: ffffffffffffffff\n": with(func(i *FDInfo) {
			i.Eventfd = &EventfdInfo{Count: 1<<64 - 1}
		}),
		epollSample: with(func(i *FDInfo) {
			i.Epoll = []EpollTarget{
				{FD: 5, Events: 0x80000019, Data: 5, Ino: 0x6301, Dev: unix.Mkdev(0, 15)},
				{FD: 3, Events: 0x19, Data: 1<<64 - 1, Pos: -1, Ino: 0x12, Dev: unix.Mkdev(0, 16)},
			}
		}),
		timerfdSample: with(func(i *FDInfo) {
			i.Timerfd = &TimerfdInfo{ClockID: 1, Ticks: 2, Settime: 1,
				Value: unix.Timespec{Sec: 3, Nsec: 4}, Interval: unix.Timespec{Nsec: 999999999}}
		}),
		fdinfoHead + "tty-index:\t12\n": with(func(i *FDInfo) { i.TTYIndex = &tty }),
		signalfdSample:                  with(func(i *FDInfo) { i.Sigmask = &mask }),
		pidfdSample:                     with(func(i *FDInfo) { i.Pidfd = &PidfdInfo{PID: -1} }),
		inotifySample: with(func(i *FDInfo) {
			i.Inotify = []InotifyWatch{
				{WD: 31, Ino: 0x986537, Dev: unix.Mkdev(254, 0), Mask: 0x80000002,
					Handle: FileHandle{Type: 1, Handle: []byte{0x37, 0x65, 0x98, 0, 0xa0, 0xe4, 0xf6, 0x8d}}},
				{WD: 1, Ino: 5, Dev: unix.Mkdev(0, 27), Mask: 0x4000100},
			}
		}),
		fanotifySample: with(func(i *FDInfo) {
			i.Fanotify = &FanotifyInfo{Flags: 0x10, EventFlags: 0x8000, Marks: []FanotifyMark{
				{Object: FanotifyFilesystem, Dev: unix.Mkdev(0, 27), Mask: 0x20},
				{Object: FanotifyMount, MountID: 30, Flags: 0x40, Mask: 0x20, Ignored: 0x8000001},
				{Object: FanotifyInode, Ino: 0x98, Dev: unix.Mkdev(254, 0), Mask: 0x20,
					Handle: FileHandle{Type: 0x81, Handle: []byte{0x37, 0xff}}},
			}}
		}),
		lockSample: {Pos: 12, Flags: 02100001, MountID: 27, Ino: 9977956, Locks: []Lock{
			{Type: "FLOCK", State: "ADVISORY", Access: "WRITE", PID: 16278, Dev: unix.Mkdev(0xfe, 0), Ino: 9977956, End: LockEOF},
			{Type: "OFDLCK", State: "ADVISORY", Access: "READ", PID: -1, Dev: unix.Mkdev(0xfe, 0), Ino: 9977956, Start: 5, End: 10},
		}},
	}
	for text, want := range tests {
		got, err := ParseFDInfo([]byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if !reflect.DeepEqual(*got, want) {
			t.Errorf("%q:\n got %+v\nwant %+v", text, *got, want)
		}
	}
}

func TestParseFDInfoMalformed(t *testing.T) {
	for _, text := range []string{
		"", "pos:\t0\nflags:\t02\n", "pos:\tx\nflags:\t02\nmnt_id:\t1\n", "pos:\t0\nflags:\t9\nmnt_id:\t1\n",
		"pos:\t0\nflags:\t02\nmnt_id:\t-1\n", fdinfoHead + "lock:\t1: FLOCK\n", fdinfoHead + "tfd: 1\n",
		fdinfoHead + "tfd: 1 events: 19 data: 5 sdev:zz\n", fdinfoHead + "it_value: (1 2)\n",
		fdinfoHead + "it_value: (1, 1000000000)\n", fdinfoHead + "eventfd-semaphore: 2\n",
		fdinfoHead + "inotify wd:x ino:1\n", fdinfoHead + "inotify wd:1 fhandle-bytes:3 fhandle-type:1 f_handle:00\n",
		fdinfoHead + "fanotify ino:1 mask:100000000\n", fdinfoHead + "Pid:\t-2\n",
	} {
		if i, err := ParseFDInfo([]byte(text)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %+v, %v", text, i, err)
		}
	}
}

func TestReadFDInfo(t *testing.T) {
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := ReadFDInfo(os.Getpid(), int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if want := uint32(unix.O_CLOEXEC); info.Flags&want == 0 || info.MountID == 0 {
		t.Errorf("%+v", info)
	}
}

func FuzzParseFDInfo(f *testing.F) {
	for _, s := range []string{eventfdSample, epollSample, timerfdSample, signalfdSample, lockSample, inotifySample, fanotifySample, pidfdSample} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := ParseFDInfo(b)
		if err != nil {
			return
		}
		out := formatFDInfo(info)
		again, err := ParseFDInfo(out)
		if err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		if !reflect.DeepEqual(info, again) {
			t.Fatalf("%+v became %+v", info, again)
		}
	})
}

// formatFDInfo writes what the kernel would.
func formatFDInfo(i *FDInfo) []byte {
	b := fmt.Appendf(nil, "pos:\t%d\nflags:\t0%o\nmnt_id:\t%d\nino:\t%d\n", i.Pos, i.Flags, i.MountID, i.Ino)
	for n, l := range i.Locks {
		b = fmt.Appendf(b, "lock:\t%s\n", formatLock(n+1, l))
	}
	if e := i.Eventfd; e != nil {
		b = fmt.Appendf(b, "eventfd-count: %16x\n", e.Count)
		if e.SemaphoreKnown {
			n := 0
			if e.Semaphore {
				n = 1
			}
			b = fmt.Appendf(b, "eventfd-semaphore: %d\n", n)
		}
	}
	if m := i.Sigmask; m != nil {
		b = fmt.Appendf(b, "sigmask:\t%016x\n", *m)
	}
	if t := i.Timerfd; t != nil {
		b = fmt.Appendf(b, "clockid: %d\nticks: %d\nsettime flags: 0%o\nit_value: (%d, %d)\nit_interval: (%d, %d)\n",
			t.ClockID, t.Ticks, t.Settime, t.Value.Sec, t.Value.Nsec, t.Interval.Sec, t.Interval.Nsec)
	}
	for _, t := range i.Epoll {
		b = fmt.Appendf(b, "tfd: %8d events: %8x data: %16x  pos:%d ino:%x sdev:%x\n",
			t.FD, t.Events, t.Data, t.Pos, t.Ino, uint64(unix.Major(t.Dev))<<20|uint64(unix.Minor(t.Dev)))
	}
	return appendNotify(b, i)
}

func kernelNumber(dev uint64) uint64 { return uint64(unix.Major(dev))<<20 | uint64(unix.Minor(dev)) }

func appendNotify(b []byte, i *FDInfo) []byte {
	if p := i.Pidfd; p != nil {
		b = fmt.Appendf(b, "Pid:\t%d\n", p.PID)
	}
	handle := func(h FileHandle) string {
		if len(h.Handle) == 0 && h.Type == 0 {
			return ""
		}
		return fmt.Sprintf(" fhandle-bytes:%x fhandle-type:%x f_handle:%x", len(h.Handle), h.Type, h.Handle)
	}
	for _, w := range i.Inotify {
		b = fmt.Appendf(b, "inotify wd:%x ino:%x sdev:%x mask:%x ignored_mask:0%s\n", w.WD, w.Ino, kernelNumber(w.Dev), w.Mask, handle(w.Handle))
	}
	g := i.Fanotify
	if g == nil {
		return b
	}
	b = fmt.Appendf(b, "fanotify flags:%x event-flags:%x\n", g.Flags, g.EventFlags)
	for _, m := range g.Marks {
		b = fmt.Appendf(b, "fanotify %s:0 mnt_id:%x ino:%x sdev:%x mflags:%x mask:%x ignored_mask:%x%s\n",
			m.Object, m.MountID, m.Ino, kernelNumber(m.Dev), m.Flags, m.Mask, m.Ignored, handle(m.Handle))
	}
	return b
}
