// Package tape builds tapes: tables of system calls that the host runs inside
// a task.
//
// A tape is data. It is built in Go, sent to the host, placed in a region of
// the task's address space and run by a tiny interpreter. An argument of a
// call can be a constant, the address of a byte range that travels with the
// tape (and comes back with it), or the result of an earlier call. A call that
// fails ends the tape unless the call was added by [Tape.Try].
//
// During a checkpoint a tape must leave no trace in the task: use it to read
// what /proc, ptrace and pidfds cannot tell. Do not use system calls that set
// the task's restart block (futex, nanosleep and poll with a timeout): a call
// that was interrupted by the freeze could not go on.
package tape

import (
	"errors"
	"fmt"
	"syscall"
)

// Limits that the host enforces.
const (
	// MaxEntries is the largest number of calls in one tape; the host splits
	// long tapes, so this bounds memory only.
	MaxEntries = 1 << 16
	// MaxData is the largest data area of one tape in bytes. In a checkpoint there
	// is room for 240 KiB in the main thread of a process, and for 11 KiB in other
	// threads; a tape with more fails with sdk.ErrUnsupported.
	MaxData = 8 << 20
)

// ArgKind says how an argument is computed.
type ArgKind uint8

// Kinds of arguments.
const (
	ArgConst  ArgKind = iota // Value as it is
	ArgData                  // address of byte Value of the tape's data area
	ArgResult                // result of call number Value, plus nothing
)

// Arg is one argument of a call. The zero Arg is the constant 0.
type Arg struct {
	Kind  ArgKind
	Value uint64
}

// Call is one entry of a tape.
type Call struct {
	Nr int
	// AllowError lets the tape go on when the call fails.
	AllowError bool
	Args       [6]Arg
}

// Tape is a list of calls and the data that they point to. The zero Tape is
// empty and ready to use.
type Tape struct {
	Calls []Call
	Data  []byte
}

// Result is the number of a call, to be used as an argument of a later one or
// to find its value in an [Outcome].
type Result int

// Ref is a range of a tape's data area.
type Ref struct{ Off, Len int }

// Imm is a constant argument.
func Imm[T ~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr](v T) Arg {
	return Arg{Kind: ArgConst, Value: uint64(v)}
}

// Arg makes the result of an earlier call an argument.
func (r Result) Arg() Arg { return Arg{Kind: ArgResult, Value: uint64(r)} }

// Arg makes the address of the range an argument.
func (r Ref) Arg() Arg { return Arg{Kind: ArgData, Value: uint64(r.Off)} }

// Call appends a system call; the tape ends with an error if it fails.
func (t *Tape) Call(nr int, args ...Arg) Result { return t.add(nr, false, args) }

// Try appends a system call that may fail.
func (t *Tape) Try(nr int, args ...Arg) Result { return t.add(nr, true, args) }

func (t *Tape) add(nr int, allow bool, args []Arg) Result {
	c := Call{Nr: nr, AllowError: allow}
	copy(c.Args[:], args)
	t.Calls = append(t.Calls, c)
	return Result(len(t.Calls) - 1)
}

// Bytes puts a copy of b into the data area, 8-byte aligned.
func (t *Tape) Bytes(b []byte) Ref {
	r := t.Buffer(len(b))
	copy(t.Data[r.Off:], b)
	return r
}

// String puts s with a terminating zero into the data area.
func (t *Tape) String(s string) Ref { return t.Bytes(append([]byte(s), 0)) }

// Buffer reserves n zero bytes of the data area, 8-byte aligned.
func (t *Tape) Buffer(n int) Ref {
	off := (len(t.Data) + 7) &^ 7
	t.Data = append(t.Data, make([]byte, off-len(t.Data)+n)...)
	return Ref{Off: off, Len: n}
}

// Run is a tape for one task. TID is the live thread id.
type Run struct {
	TID  int
	Tape *Tape
}

// Outcome is what a tape left behind.
type Outcome struct {
	// Results has one value per call that was executed: the raw result, a
	// negative errno where the call failed.
	Results []int64
	// Data is the data area after the run.
	Data []byte
	// Err says why the tape did not run to its end: a *CallError if a call
	// failed, else what happened to the task.
	Err error
}

// Value returns the result of a call. The error is a [syscall.Errno] if the
// call failed and ErrNotRun if it was not reached.
func (o *Outcome) Value(r Result) (uint64, error) {
	if int(r) >= len(o.Results) {
		return 0, ErrNotRun
	}
	v := o.Results[r]
	if v < 0 && v >= -4095 {
		return 0, syscall.Errno(-v)
	}
	return uint64(v), nil
}

// Bytes returns the content of a range after the run.
func (o *Outcome) Bytes(r Ref) []byte {
	if r.Off+r.Len > len(o.Data) {
		return nil
	}
	return o.Data[r.Off : r.Off+r.Len]
}

// ErrNotRun is the error of a call that the tape did not reach.
var ErrNotRun = errors.New("tape: call was not reached")

// CallError says which call ended a tape.
type CallError struct {
	Index int
	Nr    int
	Errno syscall.Errno
}

// Error implements error.
func (e *CallError) Error() string {
	return fmt.Sprintf("tape call %d (syscall %d): %v", e.Index, e.Nr, e.Errno)
}

// Unwrap returns the errno.
func (e *CallError) Unwrap() error { return e.Errno }
