// Package resource enumerates what the tasks of a tree have: open file
// descriptions, mappings and namespaces. It knows how the kernel names these
// things, not what they mean: that is the plugins' business.
//
// Everything is read from /proc, pidfds and kcmp(2); nothing is changed. On a
// running tree the answer is a snapshot that may be torn; on a frozen one it is
// exact.
package resource

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// Set is what a tree has.
type Set struct {
	// Resources in the order: tasks, namespaces, files, mappings.
	Resources []sdk.Resource
	// Findings are blockers that no plugin could see because they lie between
	// processes, such as a file descriptor table that two of them share.
	Findings []sdk.Finding
	// MaxFD is the highest descriptor number in the tree, -1 if there is none.
	MaxFD int
	// Free is a range of the address space that no process of the tree uses.
	Free sdk.AddrRange
	// last is the highest object.
	last uint64
}

// FreeLen is the length of [Set.Free] in bytes.
const FreeLen = 1 << 30

// Enumerate lists the resources of all processes of the tree that are not
// zombies. A process that ended meanwhile is left out when running is true and
// an error otherwise.
//
// What of the namespaces the host carries itself is left out.
func Enumerate(ctx context.Context, tree *sdk.Tree, host Host, running bool) (*Set, error) {
	shared := &mounts{host: host}
	procs := make([]*process, 0, len(tree.Processes))
	for i := range tree.Processes {
		if !tree.Processes[i].Zombie {
			procs = append(procs, &process{Process: &tree.Processes[i], mounts: shared})
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, p := range procs {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := p.read()
			if running && err != nil && ends(p.PID, err) {
				p.gone = true
				return nil
			}
			if errors.Is(err, os.ErrPermission) {
				err = fmt.Errorf("%w: CAP_SYS_PTRACE needed: %w", err, sdk.ErrNotPermitted)
			}
			if err != nil {
				return fmt.Errorf("read resources of task %d: %w", p.PID, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return assemble(procs, host, running)
}

// Host tells what of the namespaces the host carries itself.
type Host interface {
	// Carries tells whether a namespace is carried, by its name under
	// /proc/PID/ns and its inode.
	Carries(name string, ino uint64) bool
	// Owner is the user namespace that owns a namespace of a process, as
	// [sdk.Process.UserNamespace] has it; ok is false if that is not carried.
	Owner(pid int, name string) (n int, ok bool, err error)
	// Mount is the mount of the host's own mount namespace, of which one in
	// another mount namespace is a copy, or else the mount itself.
	Mount(ns uint64, id int) int
}

func assemble(procs []*process, host Host, running bool) (*Set, error) {
	set := &Set{MaxFD: -1}
	live := procs[:0]
	for _, p := range procs {
		if !p.gone {
			live = append(live, p)
		}
	}
	set.last = uint64(1) << 32 // above every TaskID: objects never look like tasks
	next := func() uint64 { set.last++; return set.last }

	for _, p := range live {
		set.Resources = append(set.Resources, sdk.Resource{Kind: sdk.KindTask, Object: uint64(p.ID), Task: p.ID})
	}
	found, findings, err := namespaces(live, host, next)
	if err != nil && !running {
		return nil, err
	}
	set.Resources, set.Findings = append(set.Resources, found...), findings
	files, err := groupFiles(live, next, running)
	if err != nil {
		return nil, err
	}
	set.Resources = append(set.Resources, files...)
	for _, p := range live {
		for i := range p.vmas {
			set.Resources = append(set.Resources, sdk.Resource{Kind: sdk.KindVMA, Object: next(), Task: p.ID, VMA: &p.vmas[i]})
		}
		for i := range p.files {
			set.MaxFD = max(set.MaxFD, p.files[i].fd)
		}
		set.Findings = append(set.Findings, p.findings...)
	}
	shared, err := sharedTables(live)
	if err != nil {
		return nil, err
	}
	set.Findings = append(set.Findings, shared...)
	set.Free, err = freeRange(live)
	return set, err
}

// process is what was read of one process.
type process struct {
	*sdk.Process
	mounts   *mounts
	gone     bool
	files    []openFD
	vmas     []sdk.VMA
	ns       []nsLink
	findings []sdk.Finding
}

func (p *process) read() error {
	tid := p.PID
	if err := p.readNamespaces(tid); err != nil {
		return err
	}
	if err := p.readFiles(tid); err != nil {
		return err
	}
	return p.readVMAs(tid)
}

// ends tells whether a process could not be read because it ends: it is gone, or
// has no memory any more, and then proc(5) lets nobody look into it.
func ends(pid int, err error) bool {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, sdk.ErrTaskGone) || errors.Is(err, unix.ESRCH) {
		return true
	}
	if !errors.Is(err, os.ErrPermission) {
		return false
	}
	st, err := procfs.Status(pid)
	return err != nil || !st.HasMemory
}
