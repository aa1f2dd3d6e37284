package harness

import (
	"errors"
	"fmt"
	"math"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// reaper reaps orphans that come to this process. Children that were started
// by os/exec are left to it.
type reaper struct {
	mu       sync.Mutex
	started  bool
	owned    map[int]struct{}
	statuses map[int]unix.WaitStatus
}

var orphans = reaper{owned: map[int]struct{}{}, statuses: map[int]unix.WaitStatus{}}

// Adopt makes this process the reaper of all its descendants, and keeps its own
// inherited descriptors from them: a pipe of the caller's would be a resource
// that a subject shares with the outside. It may be called more than once.
func Adopt() error {
	orphans.mu.Lock()
	defer orphans.mu.Unlock()
	if orphans.started {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a child subreaper: %w", err)
	}
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keep descriptors from children: %w", err)
	}
	orphans.started = true
	go orphans.loop()
	return nil
}

func (r *reaper) loop() {
	for {
		r.reapAll()
		time.Sleep(2 * time.Millisecond)
	}
}

// reapAll reaps until nothing is left, or until the next one belongs to
// os/exec, whose Wait takes it in a moment.
func (r *reaper) reapAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		pid, err := nextZombie()
		if err != nil || pid == 0 {
			return
		}
		if _, ok := r.owned[pid]; ok {
			return
		}
		var ws unix.WaitStatus
		if got, err := unix.Wait4(pid, &ws, unix.WNOHANG|unix.WALL, nil); err != nil || got != pid {
			return
		}
		r.statuses[pid] = ws
	}
}

// nextZombie peeks: the PID of a child that ended, or 0.
func nextZombie() (int, error) {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || info.Signo == 0 {
			return 0, err
		}
		return siginfoPID(&info), nil
	}
}

// start starts a command as one that its own Wait will reap.
func (r *reaper) start(cmd *exec.Cmd) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	r.owned[cmd.Process.Pid] = struct{}{}
	return nil
}

// wait is cmd.Wait for a command that start started.
func (r *reaper) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.owned, cmd.Process.Pid)
	return err
}

func (r *reaper) forget(pid int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.statuses, pid)
}

// OrphanStatus waits until an adopted process ended and returns its status.
// Call [Subject.Forget] before the process starts if its PID was used before.
func OrphanStatus(pid int, timeout time.Duration) (unix.WaitStatus, error) {
	var ws unix.WaitStatus
	err := poll(timeout, func() (bool, error) {
		orphans.mu.Lock()
		defer orphans.mu.Unlock()
		var ok bool
		ws, ok = orphans.statuses[pid]
		return ok, nil
	})
	if err != nil {
		return 0, fmt.Errorf("wait for process %d: %w", pid, err)
	}
	return ws, nil
}

// errTimeout is returned by poll.
var errTimeout = errors.New("timed out")

// poll calls done until it is true or fails, at most until the timeout.
func poll(timeout time.Duration, done func() (bool, error)) error {
	deadline := time.Now().Add(timeout)
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w after %s", errTimeout, timeout)
		}
		time.Sleep(pause)
	}
}
