package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/internal/cgroups"
	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/tape"
)

// processDump is a process on its way into records.
type processDump struct {
	proc    *sdk.Process
	rec     *taskpb.Process
	threads []*threadDump
	// main is what is left of a main thread that has exited, nil if it has not.
	main *taskpb.Thread
	// pending is the set of signals that are pending for the process.
	pending uint64
}

// threadDump is a thread on its way into a record.
type threadDump struct {
	sdk.Thread
	rec     *taskpb.Thread
	status  *procfs.TaskStatus // nil: not read yet
	pending uint64
}

// Dump implements [sdk.Dumper]: look from outside, ask the tracer, ask the
// tasks themselves, emit. The clocks come first: they go on while the tree
// stands still, and what passes until they are read is lost to timeouts.
func (p *plugin) Dump(ctx context.Context, req *sdk.DumpRequest) error {
	start := time.Now()
	if err := dumpClocks(ctx, req); err != nil {
		return err
	}
	m, err := readMachine()
	if err != nil {
		return err
	}
	var processes []*processDump
	status := p.recall()
	for _, proc := range ownProcesses(req.Session) {
		processes = append(processes, newProcessDump(proc, status))
	}
	threads := threadsOf(processes, func(d *processDump) int { return len(d.threads) })
	err = inParallel(ctx, len(threads), func(i int) error { return threads[i].process.look(&m, threads[i].index) })
	if err != nil {
		return err
	}
	looked := time.Since(start)
	filters := &filterForest{}
	if err := askTracer(ctx, req.Host, processes, filters); err != nil {
		return err
	}
	traced := time.Since(start)
	if err := askTasks(ctx, req.Host, &m, processes); err != nil {
		return err
	}
	req.Log.Debug("read tasks", "processes", len(processes), "looked", looked, "traced", traced-looked,
		"asked", time.Since(start)-traced)
	if err := filters.emit(ctx, req.Records); err != nil {
		return err
	}
	if err := p.dumpCgroups(ctx, req.Records, processes); err != nil {
		return err
	}
	return emit(ctx, req.Records, processes)
}

// ownProcesses are the live processes that this plugin owns.
func ownProcesses(s *sdk.Session) []*sdk.Process {
	var processes []*sdk.Process
	for _, r := range s.Resources {
		if r.Kind != sdk.KindTask {
			continue
		}
		if p := s.Tree.Process(r.Task); p != nil && !p.Zombie {
			processes = append(processes, p)
		}
	}
	return processes
}

func newProcessDump(p *sdk.Process, status map[int]*procfs.TaskStatus) *processDump {
	d := &processDump{proc: p, rec: &taskpb.Process{Id: uint32(p.ID)}}
	for _, t := range p.Threads {
		d.threads = append(d.threads, &threadDump{Thread: t, rec: &taskpb.Thread{Id: uint32(t.ID)}, status: status[t.TID]})
	}
	return d
}

// look reads what can be seen of one thread from outside, and with the main
// thread what can be seen of the process.
func (d *processDump) look(m *machine, thread int) error {
	t := d.threads[thread]
	err := d.lookThread(m, t)
	if thread == 0 && err == nil {
		err = d.lookProcess()
	}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		err = errors.Join(sdk.ErrTaskGone, err)
	}
	if err != nil {
		return fmt.Errorf("dump task %d: %w", t.ID, err)
	}
	return nil
}

func (d *processDump) lookProcess() (err error) {
	pid := d.proc.PID
	if d.rec.Limits, err = readLimits(pid); err != nil {
		return err
	}
	if d.rec.PosixTimers, err = readPosixTimers(d.proc); err != nil {
		return err
	}
	if d.rec.Cgroups, err = cgroups.Read(pid); err != nil {
		return err
	}
	stat, err := procfs.ThreadStat(pid, pid)
	if err != nil {
		return err
	}
	// Every thread, unless it knows better.
	for _, t := range d.threads {
		t.rec.IoFlusher = stat.Flags&ioFlusherFlags == ioFlusherFlags
	}
	if d.proc.MainExited() {
		if d.main, err = endedMain(d.proc); err != nil {
			return err
		}
	}
	return readProcFiles(pid, d.rec)
}

func (d *processDump) lookThread(m *machine, t *threadDump) error {
	if t.status == nil {
		status, err := procfs.Status(t.TID)
		if err != nil {
			return err
		}
		t.status = &status
	}
	t.pending = t.status.SigPnd
	if t == d.threads[0] {
		d.pending = t.status.ShdPnd
	}
	t.rec.Credentials = credentialsOf(t.status)
	scheduling, err := m.readScheduling(t.TID)
	if err != nil {
		return err
	}
	t.rec.Scheduling = scheduling
	if err := readRobustList(t.TID, t.rec); err != nil {
		return err
	}
	return d.lookFS(t, t.status.Umask)
}

// lookFS reads the file system context of the process, and that of a thread
// which has one of its own.
func (d *processDump) lookFS(t *threadDump, umask int) (err error) {
	if t == d.threads[0] {
		d.rec.Fs, err = readFS(t.TID, umask)
		return err
	}
	shared, err := sharesFS(d.proc.PID, t.TID)
	if err == nil && !shared {
		t.rec.Fs, err = readFS(t.TID, umask)
	}
	return err
}

// askTracer asks the host what only the tracer sees: queued signals, rseq,
// seccomp filters.
func askTracer(ctx context.Context, host sdk.Host, processes []*processDump, filters *filterForest) error {
	var tids []int
	for _, d := range processes {
		for _, t := range d.threads {
			tids = append(tids, t.TID)
		}
	}
	if len(tids) == 0 {
		return nil
	}
	infos, err := host.Trace(ctx, tids)
	if err != nil {
		return err
	}
	byTID := make(map[int]*sdk.TraceInfo, len(infos))
	for i := range infos {
		byTID[infos[i].TID] = &infos[i]
	}
	for _, d := range processes {
		for i, t := range d.threads {
			info := byTID[t.TID]
			if info == nil {
				return fmt.Errorf("trace thread %d: no answer: %w", t.ID, sdk.ErrTaskGone)
			}
			err := d.traced(t, info, i == 0)
			if err == nil {
				t.rec.Seccomp, err = filters.seccompRecord(t.status, info.SeccompFilters)
			}
			if err != nil {
				return fmt.Errorf("dump task %d: %w", t.ID, err)
			}
		}
	}
	return nil
}

func (d *processDump) traced(t *threadDump, info *sdk.TraceInfo, first bool) (err error) {
	t.rec.Rseq = rseqRecord(info.Rseq)
	if t.rec.Pending, err = pendingSignals(info.Pending, t.pending); err != nil || !first {
		return err
	}
	d.rec.Pending, err = pendingSignals(info.SharedPending, d.pending)
	return err
}

// askTasks asks every thread, all at the same time.
func askTasks(ctx context.Context, host sdk.Host, m *machine, processes []*processDump) error {
	leader, member := &inquiry{}, &inquiry{}
	askProcess(leader)
	askThread(leader, m)
	askThread(member, m)
	var runs []tape.Run
	var inquiries []*inquiry
	var answers []asked
	for _, d := range processes {
		for i, t := range d.threads {
			ask := member
			if i == 0 {
				ask = leader
			}
			if timers := d.rec.PosixTimers; i == 0 && len(timers) > 0 {
				ask = &inquiry{}
				askPosixTimers(ask, timers)
				askProcess(ask)
				askThread(ask, m)
			}
			t.rec.MceKill = mceKillDefault // where the kernel does not tell
			runs, inquiries = append(runs, tape.Run{TID: t.TID, Tape: &ask.Tape}), append(inquiries, ask)
			answers = append(answers, asked{d.rec, t.rec})
		}
	}
	outcomes, err := runTapes(ctx, host, runs)
	if err != nil {
		return err
	}
	for i := range runs {
		if err := inquiries[i].answer(&answers[i], &outcomes[i]); err != nil {
			return fmt.Errorf("ask task %d: %w", answers[i].thread.Id, err)
		}
	}
	return nil
}

func askProcess(q *inquiry) {
	askActions(q)
	askIntervalTimers(q)
	askProcessAttributes(q)
}

func askThread(q *inquiry, m *machine) {
	askName(q)
	askAddresses(q)
	askSecurebits(q)
	askTimerSlack(q)
	askThreadAttributes(q)
	askSpeculation(q, m)
	askMemoryPolicy(q)
}

// runTapes runs tapes, if there are any, and checks the number of outcomes.
func runTapes(ctx context.Context, host sdk.Host, runs []tape.Run) ([]tape.Outcome, error) {
	if len(runs) == 0 {
		return nil, nil
	}
	outcomes, err := host.RunTapes(ctx, runs)
	if err != nil {
		return nil, err
	}
	if len(outcomes) != len(runs) {
		return nil, fmt.Errorf("%d outcomes of %d tapes: %w", len(outcomes), len(runs), sdk.ErrCorrupt)
	}
	return outcomes, nil
}

func emit(ctx context.Context, records sdk.Emitter, processes []*processDump) error {
	for _, d := range processes {
		object := uint64(d.proc.ID)
		if err := records.Emit(ctx, kindProcess, object, d.rec); err != nil {
			return err
		}
		if d.main != nil {
			d.main.Credentials.Securebits = d.threads[0].rec.Credentials.Securebits
			if err := records.Emit(ctx, kindThread, object, d.main); err != nil {
				return err
			}
		}
		for _, t := range d.threads {
			if err := records.Emit(ctx, kindThread, object, t.rec); err != nil {
				return err
			}
		}
	}
	return nil
}
