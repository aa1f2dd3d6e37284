package arch

import (
	"testing"

	"golang.org/x/sys/unix"
)

const testPC = 0x1000

func interrupted(nr int, result int64) Regs {
	return Regs{Orig_rax: uint64(nr), Rax: uint64(result), Rip: testPC, Rdi: 1, Rsi: 2, Rdx: 3, R10: 4}
}

func with(r Regs, f func(*Regs)) Regs {
	f(&r)
	return r
}

func TestResume(t *testing.T) {
	again := func(nr int) func(*Regs) {
		return func(r *Regs) { r.Rax, r.Rip = uint64(nr), testPC-2 }
	}
	outside := Regs{Orig_rax: noSyscall, Rax: ^uint64(511), Rip: testPC} // a value that looks like a restart
	tests := map[string]struct {
		r       Regs
		in      bool
		resume  func(*Regs)
		restore func(*Regs)
	}{
		"not in a call":       {r: outside},
		"finished call":       {r: interrupted(unix.SYS_READ, 5)},
		"failed call":         {r: interrupted(unix.SYS_READ, -4)},
		"read":                {interrupted(unix.SYS_READ, restartSys), true, again(unix.SYS_READ), again(unix.SYS_READ)},
		"no interrupt":        {interrupted(unix.SYS_FORK, restartNoIntr), true, again(unix.SYS_FORK), again(unix.SYS_FORK)},
		"pause":               {interrupted(unix.SYS_PAUSE, restartNoHand), true, again(unix.SYS_PAUSE), again(unix.SYS_PAUSE)},
		"futex":               {interrupted(unix.SYS_FUTEX, restartBlock), true, again(219), again(unix.SYS_FUTEX)},
		"nanosleep":           {interrupted(unix.SYS_NANOSLEEP, restartBlock), true, again(219), func(r *Regs) { again(unix.SYS_NANOSLEEP)(r); r.Rdi = 2 }},
		"nanosleep, no room":  {with(interrupted(unix.SYS_NANOSLEEP, restartBlock), func(r *Regs) { r.Rsi = 0 }), true, again(219), again(unix.SYS_NANOSLEEP)},
		"clock_nanosleep":     {with(interrupted(unix.SYS_CLOCK_NANOSLEEP, restartBlock), func(r *Regs) { r.Rsi = 0 }), true, again(219), func(r *Regs) { again(unix.SYS_CLOCK_NANOSLEEP)(r); r.Rdx = 4 }},
		"absolute sleep":      {with(interrupted(unix.SYS_CLOCK_NANOSLEEP, restartBlock), func(r *Regs) { r.Rsi = 1 }), true, again(219), again(unix.SYS_CLOCK_NANOSLEEP)},
		"restart_syscall":     {interrupted(219, restartBlock), true, again(219), func(r *Regs) { r.Rax = ^uint64(3) }},
		"not begun nanosleep": {interrupted(unix.SYS_NANOSLEEP, restartNoHand), true, again(unix.SYS_NANOSLEEP), again(unix.SYS_NANOSLEEP)},
	}
	for name, c := range tests {
		if got := c.r.InSyscall(); got != c.in {
			t.Errorf("%s: in system call: %v", name, got)
		}
		for _, v := range []struct {
			what   string
			got    Regs
			change func(*Regs)
		}{{"resume", c.r.Resume(), c.resume}, {"restored", c.r.Restored(), c.restore}} {
			want := c.r
			want.Orig_rax = noSyscall
			if v.change != nil {
				v.change(&want)
			}
			if v.got != want {
				t.Errorf("%s: %s: %+v, want %+v", name, v.what, v.got, want)
			}
		}
	}
}

func TestResolveRestart(t *testing.T) {
	sleep := []byte{0xb8, unix.SYS_CLOCK_NANOSLEEP, 0, 0, 0, 0x0f, 0x05}
	for name, c := range map[string]struct {
		r    Regs
		text []byte
		ok   bool
		nr   uint64
	}{
		"known":     {interrupted(unix.SYS_POLL, restartBlock), nil, true, unix.SYS_POLL},
		"sleep":     {interrupted(219, restartBlock), sleep, true, unix.SYS_CLOCK_NANOSLEEP},
		"short":     {interrupted(219, restartBlock), sleep[1:], false, 219},
		"otherwise": {interrupted(219, restartBlock), []byte{0x48, 0x89, 0xf8, 0x90, 0x90, 0x0f, 0x05}, false, 219},
		"read":      {interrupted(219, restartBlock), []byte{0xb8, 0, 0, 0, 0, 0x0f, 0x05}, false, 219},
	} {
		if ok := c.r.ResolveRestart(c.text); ok != c.ok || c.r.Orig_rax != c.nr {
			t.Errorf("%s: %v, call %d", name, ok, c.r.Orig_rax)
		}
	}
}

// TestRestartTwice interrupts a sleep that was interrupted before: its number is
// found in the text.
func TestRestartTwice(t *testing.T) {
	s := startSubject(t, "clock_nanosleep", "5000")
	s.seize()
	s.setRegs(s.state().regs.Resume())
	s.detach()
	s.settle("again")
	s.seize()
	st := s.state()
	if !st.regs.InRestart() {
		t.Fatalf("not in restart_syscall: %+v", st.regs)
	}
	// The subject calls syscall(3), which takes the number from a variable.
	if st.regs.ResolveRestart(s.read(st.regs.PC()-ResolveLen, ResolveLen)) {
		t.Error("found a number where there is none")
	}
	if !st.regs.ResolveRestart([]byte{0xb8, unix.SYS_CLOCK_NANOSLEEP, 0, 0, 0, 0x0f, 0x05}) {
		t.Error("the number was not found")
	}
	region := s.region(st)
	s.placeTape(region, st, nil, 0)
	s.detach()
	s.finish()
}
