package sdktest

import (
	"runtime"
	"syscall"
	"unsafe"

	"github.com/firn-cr/firn/sdk/tape"
)

// Execute runs a tape in the calling process, on a thread that is thrown away,
// whatever thread the run names: what a call changes in the thread (its
// credentials, name, timers) does not outlive it, but what it changes in the
// process does. Use it as [Host.Tapes] for tapes that read or that open
// descriptors.
func Execute(run tape.Run) tape.Outcome {
	done := make(chan tape.Outcome, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- execute(run.Tape)
	}()
	return <-done
}

func execute(t *tape.Tape) tape.Outcome {
	// Calls get addresses of the data area: it must not move, so it is on the
	// heap, with space behind the end for addresses of empty ranges.
	data := make([]byte, len(t.Data)+8)
	copy(data, t.Data)
	out := tape.Outcome{}
	for i, c := range t.Calls {
		var args [6]uintptr
		for n, a := range c.Args {
			switch a.Kind {
			case tape.ArgData:
				args[n] = uintptr(unsafe.Pointer(&data[a.Value]))
			case tape.ArgResult:
				args[n] = uintptr(out.Results[a.Value])
			default:
				args[n] = uintptr(a.Value)
			}
		}
		ret, _, errno := syscall.RawSyscall6(uintptr(c.Nr), args[0], args[1], args[2], args[3], args[4], args[5])
		if errno == 0 {
			out.Results = append(out.Results, int64(ret))
			continue
		}
		out.Results = append(out.Results, -int64(errno))
		if !c.AllowError {
			out.Err = &tape.CallError{Index: i, Nr: c.Nr, Errno: errno}
			break
		}
	}
	out.Data = data[:len(t.Data):len(t.Data)]
	runtime.KeepAlive(data)
	return out
}
