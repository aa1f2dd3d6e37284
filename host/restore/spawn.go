package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/pidns"
	"github.com/firn-cr/firn/host/skeleton"
	"github.com/firn-cr/firn/host/task"
	"github.com/firn-cr/firn/sdk"
)

// serviceFDs are descriptors that every task of the tree has while it is being
// rebuilt, above all descriptors of its own.
type serviceFDs struct {
	base    int
	files   []*os.File
	image   int
	tapes   int
	plugins map[string]int // pidfds
}

func (s *serviceFDs) add(f *os.File) int {
	s.files = append(s.files, f)
	return s.base + len(s.files) - 1
}

// spawner executes the plan of the skeleton.
type spawner struct {
	*flow
	ops  *task.Ops
	seed *task.Seed
	// noisy are parents whose children ended: the SIGCHLD of that is not part
	// of the checkpointed state.
	noisy map[sdk.TaskID]bool
}

// spawn creates every process of the tree, with one thread each, stopped, in
// its session and group. What was created is in r.created even if it fails.
func (r *flow) spawn(ctx context.Context, plan skeleton.Plan) error {
	return r.tracer.With(ctx, func(o *task.Ops) (err error) {
		s := &spawner{flow: r, ops: o, noisy: map[sdk.TaskID]bool{}}
		if s.seed, err = o.StartSeed(r.service.files); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, o.Kill(s.seed.PID, []task.HostPID{s.seed.PID})) }()
		if err := s.arrangeFDs(); err != nil {
			return fmt.Errorf("seed: %w", err)
		}
		if err := s.openNamespace(); err != nil {
			return fmt.Errorf("PID namespace: %w", err)
		}
		for _, step := range plan.Steps {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if err := s.step(step); err != nil {
				return err
			}
		}
		if err := s.makeKeepers(); err != nil {
			return err
		}
		r.res.RootPID = int(r.pids[r.tree.Root])
		return s.silence()
	})
}

// arrangeFDs moves the service descriptors out of the way, for which the
// limit is raised as far as it goes; the plugin that owns limits puts back
// what the program had.
func (s *spawner) arrangeFDs() error {
	call := func(nr int, args ...uint64) error {
		_, err := s.ops.Syscall(s.seed.PID, s.seed.Gadget, nr, args...)
		return err
	}
	for i := range s.service.files {
		if err := call(unix.SYS_DUP3, uint64(i), uint64(s.service.base+i), unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("move descriptor to %d: %w", s.service.base+i, err)
		}
	}
	return call(unix.SYS_CLOSE_RANGE, 0, uint64(s.service.base-1), 0)
}

func (s *spawner) step(st skeleton.Step) error {
	switch st.Op {
	case skeleton.OpClone:
		return s.clone(st)
	case skeleton.OpSetsid:
		return s.inTask(st.Task, "setsid", unix.SYS_SETSID)
	case skeleton.OpSetpgid:
		return s.inTask(st.By, "setpgid", unix.SYS_SETPGID, uint64(st.Number), uint64(st.Group))
	case skeleton.OpEnter:
		return enter(s.ops, s.pids[st.Task], s.seed.Gadget, st)
	case skeleton.OpExit:
		return s.exit(st.Task)
	case skeleton.OpRemove:
		return s.remove(st)
	}
	return fmt.Errorf("step %d of the skeleton is unknown", st.Op)
}

func (s *spawner) inTask(id sdk.TaskID, what string, nr int, args ...uint64) error {
	if _, err := s.ops.Syscall(s.pids[id], s.seed.Gadget, nr, args...); err != nil {
		return fmt.Errorf("task %d: %s: %w", id, what, err)
	}
	return nil
}

func (s *spawner) clone(st skeleton.Step) error {
	c := &task.Clone{From: s.seed.PID, Gadget: s.seed.Gadget, Scratch: s.seed.Scratch, IDs: st.SetTID, Inside: s.ns != nil}
	switch {
	case st.From == skeleton.Host, st.Sibling:
		c.Flags = unix.CLONE_PARENT // exit_signal is the creator's
	default:
		c.ExitSignal = s.exitSignal(st.Task)
	}
	if st.From != skeleton.Host {
		c.From = s.pids[st.From]
	}
	if st.NewNamespace {
		c.Flags |= unix.CLONE_NEWPID
	}
	pid, err := s.ops.Clone(c)
	s.keep(st.Task, pid)
	if err != nil {
		return err
	}
	if s.ns != nil && st.Task == pidns.InitID {
		if err := s.ns.openProc(s.ops, pid, s.pidns); err != nil {
			return err
		}
	}
	p := s.tree.Process(st.Task)
	if p == nil {
		return nil
	}
	if p.PID = int(pid); p.Zombie {
		return nil
	}
	if !p.MainExited() {
		p.Threads[0].TID = p.PID
	}
	return s.mapRegion(p)
}

// keep takes note of a process that was created; 0 is none.
func (s *spawner) keep(id sdk.TaskID, pid task.HostPID) {
	if pid != 0 {
		s.pids[id] = pid
		s.created = append(s.created, created{pid: pid, tids: []task.HostPID{pid}})
	}
}

// exitSignal is what the parent of a process gets when it ends.
func (s *spawner) exitSignal(id sdk.TaskID) int {
	if h := s.hostProcess(id); h != nil {
		return int(h.ExitSignal)
	}
	// A stand-in hands it on to the siblings that it creates. That of its own
	// end is silenced.
	return int(unix.SIGCHLD)
}

// mapRegion replaces the region that a process inherited by its own.
func (s *spawner) mapRegion(p *sdk.Process) error {
	got, err := s.ops.Syscall(task.HostPID(p.PID), s.seed.Gadget, unix.SYS_MMAP,
		p.Reserved.Start, uint64(s.regions.size[p.ID]), unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC,
		unix.MAP_SHARED|unix.MAP_FIXED, uint64(s.service.tapes), uint64(s.regions.at[p.ID]))
	if err != nil || got != p.Reserved.Start {
		return fmt.Errorf("task %d: map tape memory at %#x: %w", p.ID, p.Reserved.Start, err)
	}
	return s.addTarget(s.ops, task.HostPID(p.PID), s.regions.main(p))
}

// addTarget makes a thread run tapes.
func (r *flow) addTarget(o *task.Ops, tid task.HostPID, slice task.Slice) error {
	c, err := o.Context(tid)
	if err != nil {
		return fmt.Errorf("task %d: %w", tid, err)
	}
	th := &task.Thread{TID: tid, Regs: c.Regs, XState: c.XState, SigMask: c.SigMask}
	r.engine.Add(th, slice)
	return nil
}

// exit makes a process a zombie with the status that it had.
func (s *spawner) exit(id sdk.TaskID) error {
	h := s.hostProcess(id)
	if h == nil {
		return fmt.Errorf("task %d is not in the tree: %w", id, sdk.ErrCorrupt)
	}
	s.noisy[sdk.TaskID(h.Parent)] = true
	// It keeps its name.
	name := append(bytes.Clone(h.Comm[:min(len(h.Comm), maxName)]), 0)
	if err := s.ops.Write(s.pids[id], s.seed.Scratch, name); err != nil {
		return err
	}
	if err := s.inTask(id, "set the name", unix.SYS_PRCTL, unix.PR_SET_NAME, s.seed.Scratch); err != nil {
		return err
	}
	if err := s.ops.Exit(s.pids[id], s.seed.Gadget, unix.WaitStatus(h.ExitStatus)); err != nil {
		return fmt.Errorf("task %d: end it as it had ended: %w", id, err)
	}
	return nil
}

// maxName is the longest name of a task (TASK_COMM_LEN with the zero is 16).
const maxName = 15

// remove ends a stand-in and has its parent reap it.
func (s *spawner) remove(st skeleton.Step) error {
	pid := s.pids[st.Task]
	if err := s.ops.Kill(pid, []task.HostPID{pid}); err != nil {
		return err
	}
	if st.Parent != skeleton.Host {
		s.noisy[st.Parent] = true
		if err := s.inTask(st.Parent, "reap a stand-in", unix.SYS_WAIT4, uint64(st.Number), 0, unix.WALL, 0); err != nil {
			return err
		}
	}
	s.forget(pid)
	return nil
}

// silence takes the SIGCHLDs out of the queues of parents whose children ended
// while the skeleton was built: ignoring a signal drops it.
func (s *spawner) silence() error {
	const sigIgn, sigDfl = 1, 0
	for id := range s.noisy {
		p := s.tree.Process(id)
		if p == nil {
			continue
		}
		slice := s.regions.main(p)
		for _, handler := range []byte{sigIgn, sigDfl} {
			clear(slice.Mem[:32]) // struct kernel_sigaction: handler first
			slice.Mem[0] = handler
			if err := s.inTask(id, "drop SIGCHLD", unix.SYS_RT_SIGACTION, uint64(unix.SIGCHLD), slice.Addr, 0, 8); err != nil {
				return err
			}
		}
	}
	return nil
}

// forget takes a process out of what was created: it has ended.
func (r *flow) forget(pid task.HostPID) {
	r.created = slices.DeleteFunc(r.created, func(c created) bool { return c.pid == pid })
}

// created is a process that must be killed if the restore fails.
type created struct {
	pid  task.HostPID
	tids []task.HostPID
}

// raiseNoFile raises the host's own limit of descriptors, which the seed
// inherits: the service descriptors lie above all others.
func raiseNoFile() error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return err
	}
	lim.Cur = min(lim.Max, math.MaxInt32)
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &lim)
}
