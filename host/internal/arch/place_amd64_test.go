package arch

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// redZone is what a program may use below its stack pointer.
const redZone = 128

const regionSize = 1 << 20

// placeMmap prepares a mmap in the subject by the gadget and returns where the
// mapping is going to be.
func (s *subject) placeMmap(g Gadget, st state) uint64 {
	s.t.Helper()
	vdso, sigreturn := s.gadget()
	block := make([]byte, CallBlockSize(len(st.xstate)))
	addr := st.regs.SP() - redZone - uint64(len(block)) - 8
	const hint = 0x7000_0000_0000
	args := [6]uint64{hint, regionSize, unix.PROT_READ | unix.PROT_WRITE | unix.PROT_EXEC,
		unix.MAP_SHARED | unix.MAP_ANONYMOUS | unix.MAP_FIXED_NOREPLACE, ^uint64(0), 0}
	regs, err := PlaceCall(block, addr, g, vdso, sigreturn, st.regs, st.xstate, st.mask, unix.SYS_MMAP, args)
	check(s.t, err)
	s.write(addr, block)
	s.setRegs(regs)
	return hint
}

func (s *subject) hasMapping(addr uint64) bool {
	s.t.Helper()
	for _, m := range s.maps() {
		if m.start == addr {
			return true
		}
	}
	return false
}

func (s *subject) eventually(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	s.t.Fatalf("timed out: %s", what)
}

// settlesAs waits until the subject, on its own, has its mask and its extended
// state again.
func (s *subject) settlesAs(st state) {
	s.t.Helper()
	s.eventually("mask and extended state", func() bool {
		s.seize()
		after := s.state()
		s.detach()
		return after.mask == st.mask && string(after.xstate) == string(st.xstate)
	})
}

func ownGadgets(t *testing.T) []Gadget {
	t.Helper()
	_, image, err := VDSO()
	check(t, err)
	return Gadgets(image)
}

// TestPlaceCallDeath detaches at every point of a placed call: the subject goes
// on by itself.
func TestPlaceCallDeath(t *testing.T) {
	for i, g := range ownGadgets(t) {
		for stops := range 3 {
			t.Run(fmt.Sprintf("gadget%d/stops%d", i, stops), func(t *testing.T) {
				s := startSubject(t, "hold")
				s.seize()
				st := s.state()
				if stops > 0 {
					s.blockSignals()
				}
				addr := s.placeMmap(g, st)
				for range stops { // entry, exit
					check(t, unix.PtraceSyscall(s.tid, 0))
					s.wait()
				}
				s.detach()
				s.eventually("mapping", func() bool { return s.hasMapping(addr) })
				s.settlesAs(st)
				s.finish()
			})
		}
	}
}

// region maps a region in the subject as a live host does and leaves the
// subject stopped with its own registers.
func (s *subject) region(st state) uint64 {
	s.t.Helper()
	s.blockSignals()
	addr := s.placeMmap(ownGadgets(s.t)[0], st)
	for range 2 {
		check(s.t, unix.PtraceSyscall(s.tid, 0))
		s.wait()
	}
	regs, err := GetRegs(s.tid)
	check(s.t, err)
	if uint64(regs.Result()) != addr {
		s.t.Fatalf("mmap returned %#x", regs.Result())
	}
	s.write(addr, TapeCode())
	s.restore(st)
	return addr
}

func (s *subject) restore(st state) {
	s.t.Helper()
	s.setRegs(st.regs)
	mask := binary.LittleEndian.AppendUint64(nil, st.mask)
	s.ptrace(unix.PTRACE_SETSIGMASK, 8, mask)
}

type call struct {
	nr         int
	allowError bool
	args       [6]uint64
	from       [6]bool
}

// placeTape writes a tape to the region's first slice and sets the registers.
func (s *subject) placeTape(region uint64, st state, calls []call, timeout time.Duration) uint64 {
	s.t.Helper()
	slice := make([]byte, 16384)
	addr := region + 4096
	at := EntriesOffset(len(st.xstate))
	for i, c := range calls {
		EncodeEntry(slice[at+i*EntrySize:], c.nr, c.allowError, c.args, c.from)
	}
	regs, err := PlaceTape(slice, addr, region, len(calls), st.regs, st.xstate, st.mask, timeout)
	check(s.t, err)
	s.write(addr, slice)
	s.setRegs(regs)
	return addr
}

func (s *subject) done(slice uint64) func() bool {
	return func() bool { return s.read(slice+OffStatus, 1)[0] == 1 }
}

func (s *subject) results(slice uint64, st state) []int64 {
	s.t.Helper()
	n := int(binary.LittleEndian.Uint64(s.read(slice+OffProgress, 8)))
	entries := s.read(slice+uint64(EntriesOffset(len(st.xstate))), n*EntrySize)
	var all []int64
	for i := range n {
		all = append(all, EntryResult(entries[i*EntrySize:]))
	}
	return all
}

// runTape runs a tape as a live host does and puts everything back.
func (s *subject) runTape(calls []call) []int64 {
	s.t.Helper()
	st := s.state()
	region := s.region(st)
	s.blockSignals()
	slice := s.placeTape(region, st, calls, time.Minute)
	check(s.t, unix.PtraceCont(s.tid, 0))
	s.eventually("tape", s.done(slice))
	s.interrupt()
	results := s.results(slice, st)
	s.restore(st)
	check(s.t, SetXState(s.tid, st.xstate))
	return results
}

func TestTapeResults(t *testing.T) {
	s := startSubject(t, "hold")
	s.seize()
	const data = 0x7000_0000_0000 + regionSize - 4096
	calls := []call{
		{nr: unix.SYS_GETPID},
		{nr: unix.SYS_CLOSE, allowError: true, args: [6]uint64{999}},
		{nr: unix.SYS_PIPE2, args: [6]uint64{data}},
		{nr: unix.SYS_EVENTFD2, args: [6]uint64{7}},
		{nr: unix.SYS_READ, args: [6]uint64{3, data + 64, 8}, from: [6]bool{true}},
		{nr: unix.SYS_WRITE, args: [6]uint64{3, data + 64, 4}, from: [6]bool{true, false, true}},
		{nr: unix.SYS_CLOSE, args: [6]uint64{3}, from: [6]bool{true}},
		{nr: unix.SYS_CLOSE, args: [6]uint64{998}},
		{nr: unix.SYS_GETPID},
	}
	got := s.runTape(calls)
	fd := got[3]
	want := []int64{int64(s.tid), -int64(unix.EBADF), 0, fd, 8, 8, 0, -int64(unix.EBADF)}
	if fmt.Sprint(got) != fmt.Sprint(want) || fd < 3 {
		t.Errorf("results %v, want %v", got, want)
	}
	if v := binary.LittleEndian.Uint64(s.read(data+64, 8)); v != 7 {
		t.Errorf("the tape read %d", v)
	}
	s.detach()
	s.finish()
}

func TestTapeEmpty(t *testing.T) {
	s := startSubject(t, "hold")
	s.seize()
	if got := s.runTape(nil); len(got) != 0 {
		t.Errorf("results %v", got)
	}
	s.detach()
	s.finish()
}

// TestTapeDeath detaches at every point of a tape: the subject goes on by
// itself, with its own mask and state.
func TestTapeDeath(t *testing.T) {
	const read = "a call that blocks"
	for _, point := range []string{"start", "stops", read, "parked"} {
		t.Run(point, func(t *testing.T) {
			s := startSubject(t, "hold")
			s.seize()
			st := s.state()
			region := s.region(st)
			s.blockSignals()
			calls := make([]call, 50)
			for i := range calls {
				calls[i].nr = unix.SYS_GETPID
			}
			if point == read { // standard input, a pipe that nobody wrote to
				calls[40] = call{nr: unix.SYS_READ, args: [6]uint64{0, region + regionSize - 64, 1}}
			}
			slice := s.placeTape(region, st, calls, 50*time.Millisecond)
			switch point {
			case "stops":
				for range 81 {
					check(t, unix.PtraceSyscall(s.tid, 0))
					s.wait()
				}
			case read:
				check(t, unix.PtraceCont(s.tid, 0))
				s.eventually("read", func() bool { return len(s.results(slice, st)) == 40 })
				s.interrupt()
			case "parked":
				check(t, unix.PtraceCont(s.tid, 0))
				s.eventually("status", s.done(slice))
				s.interrupt()
			}
			s.detach()
			if point == read {
				_, err := s.stdin.Write([]byte("x"))
				check(t, err)
			}
			s.eventually("status", s.done(slice))
			s.settlesAs(st)
			if n := len(s.results(slice, st)); n != 50 {
				t.Errorf("%d calls were executed", n)
			}
			s.finish()
		})
	}
}

// TestTapeHandler lets a handler run in the middle of a tape.
func TestTapeHandler(t *testing.T) {
	s := startSubject(t, "hold")
	s.seize()
	st := s.state()
	region := s.region(st)
	slice := s.placeTape(region, st, nil, time.Minute)
	s.detach()
	s.eventually("status", s.done(slice))
	time.Sleep(10 * time.Millisecond)
	check(t, unix.Kill(s.tid, unix.SIGUSR1)) // ends the ppoll
	time.Sleep(10 * time.Millisecond)
	if out := s.finish(); !strings.Contains(out, "handled 1") {
		t.Errorf("the subject printed %q", out)
	}
}

// TestRestart interrupts blocked system calls: with Resume as a live host that
// ran nothing, by a tape whose host lives, and by the frames of PlaceCall and
// PlaceTape.
func TestRestart(t *testing.T) {
	modes := []string{"read", "nanosleep", "nanosleep-norem", "clock_nanosleep", "abstime", "futex", "poll"}
	for _, mode := range modes {
		for _, how := range []string{"resume", "tape", "call death", "tape death"} {
			t.Run(mode+"/"+how, func(t *testing.T) {
				t.Parallel()
				if mode == "read" {
					s := startSubject(t, mode)
					s.seize()
					s.disturb(how)
					_, err := s.stdin.Write([]byte("x"))
					check(t, err)
					s.finish()
					return
				}
				// A machine that stands still looks like a sleep that was cut or
				// began anew; a longer sleep tells them apart.
				var err error
				for _, d := range []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second} {
					if err = restartSleep(t, mode, how, d); err == nil {
						return
					}
				}
				t.Error(err)
			})
		}
	}
}

// restartSleep disturbs a sleep of d before half of it has passed.
func restartSleep(t *testing.T, mode, how string, d time.Duration) error {
	t.Helper()
	s := startSubject(t, mode, fmt.Sprint(d.Milliseconds()))
	time.Sleep(d * 4 / 10)
	over := fmt.Errorf("a sleep of %s was over before it was disturbed", d)
	if !s.asleep() || unix.PtraceSeize(s.tid) != nil || unix.PtraceInterrupt(s.tid) != nil {
		return over
	}
	if st := s.wait(); int(st)>>16 != unix.PTRACE_EVENT_STOP {
		return over
	}
	if regs, err := GetRegs(s.tid); err != nil || !regs.InSyscall() {
		return over
	}
	s.disturb(how)
	out := s.finish()
	var took float64
	fmt.Sscanf(out, "took %f", &took)
	if took < d.Seconds()-0.001 {
		return fmt.Errorf("a sleep of %s was too short: %q", d, out)
	}
	keeps := strings.Contains(mode, "nanosleep") && mode != "nanosleep-norem" || mode == "abstime"
	if keeps && took > d.Seconds()*1.35 {
		return fmt.Errorf("a sleep of %s started over: %q", d, out)
	}
	return nil
}

func (s *subject) disturb(how string) {
	s.t.Helper()
	st := s.state()
	if !st.regs.InSyscall() {
		s.t.Fatalf("not in a system call: result %d", st.regs.Result())
	}
	switch how {
	case "resume":
		s.setRegs(st.regs.Resume())
	case "tape":
		if got := s.runTape([]call{{nr: unix.SYS_GETPID}}); got[0] != int64(s.tid) {
			s.t.Errorf("results %v", got)
		}
		s.setRegs(st.regs.Resume())
	case "call death":
		s.placeMmap(ownGadgets(s.t)[0], st)
	case "tape death":
		region := s.region(st)
		s.placeTape(region, st, []call{{nr: unix.SYS_GETPID}}, 10*time.Millisecond)
	}
	s.detach()
}
