package kern

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// OnThread runs f on a thread that is used for nothing else and ends with f,
// which may therefore change what belongs to a thread: namespaces, credentials,
// the working directory.
func OnThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread never ends, and /proc/self shows what it has.
			// While this goroutine has it, another one gets another thread.
			err := OnThread(f)
			runtime.UnlockOSThread()
			done <- err
			return
		}
		// A goroutine that ends without unlocking takes its thread along.
		done <- f()
	}()
	return <-done
}
