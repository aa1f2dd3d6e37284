package task

import (
	"errors"
	"runtime"
	"sync"

	"github.com/hashicorp/go-hclog"
)

// HostPID is the id of a thread or process in the host's PID namespace.
type HostPID int

// ErrClosed is returned by a [Tracer] that was closed.
var ErrClosed = errors.New("tracer is closed")

// Tracer is the one thread that traces. Its methods may be called from any
// goroutine.
type Tracer struct {
	log  hclog.Logger
	work chan func()
	once sync.Once
	quit chan struct{}
	gone chan struct{}
}

// NewTracer starts the thread.
func NewTracer(log hclog.Logger) (*Tracer, error) {
	t := &Tracer{log: log, work: make(chan func()), quit: make(chan struct{}), gone: make(chan struct{})}
	go t.loop()
	return t, nil
}

func (t *Tracer) loop() {
	// The thread is never unlocked: it ends with this goroutine, and with it
	// every attachment that somebody forgot. Tasks then simply run on.
	runtime.LockOSThread()
	defer close(t.gone)
	for {
		select {
		case fn := <-t.work:
			fn()
		case <-t.quit:
			return
		}
	}
}

// Do runs fn on the tracing thread and returns its error. It must not be
// called by fn.
func (t *Tracer) Do(fn func() error) error {
	done := make(chan error, 1)
	select {
	case t.work <- func() { done <- fn() }:
		return <-done
	case <-t.quit:
		return ErrClosed
	}
}

// Close ends the thread. What is still attached is detached by the kernel.
func (t *Tracer) Close() error {
	t.once.Do(func() { close(t.quit) })
	<-t.gone
	return nil
}
