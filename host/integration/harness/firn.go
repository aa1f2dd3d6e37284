package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Exit statuses of firn.
const (
	StatusDone     = 0
	StatusFailed   = 1
	StatusUsage    = 2
	StatusRefused  = 3
	StatusPlugin   = 4
	StatusRights   = 5
	StatusTimeout  = 6
	StatusDamaged  = 7
	statusSignaled = -1
)

// Firn runs the program.
type Firn struct {
	Path string
	// Env is added to a minimal environment.
	Env []string
	// Prefix is a command that executes its arguments, such as unshare.
	Prefix []string
	// Terminal, if set, is standard input and the controlling terminal.
	Terminal *os.File
	// Timeout bounds a run; a minute if it is 0.
	Timeout time.Duration
}

// Result is the outcome of one run.
type Result struct {
	Args           []string
	PID            int
	Status         int
	Stdout, Stderr string
	Took           time.Duration
}

// String shows a run in the messages of tests.
func (r Result) String() string {
	return fmt.Sprintf("firn %s: status %d after %s\nstdout: %s\nstderr: %s",
		strings.Join(r.Args, " "), r.Status, r.Took.Round(time.Millisecond), shortened(r.Stdout), shortened(r.Stderr))
}

// shortened keeps the beginning of a long text.
func shortened(text string) string {
	const most = 4000
	if len(text) <= most {
		return text
	}
	return fmt.Sprintf("%s... (%d bytes)", text[:most], len(text))
}

// Decode reads the standard output as one JSON object.
func (r Result) Decode(to any) error {
	if err := json.Unmarshal([]byte(r.Stdout), to); err != nil {
		return fmt.Errorf("%w in the output of %s", err, r)
	}
	return nil
}

// Run is firn while it runs.
type Run struct {
	cmd      *exec.Cmd
	args     []string
	start    time.Time
	out, err *os.File
	done     chan struct{}
}

// Start starts firn in a session of its own, by which everything that it
// leaves behind can be found. Its output goes to files: a process that stays
// behind with a pipe would keep Wait from returning.
func (f Firn) Start(args ...string) (*Run, error) {
	r := &Run{args: args, done: make(chan struct{})}
	var err error
	if r.out, err = os.CreateTemp("", "firn-stdout-"); err != nil {
		return nil, err
	}
	if r.err, err = os.CreateTemp("", "firn-stderr-"); err != nil {
		r.drop()
		return nil, err
	}
	argv := append(append([]string{}, f.Prefix...), f.Path)
	argv = append(argv, args...)
	r.cmd = exec.Command(argv[0], argv[1:]...)
	r.cmd.Env = append([]string{"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C", "HOME=" + os.Getenv("HOME")}, f.Env...)
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.err
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: f.Terminal != nil}
	if f.Terminal != nil {
		r.cmd.Stdin = f.Terminal
	}
	r.start = time.Now()
	if err := orphans.start(r.cmd); err != nil {
		r.drop()
		return nil, fmt.Errorf("start firn: %w", err)
	}
	return r, nil
}

// PID is the process id, which is the id of the session as well.
func (r *Run) PID() int { return r.cmd.Process.Pid }

// Kill sends SIGKILL to firn. Wait must follow.
func (r *Run) Kill() error { return r.cmd.Process.Kill() }

// Wait waits until firn ended.
func (r *Run) Wait() (Result, error) {
	defer r.drop()
	err := orphans.wait(r.cmd)
	res := Result{Args: r.args, PID: r.PID(), Took: time.Since(r.start)}
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit) && exit.Exited():
		res.Status = exit.ExitCode()
	case errors.As(err, &exit):
		res.Status = statusSignaled
	default:
		return res, err
	}
	for _, f := range []struct {
		file *os.File
		text *string
	}{{r.out, &res.Stdout}, {r.err, &res.Stderr}} {
		b, err := io.ReadAll(io.NewSectionReader(f.file, 0, 1<<26))
		if err != nil {
			return res, err
		}
		*f.text = string(b)
	}
	return res, nil
}

func (r *Run) drop() {
	for _, f := range []*os.File{r.out, r.err} {
		if f != nil {
			_ = os.Remove(f.Name())
			_ = f.Close()
		}
	}
}

// Run runs firn to its end. An error means that it could not be run or had to
// be killed; a failure of firn is a status.
func (f Firn) Run(args ...string) (Result, error) {
	timeout := f.Timeout
	if timeout == 0 {
		timeout = time.Minute
	}
	r, err := f.Start(args...)
	if err != nil {
		return Result{}, err
	}
	killed := make(chan struct{})
	timer := time.AfterFunc(timeout, func() {
		close(killed)
		_ = r.Kill()
	})
	res, err := r.Wait()
	if !timer.Stop() {
		<-killed
		return res, fmt.Errorf("killed after %s: %s", timeout, res)
	}
	return res, err
}

// WaitSession waits until nothing of a session is left; the error says what is.
func WaitSession(session int, timeout time.Duration) error {
	var left []Process
	err := poll(timeout, func() (bool, error) {
		left = InSession(session)
		return len(left) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("left behind by firn %d: %+v: %w", session, left, err)
	}
	return nil
}
