package kern

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMayUndo: this process has threads, and so a list; a thread that has
// dropped it has none.
func TestMayUndo(t *testing.T) {
	tid, end := make(chan int), make(chan struct{})
	go func() {
		_ = OnThread(func() error {
			if _, err := mayUndo(nil); err != nil {
				t.Error(err)
			}
			tid <- unix.Gettid()
			<-end
			return nil
		})
	}()
	defer close(end)
	dropped := <-tid
	if may, err := MayUndo(dropped); err != nil || may {
		t.Errorf("a thread that has dropped its list: %v, %v", may, err)
	}
	if may, err := MayUndo(dropped, os.Getpid()); err != nil || !may {
		t.Errorf("the main thread: %v, %v", may, err)
	}
}
