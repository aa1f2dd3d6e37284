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

// stepThrough lets a stopped task, whose registers point at a system call
// instruction, execute it, and leaves it at the syscall-exit stop.
func (t *target) stepThrough(ctx context.Context) error {
	for stops := 0; stops < 2; {
		if err := contSyscall(t.tid, 0); err != nil {
			return err
		}
		s, err := waitStop(ctx, t.tid)
		switch {
		case err != nil:
			return err
		case s.ended():
			return errGone
		case s.isSyscallStop():
			stops++
		case s.isSignal():
			t.postponed = append(t.postponed, s.signal())
		case s.isNewTask():
			msg, err := eventMessage(t.tid)
			if err != nil {
				return err
			}
			t.born = HostPID(msg)
		}
		// Event stops that were still queued are passed over.
	}
	return nil
}

// call makes a live task execute one system call through a gadget, with an
// emergency way back at every moment. Afterwards the task stands at a
// syscall-exit stop with its own registers, in a form from which it restarts
// what the freeze had interrupted.
//
// A call that was begun is seen through, whatever becomes of ctx.
func (t *target) call(ctx context.Context, w *wayBack, nr int, args [6]uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), freezeTime)
	defer cancel()
	block, err := w.place(t, nr, args)
	if err != nil {
		return 0, err
	}
	if err := arch.SetRegs(int(t.tid), &block.regs); err != nil {
		w.clear(block)
		return 0, err
	}
	if err = setSignalMask(t.tid, allSignals); err == nil {
		err = t.stepThrough(ctx)
	}
	if err != nil {
		// The task is on its way, and gets back by itself: the frame stays.
		t.lost, w.keep = true, true
		return 0, err
	}
	defer w.clear(block) // after the registers are back
	regs, err := arch.GetRegs(int(t.tid))
	// From here on no kernel code looks at the restart codes any more: the
	// registers themselves must say what is to be done again.
	t.orig = t.raw.Resume()
	if err := errors.Join(err, t.takeBack()); err != nil {
		return 0, err
	}
	if r := regs.Result(); r < 0 && r >= -4095 {
		return 0, unix.Errno(-r)
	}
	return uint64(regs.Result()), nil
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
