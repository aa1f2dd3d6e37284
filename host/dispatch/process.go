package dispatch

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/wire"
)

// program is what is executed: what was checked, not what has its path by now.
// The descriptor is inherited because scripts are opened again by their
// interpreter, and because a high number of its own, out of the way of the
// others, would be dear: growing the table of descriptors of a process with
// threads waits for an RCU grace period, 10 ms and more (expand_fdtable in
// fs/file.c).
var program = fmt.Sprintf("/proc/self/fd/%d", wire.FDProgram)

// killTime is how long a killed process may take to end.
const killTime = 5 * time.Second

// drainTime is how long output is read after a plugin's process ended, should
// somebody else hold the pipe.
const drainTime = 200 * time.Millisecond

// process is a plugin's process. Its process group is its own, so that it gets
// no signals of the terminal and can be killed with what it started.
type process struct {
	proc           *os.Process
	stdout, stderr *os.File // read ends; closed by their readers
	lifeline       *os.File // write end: closing it ends the plugin
	passing        *os.File // socket over which descriptors are passed

	killed atomic.Bool // by this host

	done  chan struct{} // closed when the process was waited for
	state *os.ProcessState
	once  sync.Once
}

// spawner runs functions on one thread that lives as long as this process. The
// parent death signal of a child is sent when the thread that started it ends,
// not the process: prctl(2), PR_SET_PDEATHSIG.
var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// onSpawner runs f on the thread of the spawner and waits for it.
func onSpawner(f func()) {
	done := make(chan struct{})
	spawner() <- func() {
		defer close(done)
		f()
	}
	<-done
}

// spawn executes an open file. arena has the three descriptors of the arena or
// is empty. The caller keeps exe and arena. r is what the plugin may do.
func spawn(exe *os.File, name string, env []string, arena []*os.File, r rights) (_ *process, err error) {
	var opened []*os.File // what the child inherits, and, on an error, all
	p := &process{done: make(chan struct{})}
	defer func() {
		closeAll(opened...)
		if err != nil {
			closeAll(p.stdout, p.stderr, p.lifeline, p.passing)
		}
	}()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	opened = append(opened, null)
	files := []*os.File{null, nil, nil, null, null, null, nil, nil}
	copy(files[wire.FDArena:wire.FDLifeline], arena)
	if p.stdout, files[1], err = os.Pipe(); err != nil {
		return nil, err
	}
	opened = append(opened, files[1])
	if p.stderr, files[2], err = os.Pipe(); err != nil {
		return nil, err
	}
	opened = append(opened, files[2])
	if files[wire.FDLifeline], p.lifeline, err = os.Pipe(); err != nil {
		return nil, err
	}
	opened = append(opened, files[wire.FDLifeline])
	if p.passing, files[wire.FDPassing], err = socketpair(); err != nil {
		return nil, err
	}
	opened = append(opened, files[wire.FDPassing])
	files = append(files, exe)
	attr := &os.ProcAttr{
		Dir: "/", Env: env, Files: files,
		Sys: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	}
	start := func() (err error) {
		p.proc, err = os.StartProcess(program, []string{Prefix + name}, attr)
		return err
	}
	if r.all {
		onSpawner(func() { err = start() })
	} else {
		err = r.contained(start, p.done)
	}
	if err != nil {
		return nil, fmt.Errorf("execute: %w", err)
	}
	go p.wait()
	return p, nil
}

func socketpair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "passing"), os.NewFile(uintptr(fds[1]), "passing"), nil
}

// wait reaps the process. Before its PID is free, everything that it left in
// its process group is killed.
func (p *process) wait() {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, p.proc.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = unix.Kill(-p.proc.Pid, unix.SIGKILL)
	p.state, _ = p.proc.Wait()
	close(p.done)
	deadline := time.Now().Add(drainTime)
	_ = p.stdout.SetReadDeadline(deadline)
	_ = p.stderr.SetReadDeadline(deadline)
}

// kill ends the process and its group at once.
func (p *process) kill() {
	select {
	case <-p.done:
	default:
		p.killed.Store(true)
		_ = unix.Kill(-p.proc.Pid, unix.SIGKILL)
	}
}

// victim tells whether the process, which has ended, ended because this host
// killed it.
func (p *process) victim() bool {
	ws, ok := p.state.Sys().(syscall.WaitStatus)
	return ok && p.killed.Load() && ws.Signaled() && ws.Signal() == syscall.SIGKILL
}

// release closes the host's ends of the lifeline and the socket.
func (p *process) release() {
	p.once.Do(func() { closeAll(p.lifeline, p.passing) })
}

// stop asks the process to end by its lifeline, kills it when it does not end
// within grace, and reports a process that even that does not end.
func (p *process) stop(grace time.Duration) error {
	p.release()
	if p.ended(grace) {
		return nil
	}
	p.kill()
	if p.ended(killTime) {
		return nil
	}
	return fmt.Errorf("process %d does not end although it was killed", p.proc.Pid)
}

// ended waits until the process has ended, for at most d.
func (p *process) ended(d time.Duration) bool {
	select {
	case <-p.done:
		return true
	default:
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.done:
		return true
	case <-t.C:
		return false
	}
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
