package semadj

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// model is one semaphore and one process, as ipc/sem.c treats them.
type model struct {
	sdk.Host
	value, adjustment int
	denied            bool
	changing          bool
}

func (m *model) RunTapes(_ context.Context, runs []tape.Run) ([]tape.Outcome, error) {
	out := make([]tape.Outcome, len(runs))
	for i, r := range runs {
		for _, c := range r.Tape.Calls {
			result := int64(m.value)
			if c.Nr == unix.SYS_SEMOP {
				at := c.Args[1].Value
				result = -int64(m.operate(r.Tape.Data[at : at+6*c.Args[2].Value]))
			}
			if m.denied {
				result = -int64(unix.EACCES)
			}
			out[i].Results = append(out[i].Results, result)
		}
		if m.changing {
			m.value++
		}
	}
	return out, nil
}

// operate is perform_atomic_semop_slow.
func (m *model) operate(ops []byte) unix.Errno {
	value, adjustment := m.value, m.adjustment
	for ; len(ops) > 0; ops = ops[6:] {
		by := int(int16(binary.NativeEndian.Uint16(ops[2:])))
		value += by
		if value < 0 {
			return unix.EAGAIN
		}
		if value > maxValue {
			return unix.ERANGE
		}
		if binary.NativeEndian.Uint16(ops[4:])&semUndo != 0 {
			if adjustment -= by; adjustment < lowest || adjustment > maxValue {
				return unix.ERANGE
			}
		}
	}
	m.value, m.adjustment = value, adjustment
	return 0
}

// TestReadAndSet: every kind of adjustment is found, and set, at every kind of
// value, and neither changes anything else.
func TestReadAndSet(t *testing.T) {
	for _, by := range []int{lowest, lowest + 1, -1000, -1, 0, 1, 2, 1000, maxValue - 1, maxValue} {
		for _, value := range []int{0, 1, 500, maxValue} {
			m := &model{value: value, adjustment: by}
			s := Semaphore{Set: 3, Number: 1, Value: value}
			found, err := Read(t.Context(), m, []int{7}, []Semaphore{s})
			if err != nil {
				t.Fatalf("%d at %d: %v", by, value, err)
			}
			switch {
			case by == 0 && len(found) != 0, by != 0 && (len(found) != 1 || found[0] != Adjustment{Semaphore: s, TID: 7, By: by}):
				t.Errorf("%d at %d: found %v", by, value, found)
			case m.value != value || m.adjustment != by:
				t.Errorf("%d at %d: changed to %d at %d", by, value, m.adjustment, m.value)
			}
			fresh := &model{value: value}
			set := &tape.Tape{}
			Set(set, Adjustment{Semaphore: s, TID: 7, By: by})
			out, err := fresh.RunTapes(t.Context(), []tape.Run{{TID: 7, Tape: set}})
			if err != nil || out[0].Results[0] != 0 || fresh.value != value || fresh.adjustment != by {
				t.Errorf("set to %d at %d: result %d, %d at %d: %v", by, value, out[0].Results[0], fresh.adjustment, fresh.value, err)
			}
		}
	}
}

// TestReadRefused: what cannot be known is an error, not a guess.
func TestReadRefused(t *testing.T) {
	for name, c := range map[string]struct {
		model *model
		want  error
	}{
		"no right":     {&model{denied: true}, ErrUnreadable},
		"other value":  {&model{value: 2}, ErrBusy},
		"changed then": {&model{changing: true, adjustment: 5}, ErrBusy},
	} {
		found, err := Read(t.Context(), c.model, []int{7}, []Semaphore{{Set: 3}})
		if err != nil || len(found) != 1 || !errors.Is(found[0].Err, c.want) {
			t.Errorf("%s: %v, %v, want %v", name, found, err, c.want)
		}
	}
}
