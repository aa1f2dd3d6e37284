// Package semadj reads and sets semaphore adjustments: what the kernel adds to
// System V semaphores when a process ends, for operations with SEM_UNDO (semop(2)).
//
// No call tells them. But the kernel refuses an operation that would take an
// adjustment out of its range (ERANGE), and an array of operations is done as a
// whole or not at all (ipc/sem.c, perform_atomic_semop_slow). So an array that
// lowers the adjustment by some number, and ends with an operation that can never
// be done at once (EAGAIN), changes nothing and tells whether the number fits: a
// few of these find the adjustment.
package semadj

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/tape"
)

const (
	// maxValue is the largest value of a semaphore and step of an operation
	// (SEMVMX, linux/sem.h).
	maxValue = 32767
	// lowest is the lowest adjustment, maxValue the highest (SEMAEM).
	lowest = -maxValue - 1
	// steps is how many different adjustments there are.
	steps = 2 * (maxValue + 1)
	// semUndo is SEM_UNDO (linux/sem.h).
	semUndo = 0x1000
	// chunk bounds the semaphores of one tape.
	chunk = 2048
)

// ErrUnreadable is the error when the task may not do operations on the
// semaphore, or not enough of them at once (the third value of kernel.sem).
var ErrUnreadable = errors.New("the task may not change the semaphore")

// ErrBusy is the error when a semaphore is changed all the time by others.
var ErrBusy = errors.New("the semaphore is changed meanwhile")

// Semaphore is one semaphore of a set.
type Semaphore struct {
	Set    int32
	Number int
	Value  int
}

// Adjustment is what is added to a semaphore when the process of a thread ends.
type Adjustment struct {
	Semaphore
	TID int
	By  int
	// Err is why it is not known: ErrUnreadable or ErrBusy.
	Err error
}

// question is a semaphore and a thread of which the answer is not known yet.
type question struct {
	Adjustment
	low, high int // By-lowest is at least low and less than high
}

// Read returns the adjustments that are not 0, and those that are not known. The threads, one of each process,
// must stand still, and are asked by tapes; the semaphores must be of their IPC
// namespace. Nothing changes, but that the threads have a list of adjustments
// afterwards, an empty one.
func Read(ctx context.Context, host sdk.Host, tids []int, semaphores []Semaphore) ([]Adjustment, error) {
	var found []Adjustment
	for len(semaphores) > 0 {
		n := min(len(semaphores), chunk)
		var open []*question
		for _, tid := range tids {
			for _, s := range semaphores[:n] {
				open = append(open, &question{Adjustment: Adjustment{Semaphore: s, TID: tid}, high: steps})
			}
		}
		some, err := search(ctx, host, open)
		if err != nil {
			return nil, err
		}
		found, semaphores = append(found, some...), semaphores[n:]
	}
	return found, nil
}

// Apart returns the indexes of threads that do not share the adjustments of the
// first one (CLONE_SYSVSEM; unshare(2)), and may have some.
func Apart(tids []int) ([]int, error) {
	var apart []int
	for i, tid := range tids[1:] {
		same, err := kern.SameUndo(tids[0], tid)
		if err != nil {
			return nil, err
		}
		if same {
			continue
		}
		may, err := kern.MayUndo(tid)
		if err != nil {
			return nil, err
		}
		if may {
			apart = append(apart, i+1)
		}
	}
	return apart, nil
}

// search asks until every answer is known.
func search(ctx context.Context, host sdk.Host, open []*question) ([]Adjustment, error) {
	// Most are 0: two probes see that.
	nearZero := func(*question) []int { return []int{-lowest, -lowest + 1} }
	halve := func(q *question) []int { return []int{(q.low + q.high) / 2} }
	var found []Adjustment
	for next := nearZero; len(open) > 0; next = halve {
		if err := ask(ctx, host, open, next); err != nil {
			return nil, err
		}
		left := open[:0]
		for _, q := range open {
			switch {
			case q.Err != nil:
				found = append(found, q.Adjustment)
			case q.high-q.low > 1:
				left = append(left, q)
			case q.low+lowest != 0:
				q.By = q.low + lowest
				found = append(found, q.Adjustment)
			}
		}
		open = left
	}
	return found, nil
}

// probe is what one question became in a tape.
type probe struct {
	q             *question
	before, after tape.Result
	by            []int
	calls         []tape.Result
}

// ask puts one round of questions.
func ask(ctx context.Context, host sdk.Host, open []*question, next func(*question) []int) error {
	tapes := map[int]*tape.Tape{}
	var runs []tape.Run
	probes := map[int][]probe{}
	for _, q := range open {
		t := tapes[q.TID]
		if t == nil {
			t = &tape.Tape{}
			tapes[q.TID] = t
			runs = append(runs, tape.Run{TID: q.TID, Tape: t})
		}
		p := probe{q: q, by: next(q), before: value(t, q.Semaphore)}
		for _, by := range p.by {
			p.calls = append(p.calls, try(t, q.Semaphore, lowering(q.Semaphore, by)))
		}
		p.after = value(t, q.Semaphore)
		probes[q.TID] = append(probes[q.TID], p)
	}
	outcomes, err := host.RunTapes(ctx, runs)
	if err != nil {
		return err
	}
	if len(outcomes) != len(runs) {
		return fmt.Errorf("%d outcomes of %d tapes: %w", len(outcomes), len(runs), sdk.ErrCorrupt)
	}
	for i, r := range runs {
		if err := outcomes[i].Err; err != nil {
			return err
		}
		for _, p := range probes[r.TID] {
			err := p.answer(&outcomes[i])
			switch {
			case errors.Is(err, ErrUnreadable) || errors.Is(err, ErrBusy):
				p.q.Err = err
			case err != nil:
				return fmt.Errorf("semaphore %d of %d: %w", p.q.Number, p.q.Set, err)
			}
		}
	}
	return nil
}

// answer takes the answers over.
func (p *probe) answer(o *tape.Outcome) error {
	for _, r := range []tape.Result{p.before, p.after} {
		v, err := o.Value(r)
		switch {
		case errors.Is(err, unix.EIDRM) || errors.Is(err, unix.EINVAL):
			p.q.low, p.q.high = -lowest, -lowest+1 // removed, and the adjustments with it
			return nil
		case errors.Is(err, unix.EACCES):
			return ErrUnreadable
		case err != nil:
			return err
		case int(v) != p.q.Value:
			return ErrBusy
		}
	}
	for i, r := range p.calls {
		switch _, err := o.Value(r); {
		case errors.Is(err, unix.EAGAIN):
			p.q.low = max(p.q.low, p.by[i])
		case errors.Is(err, unix.ERANGE):
			p.q.high = min(p.q.high, p.by[i])
		case errors.Is(err, unix.EACCES) || errors.Is(err, unix.E2BIG):
			return ErrUnreadable
		case err != nil:
			return err
		default:
			return fmt.Errorf("an operation that cannot be done was done: %w", sdk.ErrKernel)
		}
	}
	return nil
}

// operation is a struct sembuf but for the number.
type operation struct {
	by    int
	flags int
}

// lowering are operations that lower an adjustment by n and cannot be done.
func lowering(s Semaphore, n int) []operation {
	ops := []operation{{-s.Value, 0}}
	for n > 0 {
		k := min(n, maxValue)
		ops = append(ops, operation{k, semUndo}, operation{-k, 0})
		n -= k
	}
	return append(ops, operation{-1, unix.IPC_NOWAIT})
}

// Set is a tape that gives a process without adjustments of a semaphore one, and
// leaves the value as it is. With By 0 the process only becomes the last one that
// changed the semaphore, as it does otherwise.
func Set(t *tape.Tape, a Adjustment) {
	ops := []operation{{-a.Value, 0}}
	n, up := a.By, operation{0, semUndo}
	down := operation{0, 0}
	if n > 0 {
		up, down = down, up
	}
	for n = max(n, -n); n > 0; {
		k := min(n, maxValue)
		ops = append(ops, operation{k, up.flags}, operation{-k, down.flags})
		n -= k
	}
	if a.By == 0 {
		ops = append(ops, operation{1, 0}, operation{-1, 0})
	}
	ops = append(ops, operation{a.Value, 0})
	b, count := encode(a.Semaphore, ops)
	t.Call(unix.SYS_SEMOP, tape.Imm(a.Set), t.Bytes(b).Arg(), tape.Imm(count))
}

func value(t *tape.Tape, s Semaphore) tape.Result {
	const getVal = 12 // GETVAL, linux/sem.h
	return t.Try(unix.SYS_SEMCTL, tape.Imm(s.Set), tape.Imm(s.Number), tape.Imm(getVal))
}

func try(t *tape.Tape, s Semaphore, ops []operation) tape.Result {
	b, count := encode(s, ops)
	return t.Try(unix.SYS_SEMOP, tape.Imm(s.Set), t.Bytes(b).Arg(), tape.Imm(count))
}

// encode makes an array of struct sembuf. An operation of 0 would wait.
func encode(s Semaphore, ops []operation) (b []byte, count int) {
	for _, o := range ops {
		if o.by == 0 {
			continue
		}
		b = binary.NativeEndian.AppendUint16(b, uint16(s.Number))
		b = binary.NativeEndian.AppendUint16(b, uint16(int16(o.by)))
		b = binary.NativeEndian.AppendUint16(b, uint16(o.flags))
		count++
	}
	return b, count
}
