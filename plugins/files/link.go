package files

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
	"github.com/firn-cr/firn/sdk/tape"
)

// LinkFiles implements [sdk.FileLinker]: it opens pidfds of threads, fills the
// epoll instances, takes the locks of processes, and sets who gets the signals
// of files. The tasks do epoll and locks themselves: an entry of an instance is
// a file and its number, and a lock has an owner.
func (p *plugin) LinkFiles(ctx context.Context, req *sdk.RestoreRequest) error {
	im, err := readImage(req.Records)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l := &linker{tree: req.Tree, byTask: map[sdk.TaskID]*linkTape{}}
	// First, as an epoll instance may watch them.
	for _, r := range im.pidfds {
		fd, err := p.madeFD(r.object)
		if err == nil {
			err = l.pidfd(req, r.object, r.msg, fd)
		}
		if err != nil {
			return fmt.Errorf("link object %d: %w", r.object, err)
		}
	}
	for _, e := range im.epolls {
		if err := l.epoll(e.object, e.msg); err != nil {
			return err
		}
	}
	for _, n := range im.named {
		if err := l.locks(n.object, n.msg.GetLocks()); err != nil {
			return err
		}
	}
	if err := l.run(ctx, req.Host); err != nil {
		return err
	}
	for i := range im.states {
		if im.states[i].FD, err = p.madeFD(im.states[i].Object); err != nil {
			return fmt.Errorf("link object %d: %w", im.states[i].Object, err)
		}
	}
	return openfile.SetStates(ctx, req, im.states)
}

// linker collects what the tasks have to do.
type linker struct {
	tree   *sdk.Tree
	byTask map[sdk.TaskID]*linkTape
	runs   []*linkTape
}

// linkTape is a tape with what its calls are about.
type linkTape struct {
	run   tape.Run
	about []string // by call
}

// call appends a call that may not fail.
func (t *linkTape) call(about string, nr int, args ...tape.Arg) tape.Result {
	t.about = append(t.about, about)
	return t.run.Tape.Call(nr, args...)
}

// try appends a call that may fail.
func (t *linkTape) try(nr int, args ...tape.Arg) tape.Result {
	t.about = append(t.about, "")
	return t.run.Tape.Try(nr, args...)
}

// roomFor is how many more calls and bytes a tape must have room for.
const (
	roomForCalls = 16
	roomForData  = 256
)

// of returns the tape of a task, a new one if the last is full.
func (l *linker) of(task sdk.TaskID) (*linkTape, error) {
	if t := l.byTask[task]; t != nil &&
		len(t.run.Tape.Calls)+roomForCalls < tape.MaxEntries && len(t.run.Tape.Data)+roomForData < tape.MaxData {
		return t, nil
	}
	p := l.tree.Process(task)
	if p == nil {
		return nil, fmt.Errorf("task %d is not in the tree: %w", task, sdk.ErrCorrupt)
	}
	t := &linkTape{run: tape.Run{TID: p.PID, Tape: &tape.Tape{}}}
	l.byTask[task] = t
	l.runs = append(l.runs, t)
	return t, nil
}

// epoll adds every member of an instance.
func (l *linker) epoll(object uint64, e *filespb.Epoll) error {
	for _, target := range e.GetTargets() {
		t, err := l.of(sdk.TaskID(e.GetTask()))
		if err != nil {
			return fmt.Errorf("link object %d: %w", object, err)
		}
		about := fmt.Sprintf("add fd %d to epoll fd %d of task %d", target.GetFd(), e.GetFd(), e.GetTask())
		add := func() {
			ev := t.run.Tape.Bytes(epollEvent(target))
			t.call(about, unix.SYS_EPOLL_CTL, tape.Imm(e.GetFd()), tape.Imm(unix.EPOLL_CTL_ADD), tape.Imm(target.GetFd()), ev.Arg())
		}
		if !target.GetMoved() {
			add()
			continue
		}
		// The file takes the number for a moment. What has it now, if
		// anything, is kept meanwhile.
		fd := tape.Imm(target.GetFd())
		kept := t.try(unix.SYS_FCNTL, fd, tape.Imm(unix.F_DUPFD_CLOEXEC), tape.Imm(0))
		flags := t.try(unix.SYS_FCNTL, fd, tape.Imm(unix.F_GETFD))
		t.call(about, unix.SYS_DUP3, tape.Imm(target.GetOther()), fd, tape.Imm(0))
		add()
		t.call(about, unix.SYS_CLOSE, fd)
		t.try(unix.SYS_DUP3, kept.Arg(), fd, tape.Imm(0))
		t.try(unix.SYS_FCNTL, fd, tape.Imm(unix.F_SETFD), flags.Arg())
		t.try(unix.SYS_CLOSE, kept.Arg())
	}
	return nil
}

// epollEvent is struct epoll_event, which is packed on amd64 only.
func epollEvent(t *filespb.EpollTarget) []byte {
	size := int(unsafe.Sizeof(unix.EpollEvent{}))
	b := make([]byte, size)
	binary.NativeEndian.PutUint32(b, t.GetEvents())
	binary.NativeEndian.PutUint64(b[size-8:], t.GetData())
	return b
}

// run runs all tapes.
func (l *linker) run(ctx context.Context, host sdk.Host) error {
	if len(l.runs) == 0 {
		return nil
	}
	runs := make([]tape.Run, len(l.runs))
	for i, t := range l.runs {
		runs[i] = t.run
	}
	outcomes, err := host.RunTapes(ctx, runs)
	if err != nil {
		return fmt.Errorf("link files: %w", err)
	}
	for i := range outcomes {
		if err := l.runs[i].failure(outcomes[i].Err); err != nil {
			return err
		}
	}
	return nil
}

// failure says what a failed call was about.
func (t *linkTape) failure(err error) error {
	var call *tape.CallError
	if errors.As(err, &call) && call.Index < len(t.about) {
		return fmt.Errorf("%s: %w", t.about[call.Index], call.Errno)
	}
	if err != nil {
		return fmt.Errorf("link files of task %d: %w", t.run.TID, err)
	}
	return nil
}
