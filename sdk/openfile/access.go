package openfile

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/procfs"
)

// Access reaches the open file descriptions of a tree. It keeps a pidfd per
// process until Close. It is safe for concurrent use.
type Access struct {
	tree *sdk.Tree
	fds  kern.Descriptors
}

// NewAccess returns access to the files of a tree.
func NewAccess(tree *sdk.Tree) *Access { return &Access{tree: tree} }

// Close closes the pidfds. Duplicates stay open.
func (a *Access) Close() { a.fds.Close() }

// Holder returns the first descriptor of a description and the process that
// has it. A description that only something else holds ([sdk.Holder]) has none.
func (a *Access) Holder(r *sdk.Resource) (sdk.FDRef, *sdk.Process, error) {
	if r.File == nil || len(r.File.Refs) == 0 {
		return sdk.FDRef{}, nil, fmt.Errorf("no descriptor refers to object %d: %w", r.Object, sdk.ErrCorrupt)
	}
	ref := r.File.Refs[0]
	p := a.tree.Process(ref.Task)
	if p == nil {
		return ref, nil, fmt.Errorf("task %d is not in the tree: %w", ref.Task, sdk.ErrCorrupt)
	}
	return ref, p, nil
}

// place is where a description can be had from.
func (a *Access) place(r *sdk.Resource) (pid, fd int, err error) {
	if r.File != nil && len(r.File.Refs) == 0 && len(r.File.Holders) > 0 {
		h := r.File.Holders[0]
		return h.PID, h.FD, nil
	}
	ref, p, err := a.Holder(r)
	if err != nil {
		return 0, 0, err
	}
	return p.PID, ref.FD, nil
}

// Dup duplicates a description into this process, close-on-exec. The caller
// closes it. It shares offset and flags with the tree: do not change them.
func (a *Access) Dup(r *sdk.Resource) (int, error) {
	pid, n, err := a.place(r)
	if err != nil {
		return -1, err
	}
	fd, err := a.fds.Get(n, pid)
	if err != nil {
		return -1, fmt.Errorf("pidfd_getfd: %w", err)
	}
	return fd, nil
}

// Gone tells whether an error is that of a descriptor that was closed, or of a
// process that has ended, since the tree was looked at: it runs.
func Gone(err error) bool { return errors.Is(err, unix.EBADF) || errors.Is(err, unix.ESRCH) }

// FDInfo reads the fdinfo of a description.
func (a *Access) FDInfo(r *sdk.Resource) (*procfs.FDInfo, error) {
	pid, fd, err := a.place(r)
	if err != nil {
		return nil, err
	}
	return procfs.ReadFDInfo(pid, fd)
}

// Subject names a description as [sdk.File.Subject] does.
func Subject(r *sdk.Resource) string {
	if r.File == nil {
		return "file"
	}
	return r.File.Subject()
}

// Report collects findings about files. The zero Report is empty and ready; it
// is safe for concurrent use.
type Report struct {
	mu       sync.Mutex
	findings []sdk.Finding
}

// Block reports that a description cannot be carried.
func (r *Report) Block(res *sdk.Resource, text, help string) { r.Add(res, sdk.LevelBlock, text, help) }

// Note reports a difference that does not keep it from being carried.
func (r *Report) Note(res *sdk.Resource, text string) { r.Add(res, sdk.LevelNote, text, "") }

// Add reports a finding of any level.
func (r *Report) Add(res *sdk.Resource, level sdk.Level, text, help string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.findings = append(r.findings, sdk.Finding{
		Level: level, Task: res.Task, Object: res.Object, Subject: Subject(res), Text: text, Help: help,
	})
}

// Findings returns what was reported in the order of the objects.
func (r *Report) Findings() []sdk.Finding {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := slices.Clone(r.findings)
	slices.SortStableFunc(out, func(a, b sdk.Finding) int {
		if a.Object != b.Object {
			if a.Object < b.Object {
				return -1
			}
			return 1
		}
		return 0
	})
	return out
}

// batch is how many files one goroutine takes at a time.
const batch = 64

// Each calls f for 0 to n-1 from several goroutines and returns the error of
// the lowest number that failed; it need not have called f for all then.
func Each(ctx context.Context, n int, f func(int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		next   int
		failed = n
		first  error
	)
	take := func() (int, int) {
		mu.Lock()
		defer mu.Unlock()
		start := next
		next = min(next+batch, n)
		return start, next
	}
	work := func() {
		defer wg.Done()
		for start, end := take(); start < end && ctx.Err() == nil; start, end = take() {
			for i := start; i < end; i++ {
				if err := f(i); err != nil {
					mu.Lock()
					if i < failed {
						failed, first = i, err
					}
					mu.Unlock()
					cancel()
					return
				}
			}
		}
	}
	for range min(runtime.GOMAXPROCS(0), (n+batch-1)/batch) {
		wg.Add(1)
		go work()
	}
	wg.Wait()
	if first != nil {
		return first
	}
	if failed == n && next < n {
		return context.Cause(ctx)
	}
	return nil
}
