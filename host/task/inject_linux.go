package task

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/internal/arch"
	"github.com/firn-cr/firn/sdk"
)

// errGone is returned when the task ended in the middle of a call.
var errGone = fmt.Errorf("task ended: %w", sdk.ErrTaskGone)

// stepping is a stopped task, whose registers point at a system call
// instruction, on its way through the call.
type stepping struct {
	t     *target
	stops int // syscall stops that it came to: entry and exit
}

// atExit is the syscall stop at which the call has been executed.
const atExit = 2

// begin lets the task go.
func (s *stepping) begin() error { return contSyscall(s.t.tid, 0) }

// reach waits until the task has come to its n-th syscall stop. From all but
// the last one it goes on.
func (s *stepping) reach(ctx context.Context, n int) error {
	for s.stops < n {
		stop, err := waitStop(ctx, s.t.tid)
		switch {
		case err != nil:
			return err
		case stop.ended():
			return errGone
		case stop.isSyscallStop():
			s.stops++
		case stop.isSignal():
			s.t.postponed = append(s.t.postponed, stop.signal())
		case stop.isNewTask():
			msg, err := eventMessage(s.t.tid)
			if err != nil {
				return err
			}
			s.t.born = HostPID(msg)
		}
		// Event stops that were still queued are passed over.
		if s.stops == atExit {
			return nil
		}
		if err := contSyscall(s.t.tid, 0); err != nil {
			return err
		}
	}
	return nil
}

// stepThrough lets a task execute the call and leaves it at the exit.
func (t *target) stepThrough(ctx context.Context) error {
	s := stepping{t: t}
	if err := s.begin(); err != nil {
		return err
	}
	return s.reach(ctx, atExit)
}

// liveCall is one system call that a live task is made to execute through a
// gadget, with an emergency way back at every moment. Afterwards the task
// stands at a syscall-exit stop with its own registers, in a form from which it
// restarts what the freeze had interrupted.
type liveCall struct {
	t    *target
	way  *wayBack
	nr   int
	args [6]uint64

	block  placed
	step   stepping
	result uint64
	err    error
}

// callAll makes tasks execute their calls, all at the same time: what one costs
// alone is mostly waiting for the other processor. Calls that were begun are
// seen through, whatever becomes of ctx.
func callAll(ctx context.Context, calls []*liveCall) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), freezeTime)
	defer cancel()
	for _, c := range calls {
		c.begin()
	}
	for stop := 1; stop <= atExit; stop++ {
		for _, c := range calls {
			if c.err == nil {
				c.lose(c.step.reach(ctx, stop))
			}
		}
	}
	for _, c := range calls {
		if c.err == nil {
			c.finish()
		}
	}
}

// begin puts the frame into the task and lets it go.
func (c *liveCall) begin() {
	c.step = stepping{t: c.t}
	if c.block, c.err = c.way.place(c.t, c.nr, c.args); c.err != nil {
		return
	}
	if c.err = arch.SetRegs(int(c.t.tid), &c.block.regs); c.err != nil {
		c.way.clear(c.block)
		return
	}
	err := setSignalMask(c.t.tid, allSignals)
	if err == nil {
		err = c.step.begin()
	}
	c.lose(err)
}

// lose takes note that a task is on its way where nobody can stop it: it gets
// back by itself, and its frame stays.
func (c *liveCall) lose(err error) {
	if err != nil {
		c.err, c.t.lost, c.way.keep = err, true, true
	}
}

// finish takes the result and gives the task its own registers back.
func (c *liveCall) finish() {
	defer c.way.clear(c.block) // after the registers are back
	regs, err := arch.GetRegs(int(c.t.tid))
	// From here on no kernel code looks at the restart codes any more: the
	// registers themselves must say what is to be done again.
	c.t.orig = c.t.raw.Resume()
	if c.err = errors.Join(err, c.t.takeBack()); c.err != nil {
		return
	}
	if r := regs.Result(); r < 0 && r >= -4095 {
		c.err = unix.Errno(-r)
		return
	}
	c.result = uint64(regs.Result())
}

// wayBack is what a process offers for a first call, while nothing of ours is
// mapped: a system call instruction in the vdso, an rt_sigreturn sequence in
// its own text, and room for a frame that nobody else can be using.
type wayBack struct {
	pid       HostPID
	mem       *os.File
	vdso      uint64
	gadget    arch.Gadget
	sigreturn uint64
	room      sdk.AddrRange
	patched   []byte // what is to be put back at sigreturn; nil if it was there
	keep      bool   // a task is still on it
}

// placed is the frame of one call.
type placed struct {
	regs arch.Regs
	addr uint64
	len  int
}

func (w *wayBack) place(t *target, nr int, args [6]uint64) (placed, error) {
	n := arch.CallBlockSize(len(t.xstate))
	if uint64(n) > w.room.Len() {
		return placed{}, fmt.Errorf("no room for a frame of %d bytes: %w", n, sdk.ErrUnsupported)
	}
	block := make([]byte, n)
	regs, err := arch.PlaceCall(block, w.room.Start, w.gadget, w.vdso, w.sigreturn, t.raw, t.xstate, t.mask, nr, args)
	if err != nil {
		return placed{}, err
	}
	if _, err := w.mem.WriteAt(block, int64(w.room.Start)); err != nil {
		return placed{}, fmt.Errorf("write frame: %w", err)
	}
	return placed{regs, w.room.Start, n}, nil
}

// clear removes the frame. The memory was unused before; a failure to clear it
// harms nobody.
func (w *wayBack) clear(p placed) {
	_, _ = w.mem.WriteAt(make([]byte, p.len), int64(p.addr))
}

func (w *wayBack) close() error {
	var err error
	if w.patched != nil && !w.keep {
		_, err = w.mem.WriteAt(w.patched, int64(w.sigreturn))
	}
	return errors.Join(err, w.mem.Close())
}
