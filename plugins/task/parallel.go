package task

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
)

// inParallel calls f for 0 to n-1 on as many threads as there are CPUs and
// returns the first error, after which it starts no more calls.
func inParallel(ctx context.Context, n int, f func(i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// threadOf is a thread of a process of type P.
type threadOf[P any] struct {
	process P
	index   int
}

// threadsOf lists the threads of all processes, so that one process with many
// threads is worked on by all CPUs.
func threadsOf[P any](processes []P, count func(P) int) []threadOf[P] {
	var all []threadOf[P]
	for _, p := range processes {
		for i := range count(p) {
			all = append(all, threadOf[P]{p, i})
		}
	}
	return all
}
