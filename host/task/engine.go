package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/internal/arch"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// parkTime is how long a task waits at the end of a tape for the host to take
// its registers back. When it passes, the task returns to its own work: that
// is how it survives the death of the host.
const parkTime = 5 * time.Second

// Slice is memory that a task and the host share: one thread's part of a
// region. The host writes tapes into Mem, which the task sees at Addr.
type Slice struct {
	Addr uint64
	Mem  []byte
	// Code is the address of the interpreter in the task.
	Code uint64
}

// Engine runs tapes in threads that stand still under the tracer. Calls of
// RunTapes follow each other: a thread has one slice.
type Engine struct {
	tracer  *Tracer
	targets map[HostPID]*target
	// turn holds one token, which is taken for every use of the targets and
	// never given back after Close.
	turn   chan struct{}
	closed chan struct{}
}

// target is a thread that can run tapes.
type target struct {
	tid   HostPID
	slice Slice
	// raw are the registers as at the freeze, for emergency frames; orig is
	// the form of them that the thread is given back: the same, until injected
	// work has taken the thread past the kernel's own restart handling.
	raw, orig arch.Regs
	xstate    []byte
	mask      uint64
	// postponed are signals that came in the middle of injected work and have
	// to be sent again.
	postponed []unix.Signal
	// born is the task that the last call created, if that is traced.
	born HostPID
	// lost is set when the thread could not be stopped in injected work: it
	// gets back by itself, for which what it runs on must stay mapped.
	lost bool
}

// NewEngine makes an engine without targets.
func NewEngine(t *Tracer) *Engine {
	e := &Engine{tracer: t, targets: map[HostPID]*target{}, turn: make(chan struct{}, 1), closed: make(chan struct{})}
	e.turn <- struct{}{}
	return e
}

// acquire waits for the turn; release gives it back.
func (e *Engine) acquire(ctx context.Context) error {
	select {
	case <-e.turn:
		return nil
	case <-e.closed:
		return fmt.Errorf("run tapes: %w", sdk.ErrAborted)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (e *Engine) release() { e.turn <- struct{}{} }

// Close waits for the tapes that run and refuses further ones. It must come
// before the slices' memory is unmapped and the tasks go on or are ended. It
// may be called again.
func (e *Engine) Close() {
	select {
	case <-e.turn:
		close(e.closed)
	case <-e.closed:
	}
}

// Add makes a stopped thread a target. Its registers, extended state and mask
// are what it returns to after every tape.
func (e *Engine) Add(th *Thread, s Slice) {
	e.targets[th.TID] = &target{tid: th.TID, slice: s, raw: th.Regs, orig: th.Regs, xstate: th.XState, mask: th.SigMask}
}

// Remove forgets a thread.
func (e *Engine) Remove(tid HostPID) { delete(e.targets, tid) }

// job is the work of one thread: its tapes, in order.
type job struct {
	t       *target
	tapes   []*tapeRun
	err     error
	chunk   chunk
	running bool
}

// RunTapes runs tapes in their threads, all at the same time, and waits for
// all of them.
func (e *Engine) RunTapes(ctx context.Context, runs []tape.Run) ([]tape.Outcome, error) {
	if err := e.acquire(ctx); err != nil {
		return nil, err
	}
	defer e.release()
	return e.run(ctx, runs)
}

// run is RunTapes for a caller that has the turn.
func (e *Engine) run(ctx context.Context, runs []tape.Run) ([]tape.Outcome, error) {
	out := make([]tape.Outcome, len(runs))
	jobs := map[HostPID]*job{}
	var order []*job
	for i, r := range runs {
		tr, err := newTapeRun(r.Tape, &out[i])
		if err != nil {
			return nil, fmt.Errorf("tape for task %d: %w", r.TID, err)
		}
		t := e.targets[HostPID(r.TID)]
		if t == nil {
			return nil, fmt.Errorf("tape for task %d: not a stopped task of the tree: %w", r.TID, sdk.ErrTaskGone)
		}
		j := jobs[t.tid]
		if j == nil {
			j = &job{t: t}
			jobs[t.tid], order = j, append(order, j)
		}
		j.tapes = append(j.tapes, tr)
	}
	for {
		active := order[:0:0]
		for _, j := range order {
			if j.next() {
				active = append(active, j)
			}
		}
		if len(active) == 0 {
			return out, nil
		}
		if err := e.round(ctx, active); err != nil {
			return nil, err
		}
	}
}

// next prepares the next chunk of a job and tells whether there is one.
func (j *job) next() bool {
	for len(j.tapes) > 0 {
		cur := j.tapes[0]
		if j.err != nil {
			cur.out.Err = j.err
		}
		if cur.done() {
			cur.finish()
			j.tapes = j.tapes[1:]
			continue
		}
		return true
	}
	return false
}

// round runs one chunk in every thread.
func (e *Engine) round(ctx context.Context, jobs []*job) error {
	err := e.tracer.Do(func() error {
		for _, j := range jobs {
			j.start()
		}
		return nil
	})
	if err != nil {
		return err
	}
	// The tapes run: the tracer is free for others meanwhile.
	for _, j := range jobs {
		e.await(ctx, j)
	}
	return e.tracer.Do(func() error {
		for _, j := range jobs {
			j.interrupt()
		}
		for _, j := range jobs {
			j.collect(ctx)
		}
		return nil
	})
}

// fail gives up on the tapes of a thread. A thread that runs is still to be
// stopped and given its registers back.
func (j *job) fail(err error) {
	if j.err == nil {
		j.err = fmt.Errorf("task %d: %w", j.t.tid, err)
		j.tapes[0].out.Err = j.err
	}
}

// start lets the thread run a chunk. The order is the crash rule's: from the
// moment that the registers are set, the thread gets back by itself.
func (j *job) start() {
	t := j.t
	c, err := j.tapes[0].place(t)
	if err != nil {
		j.fail(err)
		return
	}
	j.chunk = c
	regs, err := arch.PlaceTape(t.slice.Mem, t.slice.Addr, t.slice.Code, c.count, t.raw, t.xstate, t.mask, parkTime)
	if err != nil {
		j.fail(err)
		return
	}
	if err = arch.SetRegs(int(t.tid), &regs); err == nil {
		if err = setSignalMask(t.tid, allSignals); err == nil {
			err = cont(t.tid, 0)
		}
		t.lost = err != nil
	}
	if err != nil {
		j.fail(fmt.Errorf("start tape: %w", err))
		return
	}
	j.running = true
}

func (j *job) interrupt() {
	if !j.running {
		return
	}
	if err := interrupt(j.t.tid); err != nil {
		j.fail(fmt.Errorf("interrupt: %w", err))
		j.running, j.t.lost = false, true
	}
}

// collect waits for the thread, which is parked at the end of its tape, and
// gives it its own registers back.
func (j *job) collect(ctx context.Context) {
	if !j.running {
		return
	}
	j.running = false
	t := j.t
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), freezeTime)
	defer cancel()
	for {
		s, err := waitStop(ctx, t.tid)
		if err != nil {
			t.lost = true
			j.fail(err)
			return
		}
		if s.ended() {
			j.fail(sdk.ErrTaskGone)
			return
		}
		if s.isEventStop() {
			break
		}
		if err := t.pass(s); err != nil {
			t.lost = true
			j.fail(err)
			return
		}
	}
	regs, err := arch.GetRegs(int(t.tid))
	if err != nil {
		j.fail(err)
		return
	}
	if !inCode(regs.PC(), t.slice.Code) {
		j.fail(errors.Join(fmt.Errorf("returned to its own work before the host could stop it: %w", sdk.ErrTimeout), t.reread()))
		return
	}
	if err := t.takeBack(); err != nil {
		t.lost = true
		j.fail(err)
		return
	}
	if j.err == nil {
		j.tapes[0].collect(t, j.chunk)
	}
}

// inCode tells whether a program counter is in the interpreter.
func inCode(pc, code uint64) bool { return pc >= code && pc < code+codeSize }

// takeBack gives a stopped thread its own mask and registers.
func (t *target) takeBack() error {
	if err := setSignalMask(t.tid, t.mask); err != nil {
		return err
	}
	return arch.SetRegs(int(t.tid), &t.orig)
}

// reread takes note of where a thread stands that got back to its own work: its
// old registers must not be given to it again.
func (t *target) reread() error {
	th := &Thread{TID: t.tid}
	if err := readThread(th); err != nil {
		t.lost = true
		return err
	}
	t.raw, t.orig, t.xstate, t.mask = th.Regs, th.Regs, th.XState, th.SigMask
	return nil
}

// pass lets a thread go on in the middle of injected work. A signal that
// cannot be blocked (SIGSTOP) is kept for later, and note is taken of a task that
// it has created.
func (t *target) pass(s stop) error {
	switch {
	case s.isSignal():
		t.postponed = append(t.postponed, s.signal())
	case s.isNewTask():
		msg, err := eventMessage(t.tid)
		if err != nil {
			return err
		}
		t.born = HostPID(msg)
	}
	return cont(t.tid, 0)
}

// resend sends what was kept again, to a thread that is still stopped.
func (t *target) resend() error {
	var errs []error
	for _, sig := range t.postponed {
		errs = append(errs, unix.Tgkill(tgidOf(t.tid), int(t.tid), sig))
	}
	t.postponed = nil
	return errors.Join(errs...)
}
