package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Descriptors of a worker.
const (
	fdListener = 3 // the socket on which it accepts one connection
	fdControl  = 4 // to the supervisor; its end of file ends an idle worker
)

// Execute runs a command line and returns its exit status, or why it has to be
// done elsewhere, if nothing was done. It ends early when ctx does.
type Execute func(ctx context.Context, args []string) (status int, declined error)

// NewWorker makes a worker of this process, which a supervisor has started: what
// the process starts from now on does not inherit what is the worker's.
func NewWorker() Worker {
	unix.CloseOnExec(fdListener)
	unix.CloseOnExec(fdControl)
	return Worker{}
}

// Worker serves one command.
type Worker struct{}

// Work waits for one command that it may serve, runs it, and returns. The caller
// has made ready what is to be warm.
func (Worker) Work(execute Execute) error {
	program, err := self()
	if err != nil {
		return err
	}
	if err := tell(isReady); errors.Is(err, unix.EPIPE) {
		return nil // the supervisor has ended
	} else if err != nil {
		return err
	}
	for {
		conn, err := next()
		if err != nil {
			return err
		}
		if conn < 0 {
			return nil
		}
		served, err := serveOne(conn, program, execute)
		_ = unix.Close(conn)
		if served {
			return err
		}
		// Nothing was done for this one: the next, please.
	}
}

// next waits for a connection; -1 if the supervisor has ended.
func next() (int, error) {
	for {
		fds := []unix.PollFd{{Fd: fdListener, Events: unix.POLLIN}, {Fd: fdControl, Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return -1, fmt.Errorf("wait for a command: %w", err)
		case fds[1].Revents != 0:
			return -1, nil
		}
		// The listener does not block: another worker may have been faster.
		conn, _, err := unix.Accept4(fdListener, unix.SOCK_CLOEXEC)
		switch {
		case err == nil:
			return conn, nil
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
		default:
			return -1, fmt.Errorf("accept a command: %w", err)
		}
	}
}

// askTime bounds the arrival of a request, and of the reply's delivery.
var askTime = unix.Timeval{Sec: 5}

// serveOne runs the command of a connection. It reports false if nothing was
// done for it.
func serveOne(conn int, program program, execute Execute) (served bool, err error) {
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, option, &askTime); err != nil {
			return false, fmt.Errorf("socket: %w", err)
		}
	}
	// The request is taken out in any case: closing a connection with something
	// unread in it resets it, and the reply is lost (unix_release_sock in
	// net/unix/af_unix.c).
	var r request
	files, err := receive(conn, &r)
	defer func() { closeAll(files) }()
	switch {
	case err != nil:
		return false, decline(conn, err)
	case len(files) != requestFiles || !Served(r.Args):
		return false, decline(conn, errors.New("firn serve does not serve this command"))
	case r.Program != program:
		return false, decline(conn, errors.New("firn serve is another version: start it again"))
	}
	if err := checkPeer(conn); err != nil {
		return false, decline(conn, err)
	}
	if r.Args[0] == "restore" {
		// The tasks begin where this process is.
		if err := checkGroups(conn); err != nil {
			return false, decline(conn, err)
		}
	}
	if err := tell(isBusy); err != nil {
		return true, err
	}
	if err := become(&r, files); err != nil {
		return true, decline(conn, err)
	}
	closeAll(files)
	files = nil
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go watch(conn, cancel)
	status, declined := execute(ctx, r.Args)
	if declined != nil {
		return true, decline(conn, declined)
	}
	if err := send(conn, &reply{Status: status}); err != nil {
		return true, err
	}
	return true, nil
}

func decline(conn int, why error) error {
	return errors.Join(why, send(conn, &reply{Declined: why.Error()}))
}

// watch ends a command when its process gets a signal or has gone.
func watch(conn int, cancel context.CancelCauseFunc) {
	forever := unix.Timeval{}
	if err := unix.SetsockoptTimeval(conn, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &forever); err != nil {
		cancel(err)
		return
	}
	var s signal
	_, err := receive(conn, &s)
	if err == nil {
		err = fmt.Errorf("signal %v: %w", syscall.Signal(s.Signal), context.Canceled)
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("the command was ended: %w", context.Canceled)
	}
	cancel(err)
}

// become makes this process look like the one of the command.
func become(r *request, files []*os.File) error {
	for i, f := range files[:3] {
		if err := unix.Dup3(int(f.Fd()), i, 0); err != nil {
			return fmt.Errorf("standard files: %w", err)
		}
	}
	if err := unix.Fchdir(int(files[3].Fd())); err != nil {
		return fmt.Errorf("current directory: %w", err)
	}
	syscall.Umask(r.Umask)
	os.Clearenv()
	for _, v := range r.Env {
		name, value, _ := strings.Cut(v, "=")
		if err := os.Setenv(name, value); err != nil {
			return fmt.Errorf("environment: %w", err)
		}
	}
	return nil
}

// What a worker tells its supervisor.
const (
	isReady = 'r' // its plugins are started
	isBusy  = 'b' // it has a command and will serve no other
)

func tell(what byte) error {
	if err := unix.Sendto(fdControl, []byte{what}, unix.MSG_NOSIGNAL, nil); err != nil {
		return fmt.Errorf("tell the supervisor: %w", err)
	}
	return nil
}
