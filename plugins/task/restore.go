package task

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// savedProcess is a process of the image with its records.
type savedProcess struct {
	proc *sdk.Process
	// own is the process with the numbers that it sees itself.
	own     *sdk.Process
	rec     *taskpb.Process
	threads []savedThread
	// users is the user namespace that the process enters or has entered; nil if it
	// is the restorer's.
	users *sdk.UserNamespace
	// main is a main thread that has exited, which is not one of threads.
	main *savedThread
}

// savedThread is a thread of the image with its record.
type savedThread struct {
	sdk.Thread
	rec *taskpb.Thread
	// filters are its seccomp filters, the oldest first.
	filters []*taskpb.SeccompFilter
}

// load reads the records of all processes that the plugin owns.
func load(req *sdk.RestoreRequest) ([]*savedProcess, error) {
	filters, err := loadFilters(req.Records)
	if err != nil {
		return nil, err
	}
	var saved []*savedProcess
	for _, p := range ownProcesses(req.Session) {
		s, err := loadProcess(req.Records, p, filters)
		if err != nil {
			return nil, fmt.Errorf("records of task %d: %w", p.ID, err)
		}
		s.users = req.Tree.UserNamespace(p.UserNamespace)
		if err := s.checkInside(); err != nil {
			return nil, fmt.Errorf("task %d: %w: %w", p.ID, err, sdk.ErrCorrupt)
		}
		saved = append(saved, s)
	}
	return saved, nil
}

func loadProcess(records sdk.Records, p *sdk.Process, filters []*taskpb.SeccompFilter) (*savedProcess, error) {
	s := &savedProcess{proc: p, own: p}
	threads := make(map[uint32]*taskpb.Thread, len(p.Threads))
	for r, err := range records.Object(uint64(p.ID)) {
		if err != nil {
			return nil, err
		}
		switch r.Kind {
		case kindProcess:
			s.rec = &taskpb.Process{}
			err = r.Decode(s.rec)
		case kindThread:
			t := &taskpb.Thread{}
			err = r.Decode(t)
			threads[t.GetId()] = t
		}
		if err != nil {
			return nil, err
		}
	}
	if s.rec == nil || s.rec.Fs == nil {
		return nil, fmt.Errorf("no process record: %w", sdk.ErrCorrupt)
	}
	for _, t := range p.Threads {
		rec := threads[uint32(t.ID)]
		if rec == nil || rec.Scheduling == nil || rec.Credentials == nil {
			return nil, fmt.Errorf("no record of thread %d: %w", t.ID, sdk.ErrCorrupt)
		}
		if err := validCredentials(rec.Credentials); err != nil {
			return nil, fmt.Errorf("thread %d: %w", t.ID, err)
		}
		chain, err := chainOf(filters, rec.Seccomp)
		if err != nil {
			return nil, fmt.Errorf("thread %d: %w", t.ID, err)
		}
		s.threads = append(s.threads, savedThread{Thread: t, rec: rec, filters: chain})
	}
	if !p.MainExited() {
		return s, nil
	}
	rec := threads[uint32(p.ID)]
	if rec == nil || rec.Credentials == nil {
		return nil, fmt.Errorf("no record of the main thread, which has exited: %w", sdk.ErrCorrupt)
	}
	if err := validCredentials(rec.Credentials); err != nil {
		return nil, fmt.Errorf("thread %d: %w", p.ID, err)
	}
	s.main = &savedThread{Thread: sdk.Thread{ID: p.ID}, rec: rec}
	return s, nil
}

// leads tells whether the thread is the first of its process, the main thread
// unless that has exited. It sets what belongs to the process.
func (p *savedProcess) leads(t *savedThread) bool { return t.ID == p.threads[0].ID }

// RestoreTasks implements [sdk.TaskRestorer].
func (*plugin) RestoreTasks(ctx context.Context, req *sdk.RestoreRequest) error {
	saved, err := load(req)
	if err != nil {
		return err
	}
	if err := readOwnNumbers(saved); err != nil {
		return err
	}
	login, err := readOptional(selfPID, "loginuid", 10, loginUnset)
	if err != nil {
		return err
	}
	withIDs := restoresTimerIDs()
	err = inParallel(ctx, len(saved), func(i int) error { return writeProcFiles(saved[i].proc.PID, saved[i].rec) })
	if err != nil {
		return err
	}
	err = eachThread(ctx, req.Host, saved, func(s *script, p *savedProcess, t *savedThread) error {
		if p.users == nil { // else it was set before the process lost its rights
			setLoginUID(s, uint32(login), p.rec.GetLoginuid())
		}
		if p.leads(t) {
			if err := setProcess(s, p, withIDs); err != nil {
				return err
			}
		}
		return setThread(s, p, t)
	})
	if err != nil {
		return err
	}
	return setEndedMains(ctx, req.Host, saved)
}

// setProcess sets what belongs to a process and takes away no rights. Pending
// signals come after the actions: an action that ignores drops them.
func setProcess(s *script, p *savedProcess, withIDs bool) error {
	if err := setActions(s, p.rec); err != nil {
		return err
	}
	setProcessAttributes(s, p.rec)
	if err := createPosixTimers(s, p.own, p.rec.GetPosixTimers(), withIDs); err != nil {
		return err
	}
	return sendPending(s, queue{tgid: p.own.PID}, p.rec.GetPending())
}

// setThread sets what belongs to a thread and takes away no rights.
func setThread(s *script, p *savedProcess, t *savedThread) error {
	if err := setName(s, t.rec); err != nil {
		return err
	}
	setAddresses(s, t.rec)
	setThreadAttributes(s, t.rec)
	setMemoryPolicy(s, t.rec)
	return sendPending(s, queue{tgid: p.own.PID, tid: p.ownTID(t.ID)}, t.rec.GetPending())
}

// eachThread builds a script for every thread and runs all of them at once.
func eachThread(ctx context.Context, host sdk.Host, saved []*savedProcess,
	build func(*script, *savedProcess, *savedThread) error) error {
	var runs []tape.Run
	var scripts []*script
	var tasks []sdk.TaskID
	for _, p := range saved {
		for i := range p.threads {
			s := &script{}
			if err := build(s, p, &p.threads[i]); err != nil {
				return fmt.Errorf("restore task %d: %w", p.proc.ID, err)
			}
			if len(s.Calls) > 0 {
				runs = append(runs, tape.Run{TID: p.threads[i].TID, Tape: &s.Tape})
				scripts, tasks = append(scripts, s), append(tasks, p.threads[i].ID)
			}
		}
	}
	outcomes, err := runTapes(ctx, host, runs)
	if err != nil {
		return err
	}
	for i, s := range scripts {
		if err := s.err(tasks[i], &outcomes[i]); err != nil {
			return err
		}
	}
	return nil
}

// Resumed implements [sdk.Resumer]: a SIGSTOP that was pending stops the task
// now. It cannot be queued before, for nothing blocks it. Cgroups that were
// frozen are again.
func (p *plugin) Resumed(_ context.Context, req *sdk.RestoreRequest) error {
	p.made.Keep()
	if err := p.made.Freeze(); err != nil {
		return fmt.Errorf("freeze cgroup: %w", err)
	}
	saved, err := load(req)
	if err != nil {
		return err
	}
	for _, p := range saved {
		stop := stopsAgain(p.rec.GetPending())
		for _, t := range p.threads {
			stop = stop || stopsAgain(t.rec.GetPending())
		}
		if !stop {
			continue
		}
		if err := unix.Kill(p.proc.PID, unix.SIGSTOP); err != nil && err != unix.ESRCH {
			return fmt.Errorf("stop task %d: %w", p.proc.ID, err)
		}
	}
	return nil
}
