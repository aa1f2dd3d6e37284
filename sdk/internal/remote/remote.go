// Package remote carries errors over the wire between plugin and host.
//
// The sentinels of package sdk, an errno and a [tape.CallError] of the chain
// survive: errors.Is and errors.As find them on the other side. The text
// survives as it is; everything else of the chain is lost.
package remote

import (
	"context"
	"errors"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/firn-cr/firn/sdk/hbuf"
	"github.com/firn-cr/firn/sdk/internal/sentinel"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
	"github.com/firn-cr/firn/sdk/tape"
)

// table maps each code to its sentinel. The first match of a chain becomes
// the code of the message, the others go into its also field.
var table = []struct {
	code pb.Error_Code
	err  error
	grpc codes.Code
}{
	{pb.Error_CODE_UNSUPPORTED, sentinel.ErrUnsupported, codes.FailedPrecondition},
	{pb.Error_CODE_CORRUPT, sentinel.ErrCorrupt, codes.DataLoss},
	{pb.Error_CODE_VERSION, sentinel.ErrVersion, codes.FailedPrecondition},
	{pb.Error_CODE_TASK_GONE, sentinel.ErrTaskGone, codes.NotFound},
	{pb.Error_CODE_NOT_PERMITTED, sentinel.ErrNotPermitted, codes.PermissionDenied},
	{pb.Error_CODE_KERNEL, sentinel.ErrKernel, codes.FailedPrecondition},
	{pb.Error_CODE_TIMEOUT, sentinel.ErrTimeout, codes.DeadlineExceeded},
	{pb.Error_CODE_IN_USE, sentinel.ErrInUse, codes.AlreadyExists},
	{pb.Error_CODE_CHANGED, sentinel.ErrChanged, codes.FailedPrecondition},
	{pb.Error_CODE_ABORTED, sentinel.ErrAborted, codes.Aborted},
}

// maxAlso bounds what is taken from a message of the other side.
const maxAlso = 16

// Encode returns the message for err, or nil if err is nil.
func Encode(err error) *pb.Error {
	if err == nil {
		return nil
	}
	m := &pb.Error{Text: strings.ToValidUTF8(err.Error(), "?")}
	var found []pb.Error_Code
	for _, e := range table {
		if errors.Is(err, e.err) || implies(err, e.code) {
			found = append(found, e.code)
		}
	}
	var call *tape.CallError
	if errors.As(err, &call) {
		found = append(found, pb.Error_CODE_TAPE_CALL)
		m.TapeIndex, m.TapeNr, m.Errno = int32(call.Index), int32(call.Nr), int32(call.Errno)
	}
	var errno syscall.Errno
	if m.Errno == 0 && errors.As(err, &errno) {
		m.Errno = int32(errno)
	}
	if len(found) > 0 {
		m.Code, m.Also = found[0], found[1:]
	}
	return m
}

// implies tells whether an error of package context or hbuf means a code.
func implies(err error, code pb.Error_Code) bool {
	switch code {
	case pb.Error_CODE_TIMEOUT:
		return errors.Is(err, context.DeadlineExceeded)
	case pb.Error_CODE_ABORTED:
		return errors.Is(err, context.Canceled) || errors.Is(err, hbuf.ErrClosed)
	case pb.Error_CODE_CORRUPT:
		return errors.Is(err, hbuf.ErrCorrupt) || errors.Is(err, hbuf.ErrProtocol)
	}
	return false
}

// Decode returns the error of a message, or nil if m is nil. Unknown codes are
// dropped: a newer peer may know more.
func Decode(m *pb.Error) error {
	if m == nil {
		return nil
	}
	e := &Error{text: m.GetText()}
	also := m.GetAlso()
	if len(also) > maxAlso {
		also = also[:maxAlso]
	}
	errno := syscall.Errno(0)
	if n := m.GetErrno(); n > 0 && n < 4096 {
		errno = syscall.Errno(n)
	}
	isCall := false
	for _, code := range append([]pb.Error_Code{m.GetCode()}, also...) {
		if code == pb.Error_CODE_TAPE_CALL {
			isCall = true
			continue
		}
		for _, t := range table {
			if t.code == code {
				e.chain = append(e.chain, t.err)
			}
		}
	}
	switch {
	case isCall:
		e.chain = append(e.chain, &tape.CallError{Index: int(m.GetTapeIndex()), Nr: int(m.GetTapeNr()), Errno: errno})
	case errno != 0:
		e.chain = append(e.chain, errno)
	}
	if e.text == "" {
		e.text = "error without text"
	}
	return e
}

// Error is an error of the other side.
type Error struct {
	text  string
	chain []error
}

// Error returns the text of the original error.
func (e *Error) Error() string { return e.text }

// Unwrap returns the sentinels, the errno and the failed call of a tape.
func (e *Error) Unwrap() []error { return e.chain }

// Status turns err into a gRPC status error with the message as its detail. A
// nil err stays nil.
func Status(err error) error {
	if err == nil {
		return nil
	}
	m := Encode(err)
	code := codes.Unknown
	for _, t := range table {
		if t.code == m.GetCode() {
			code = t.grpc
		}
	}
	st := status.New(code, m.GetText())
	if detailed, derr := st.WithDetails(m); derr == nil {
		st = detailed
	}
	return st.Err()
}

// FromStatus is the inverse of Status. An error that is no status, or a status
// without our detail, keeps its text and gets the sentinel that its code
// stands for.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, d := range st.Details() {
		if m, ok := d.(*pb.Error); ok {
			return Decode(m)
		}
	}
	e := &Error{text: st.Message(), chain: []error{err}}
	switch st.Code() {
	case codes.DeadlineExceeded:
		e.chain = append(e.chain, sentinel.ErrTimeout, context.DeadlineExceeded)
	case codes.Canceled:
		e.chain = append(e.chain, sentinel.ErrAborted, context.Canceled)
	case codes.Unimplemented:
		e.chain = append(e.chain, sentinel.ErrVersion)
	}
	if e.text == "" {
		e.text = st.Code().String()
	}
	return e
}
