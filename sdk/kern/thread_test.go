package kern

import (
	"errors"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOnThread: the main thread is never the one that is changed.
func TestOnThread(t *testing.T) {
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			err := OnThread(func() error {
				if unix.Gettid() == unix.Getpid() {
					t.Error("on the main thread")
				}
				return unix.ENOENT
			})
			if !errors.Is(err, unix.ENOENT) {
				t.Errorf("error %v", err)
			}
		})
	}
	wg.Wait()
}
