package mm

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
)

// workers is how many goroutines work at the same time: the limit is the
// memory's bandwidth, which a few use up.
var workers = min(runtime.NumCPU(), 4)

// copiers is how many copy memory into records. A host that writes them at once
// keeps one processor busy.
func copiers(deferred bool) int {
	if deferred {
		return workers
	}
	return max(workers-1, 1)
}

// forEach calls f for 0 to n-1 from several goroutines, each with a number of
// its own from 0 to workers-1. The first error stops the handing out of more.
func forEach(ctx context.Context, n int, f func(worker, i int) error) error {
	return forEachOf(ctx, workers, n, f)
}

// forEachOf is forEach with a number of goroutines.
func forEachOf(ctx context.Context, workers, n int, f func(worker, i int) error) error {
	var next atomic.Int64
	var failed atomic.Bool
	errs := make([]error, min(workers, n))
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			for !failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				err := ctx.Err()
				if err == nil {
					err = f(w, i)
				}
				if err != nil {
					errs[w] = err
					failed.Store(true)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
