package sdktest

import (
	"context"
	"fmt"
	"sync"
	"syscall"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// Host is a fake host. The zero Host answers every tape with zeros.
type Host struct {
	// Tapes, if set, answers each tape. It is called by one goroutine at a
	// time. See [Execute].
	Tapes func(run tape.Run) tape.Outcome
	// TapesErr, if set, is the error of every call of RunTapes.
	TapesErr error
	// Tracer, if set, answers for each thread.
	Tracer func(tid int) sdk.TraceInfo

	mu       sync.Mutex
	runs     []tape.Run
	traced   []int
	progress [][2]int64
}

var _ sdk.Host = (*Host)(nil)

// RunTapes implements sdk.Host.
func (h *Host) RunTapes(ctx context.Context, runs []tape.Run) ([]tape.Outcome, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.runs = append(h.runs, runs...)
	if h.TapesErr != nil {
		return nil, h.TapesErr
	}
	out := make([]tape.Outcome, 0, len(runs))
	for _, r := range runs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if h.Tapes != nil {
			out = append(out, h.Tapes(r))
			continue
		}
		out = append(out, tape.Outcome{Results: make([]int64, len(r.Tape.Calls)), Data: r.Tape.Data})
	}
	return out, nil
}

// Trace implements sdk.Host.
func (h *Host) Trace(_ context.Context, tids []int) ([]sdk.TraceInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.traced = append(h.traced, tids...)
	out := make([]sdk.TraceInfo, 0, len(tids))
	for _, tid := range tids {
		info := sdk.TraceInfo{TID: tid}
		if h.Tracer != nil {
			info = h.Tracer(tid)
		}
		out = append(out, info)
	}
	return out, nil
}

// Snapshot implements sdk.Host: nobody can be copied here.
func (h *Host) Snapshot(_ context.Context, pids []int) ([]sdk.Snapshot, error) {
	out := make([]sdk.Snapshot, len(pids))
	for i := range out {
		out[i].Err = fmt.Errorf("a fake host: %w", sdk.ErrUnsupported)
	}
	return out, nil
}

// Progress implements sdk.Host.
func (h *Host) Progress(done, total int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.progress = append(h.progress, [2]int64{done, total})
}

// Runs returns every tape that the plugin ran, in order.
func (h *Host) Runs() []tape.Run {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]tape.Run(nil), h.runs...)
}

// Traced returns the threads that the plugin asked about, in order.
func (h *Host) Traced() []int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]int(nil), h.traced...)
}

// Reports returns the reports of progress, each as done and total.
func (h *Host) Reports() [][2]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([][2]int64(nil), h.progress...)
}

// Fail is the outcome of a tape whose call number index failed; the calls
// before it returned zero.
func Fail(run tape.Run, index int, errno syscall.Errno) tape.Outcome {
	o := tape.Outcome{Results: make([]int64, index+1), Data: run.Tape.Data}
	o.Results[index] = -int64(errno)
	o.Err = &tape.CallError{Index: index, Nr: run.Tape.Calls[index].Nr, Errno: errno}
	return o
}
