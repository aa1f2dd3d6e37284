package task

import (
	"context"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/internal/arch"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

const (
	futexWait = 0 // FUTEX_WAIT without FUTEX_PRIVATE_FLAG: the word is shared
	awaitSpin = 20 * time.Microsecond
	awaitNap  = 20 * time.Millisecond
)

// await waits until the tape of a job has run to its end, the thread is dead,
// or ctx ends. It runs on the caller's goroutine: no ptrace here, but for the
// rare thread that stopped in the middle.
func (e *Engine) await(ctx context.Context, j *job) {
	if !j.running {
		return
	}
	word := (*uint32)(unsafe.Pointer(&j.t.slice.Mem[arch.OffStatus]))
	start := time.Now()
	for atomic.LoadUint32(word) == 0 {
		if time.Since(start) < awaitSpin {
			continue
		}
		ts := unix.NsecToTimespec(int64(awaitNap))
		_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait, 0, uintptr(unsafe.Pointer(&ts)), 0, 0)
		if errno != unix.ETIMEDOUT {
			continue
		}
		if ctx.Err() != nil {
			j.fail(context.Cause(ctx))
			return
		}
		if err := e.tracer.Do(func() error { return j.nudge() }); err != nil {
			j.fail(err)
			return
		}
	}
}

// nudge looks at a thread whose tape takes long: it may have died, or been
// stopped by a signal that cannot be blocked.
func (j *job) nudge() error {
	s, ok, err := pollWait(j.t.tid)
	if err != nil || !ok {
		return err
	}
	if s.ended() {
		return sdk.ErrTaskGone
	}
	return j.t.pass(s)
}

// tgidOf returns the process of a thread, or the thread itself if it is gone.
func tgidOf(tid HostPID) int {
	st, err := procfs.Status(int(tid))
	if err != nil {
		return int(tid)
	}
	return st.Tgid
}
