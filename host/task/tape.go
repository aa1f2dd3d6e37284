package task

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/internal/arch"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// tapeRun is a tape on its way through a slice, which may be too small for it:
// then it runs in chunks.
type tapeRun struct {
	tape *tape.Tape
	out  *tape.Outcome
	next int // the first call that has not run
	end  bool
}

// newTapeRun checks a tape: it may come from a plugin.
func newTapeRun(t *tape.Tape, out *tape.Outcome) (*tapeRun, error) {
	if len(t.Calls) > tape.MaxEntries || len(t.Data) > tape.MaxData {
		return nil, fmt.Errorf("%d calls and %d bytes, the limits are %d and %d: %w",
			len(t.Calls), len(t.Data), tape.MaxEntries, tape.MaxData, sdk.ErrCorrupt)
	}
	for i, c := range t.Calls {
		for _, a := range c.Args {
			switch {
			case a.Kind > tape.ArgResult,
				a.Kind == tape.ArgResult && a.Value >= uint64(i),
				a.Kind == tape.ArgData && a.Value > uint64(len(t.Data)):
				return nil, fmt.Errorf("call %d: argument %+v out of range: %w", i, a, sdk.ErrCorrupt)
			}
		}
	}
	out.Data = append([]byte(nil), t.Data...)
	return &tapeRun{tape: t, out: out}, nil
}

func (r *tapeRun) done() bool { return r.end || r.out.Err != nil || r.next == len(r.tape.Calls) }

func (r *tapeRun) finish() { r.end = true }

// chunk is what of a tape is in the slice now.
type chunk struct {
	first, count int
	data         int // offset of the data area in the slice
}

// place writes as many calls as fit into the slice, and the whole data area
// behind them: calls may point anywhere in it.
func (r *tapeRun) place(t *target) (chunk, error) {
	entries := arch.EntriesOffset(len(t.xstate))
	room := len(t.slice.Mem) - entries - len(r.out.Data) - 8
	n := min(len(r.tape.Calls)-r.next, room/arch.EntrySize)
	if n <= 0 {
		return chunk{}, fmt.Errorf("tape with %d bytes of data: the slice has %d: %w", len(r.out.Data), len(t.slice.Mem), sdk.ErrUnsupported)
	}
	c := chunk{first: r.next, count: n, data: (entries + n*arch.EntrySize + 7) &^ 7}
	copy(t.slice.Mem[c.data:], r.out.Data)
	base := t.slice.Addr + uint64(c.data)
	for i := range n {
		call := &r.tape.Calls[c.first+i]
		var args [6]uint64
		var from [6]bool
		for a, arg := range call.Args {
			switch {
			case arg.Kind == tape.ArgData:
				args[a] = base + arg.Value
			case arg.Kind == tape.ArgResult && int(arg.Value) >= c.first:
				args[a], from[a] = arg.Value-uint64(c.first), true
			case arg.Kind == tape.ArgResult: // of an earlier chunk: known by now
				args[a] = uint64(r.out.Results[arg.Value])
			default:
				args[a] = arg.Value
			}
		}
		at := entries + i*arch.EntrySize
		arch.EncodeEntry(t.slice.Mem[at:at+arch.EntrySize], call.Nr, call.AllowError, args, from)
	}
	return c, nil
}

// collect reads results and data back.
func (r *tapeRun) collect(t *target, c chunk) {
	entries := arch.EntriesOffset(len(t.xstate))
	ran := min(int(binary.LittleEndian.Uint64(t.slice.Mem[arch.OffProgress:])), c.count)
	for i := range ran {
		at := entries + i*arch.EntrySize
		res := arch.EntryResult(t.slice.Mem[at : at+arch.EntrySize])
		r.out.Results = append(r.out.Results, res)
		if call := r.tape.Calls[c.first+i]; res < 0 && res >= -4095 && !call.AllowError {
			r.out.Err = &tape.CallError{Index: c.first + i, Nr: call.Nr, Errno: unix.Errno(-res)}
		}
	}
	copy(r.out.Data, t.slice.Mem[c.data:])
	r.next += ran
	if ran < c.count && r.out.Err == nil {
		r.out.Err = fmt.Errorf("tape ended after %d of %d calls: %w", r.next, len(r.tape.Calls), sdk.ErrTaskGone)
	}
}
