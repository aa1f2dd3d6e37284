package serve

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// Config is what a supervisor needs.
type Config struct {
	// Socket is the path of the socket; its directory is made if need be.
	Socket string
	// Workers is how many are kept ready.
	Workers int
	// Command is the command line of a worker, which is a [Worker].
	Command []string
	Log     hclog.Logger
	// Ready is called when the first worker is.
	Ready func()
}

// restTime is how long a replacement waits for a busy worker to end: starting
// plugins meanwhile would take the processors from it.
const restTime = time.Second

// supervisor keeps workers ready.
type supervisor struct {
	cfg      Config
	listener *os.File
	events   chan event
	running  int
	ready    bool // was there ever a worker that was ready
	failed   int  // workers that ended before they were, since the last that was
}

// maxFailed is how many workers in a row may fail to get ready.
const maxFailed = 3

// event is something that a worker said; what is 0 when it has ended.
type event struct {
	w    *worker
	what byte
}

// worker is a process.
type worker struct {
	cmd      *exec.Cmd
	control  *os.File
	replaced bool // it needs no replacement when it ends: it has one
	ready    bool
	busy     bool
	exit     error
}

// Supervise listens and keeps workers ready until ctx ends. Then nobody is
// accepted any more, idle workers end, and busy ones finish their command before
// it returns. The socket is removed.
func Supervise(ctx context.Context, cfg Config) (err error) {
	fd, err := listen(cfg.Socket)
	if err != nil {
		return err
	}
	s := &supervisor{cfg: cfg, listener: os.NewFile(uintptr(fd), "listener"), events: make(chan event)}
	defer func() { err = errors.Join(err, s.listener.Close()) }()
	defer func() { err = errors.Join(err, os.Remove(cfg.Socket)) }()
	workers := map[*worker]bool{}
	defer func() {
		for w := range workers {
			w.control.Close() // ends it if it is idle
		}
		for s.running > 0 {
			s.handle(<-s.events)
		}
	}()
	replace := make(chan *worker)
	for range cfg.Workers {
		if err := s.start(workers); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case w := <-replace:
			if w.replaced {
				continue
			}
			w.replaced = true
			if err := s.start(workers); err != nil {
				return err
			}
		case e := <-s.events:
			s.handle(e)
			switch {
			case e.what == isBusy:
				time.AfterFunc(restTime, func() {
					select {
					case replace <- e.w:
					case <-ctx.Done():
					}
				})
			case e.what == 0:
				delete(workers, e.w)
				e.w.control.Close()
				if s.failed > maxFailed {
					return fmt.Errorf("workers do not get ready: %w", e.w.exit)
				}
				if e.w.replaced {
					continue
				}
				e.w.replaced = true
				if err := s.start(workers); err != nil {
					return err
				}
			}
		}
	}
}

// handle takes note of what a worker said.
func (s *supervisor) handle(e event) {
	log := s.cfg.Log.With("worker", e.w.cmd.Process.Pid)
	switch e.what {
	case isReady:
		e.w.ready, s.failed = true, 0
		log.Debug("worker is ready")
		if !s.ready && s.cfg.Ready != nil {
			s.cfg.Ready()
		}
		s.ready = true
	case isBusy:
		e.w.busy = true
		log.Debug("worker has a command")
	case 0:
		s.running--
		if !e.w.ready {
			s.failed++
		}
		if e.w.exit != nil {
			log.Warn("worker ended", "error", e.w.exit)
		}
	}
}

// start starts a worker.
func (s *supervisor) start(workers map[*worker]bool) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("start a worker: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	// Ours does not block, so that closing it ends a read.
	if err := unix.SetNonblock(pair[0], true); err != nil {
		return errors.Join(fmt.Errorf("start a worker: %w", err), unix.Close(pair[0]))
	}
	w := &worker{control: os.NewFile(uintptr(pair[0]), "control")}
	// The file that runs, even if its path leads to another one by now.
	w.cmd = exec.Command("/proc/self/exe", s.cfg.Command[1:]...)
	w.cmd.Args[0] = s.cfg.Command[0]
	w.cmd.Stderr = os.Stderr
	w.cmd.ExtraFiles = []*os.File{s.listener, theirs}
	if err := w.cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start a worker: %w", err), w.control.Close())
	}
	workers[w] = true
	s.running++
	go s.read(w)
	return nil
}

// read reports what a worker says, and its end.
func (s *supervisor) read(w *worker) {
	told := make([]byte, 1)
	for {
		if n, err := w.control.Read(told); err != nil || n == 0 {
			break
		}
		s.events <- event{w, told[0]}
	}
	w.exit = w.cmd.Wait()
	s.events <- event{w, 0}
}

// listen makes the socket, for its owner only. What a supervisor that was killed
// left behind is replaced; one that lives is not disturbed.
func listen(path string) (_ int, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
	}()
	// bind(2) takes the mode of the new name from that of the socket: there is no
	// moment in which others could connect.
	if err := unix.Fchmod(fd, 0o600); err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	if errors.Is(err, unix.EADDRINUSE) {
		if err := removeStale(path); err != nil {
			return -1, err
		}
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		return -1, fmt.Errorf("bind %s: %w", path, err)
	}
	if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
		return -1, fmt.Errorf("listen on %s: %w", path, errors.Join(err, os.Remove(path)))
	}
	return fd, nil
}

// removeStale removes a socket to which nobody listens.
func removeStale(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	switch err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); {
	case err == nil, errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("%s: firn serve runs already", path)
	case !errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("%s is there and is no socket of firn's: %w", path, err)
	}
	return os.Remove(path)
}
