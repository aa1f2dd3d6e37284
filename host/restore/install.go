package restore

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
)

// provided is where the host finds the description of an object: a descriptor
// of a plugin's process, which the tasks reach through an inherited pidfd.
type provided struct {
	pluginFD int // the pidfd's number in every task
	pid      int // the plugin's process
	fd       int // in the plugin's process
}

// wantFD is one descriptor that a process shall have.
type wantFD struct {
	object  uint64
	fd      int
	cloexec bool
}

// fdTables sorts the references of all file objects by process.
func fdTables(files []sdk.Resource) map[sdk.TaskID][]wantFD {
	tables := map[sdk.TaskID][]wantFD{}
	for i := range files {
		for _, ref := range files[i].File.Refs {
			tables[ref.Task] = append(tables[ref.Task], wantFD{files[i].Object, ref.FD, ref.Cloexec})
		}
	}
	for _, t := range tables {
		slices.SortFunc(t, func(a, b wantFD) int { return cmp.Compare(a.fd, b.fd) })
	}
	return tables
}

// installTape builds the tape that fills one process's descriptor table, which
// is empty below the service descriptors.
//
// pidfd_getfd(2) gives the lowest free number, so with the table filled in
// ascending order it is known beforehand which number that will be: the wanted
// one where there is no gap, else one below it that is moved.
func installTape(want []wantFD, from map[uint64]provided) (*tape.Tape, error) {
	t := &tape.Tape{}
	have := map[uint64]int{} // objects that are installed already
	lowest := 0              // the lowest free number
	for _, w := range want {
		src, ok := from[w.object]
		if !ok {
			return nil, fmt.Errorf("fd %d: no plugin provided object %d: %w", w.fd, w.object, sdk.ErrCorrupt)
		}
		if first, ok := have[w.object]; ok {
			t.Call(unix.SYS_DUP3, tape.Imm(first), tape.Imm(w.fd), cloexecArg(w.cloexec))
		} else {
			got := t.Call(unix.SYS_PIDFD_GETFD, tape.Imm(src.pluginFD), tape.Imm(src.fd), tape.Imm(0))
			switch {
			case w.fd != lowest:
				t.Call(unix.SYS_DUP3, got.Arg(), tape.Imm(w.fd), cloexecArg(w.cloexec))
				t.Call(unix.SYS_CLOSE, got.Arg())
			case !w.cloexec: // pidfd_getfd sets close-on-exec
				t.Call(unix.SYS_FCNTL, got.Arg(), tape.Imm(unix.F_SETFD), tape.Imm(0))
			}
			have[w.object] = w.fd
		}
		if w.fd == lowest {
			lowest++
		}
	}
	return t, nil
}

func cloexecArg(on bool) tape.Arg {
	if on {
		return tape.Imm(unix.O_CLOEXEC)
	}
	return tape.Imm(0)
}

// install fills the descriptor tables of some processes, all at the same time.
func (r *flow) install(ctx context.Context, which func(*sdk.Process) bool) error {
	var runs []tape.Run
	var who []sdk.TaskID
	for id, want := range fdTables(r.files) {
		p := r.tree.Process(id)
		if p == nil {
			return fmt.Errorf("file of task %d, which is not in the tree: %w", id, sdk.ErrCorrupt)
		}
		if !which(p) {
			continue
		}
		t, err := installTape(want, r.provided)
		if err != nil {
			return fmt.Errorf("task %d: %w", id, err)
		}
		runs, who = append(runs, tape.Run{TID: p.PID, Tape: t}), append(who, id)
	}
	return r.runAll(ctx, "install files", runs, who)
}

// runAll runs tapes of processes, all of which must run to their ends.
func (r *flow) runAll(ctx context.Context, what string, runs []tape.Run, who []sdk.TaskID) error {
	outcomes, err := r.engine.RunTapes(ctx, runs)
	if err != nil {
		return err
	}
	for i := range outcomes {
		if err := outcomes[i].Err; err != nil {
			return fmt.Errorf("task %d: %s: %w", who[i], what, err)
		}
	}
	return nil
}
