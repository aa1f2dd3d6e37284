package task

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// inquiry is a tape that only reads, with what to do with the answers. Answers
// are looked at in the order in which they were asked for. One inquiry asks any
// number of threads.
type inquiry struct {
	tape.Tape
	answers []func(*asked, *tape.Outcome) error
}

// asked is where the answers of a thread go.
type asked struct {
	process *taskpb.Process
	thread  *taskpb.Thread
}

// then adds what to do with the outcome.
func (q *inquiry) then(f func(*asked, *tape.Outcome) error) { q.answers = append(q.answers, f) }

// answer hands the outcome to everything that asked.
func (q *inquiry) answer(of *asked, o *tape.Outcome) error {
	if o.Err != nil {
		return o.Err
	}
	for _, f := range q.answers {
		if err := f(of, o); err != nil {
			return err
		}
	}
	return nil
}

// prctl asks an option of prctl(2) whose answer is the return value. The
// answer is left alone where the kernel does not know the option.
func (q *inquiry) prctl(option int, args []tape.Arg, set func(*asked, uint64)) {
	r := q.Try(unix.SYS_PRCTL, append([]tape.Arg{tape.Imm(option)}, args...)...)
	q.then(func(of *asked, o *tape.Outcome) error {
		if v, err := o.Value(r); err == nil {
			set(of, v)
		}
		return nil
	})
}

// prctlAt asks an option of prctl(2) that stores its answer of size bytes
// where the second argument points to. The answer is left alone where the
// kernel does not know the option.
func (q *inquiry) prctlAt(option, size int, set func(*asked, uint64)) {
	ref := q.Buffer(8)
	r := q.Try(unix.SYS_PRCTL, tape.Imm(option), ref.Arg())
	q.then(func(of *asked, o *tape.Outcome) error {
		if _, err := o.Value(r); err != nil {
			return nil
		}
		b, err := returned(o, ref)
		if err != nil {
			return err
		}
		if size == 4 {
			set(of, uint64(binary.LittleEndian.Uint32(b)))
		} else {
			set(of, binary.LittleEndian.Uint64(b))
		}
		return nil
	})
}

// returned is a range of the tape's data after the run. It may come from a
// host that is broken, so its length is checked.
func returned(o *tape.Outcome, ref tape.Ref) ([]byte, error) {
	b := o.Bytes(ref)
	if len(b) != ref.Len {
		return nil, fmt.Errorf("tape data of %d bytes, want %d at %d: %w", len(o.Data), ref.Len, ref.Off, sdk.ErrCorrupt)
	}
	return b, nil
}
