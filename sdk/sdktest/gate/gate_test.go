package gate

import (
	"fmt"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// recorder is a testing.TB that records how a test was ended.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper() {}
func (r *recorder) Skipf(f string, a ...any) {
	r.skipped = fmt.Sprintf(f, a...)
	runtime.Goexit()
}
func (r *recorder) Fatalf(f string, a ...any) {
	r.failed = fmt.Sprintf(f, a...)
	runtime.Goexit()
}

func run(t *testing.T, f func(testing.TB)) *recorder {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() { defer close(done); f(r) }()
	<-done
	return r
}

func TestFeature(t *testing.T) {
	missing := func(tb testing.TB) { Feature(tb, "time travel", false) }
	t.Setenv(MustRun, "")
	if r := run(t, missing); r.skipped == "" || r.failed != "" {
		t.Errorf("without %s: skipped %q, failed %q", MustRun, r.skipped, r.failed)
	}
	t.Setenv(MustRun, "1")
	if r := run(t, missing); r.failed == "" || r.skipped != "" {
		t.Errorf("with %s: skipped %q, failed %q", MustRun, r.skipped, r.failed)
	}
	if r := run(t, func(tb testing.TB) { Feature(tb, "x", true) }); r.failed+r.skipped != "" {
		t.Errorf("present feature: skipped %q, failed %q", r.skipped, r.failed)
	}
}

func TestCap(t *testing.T) {
	t.Setenv(MustRun, "")
	if r := run(t, func(tb testing.TB) { Cap(tb, 1<<20) }); r.skipped == "" {
		t.Error("a capability that does not exist did not skip")
	}
	has, err := effective(unix.CAP_SYS_PTRACE)
	if err != nil {
		t.Fatal(err)
	}
	if r := run(t, func(tb testing.TB) { Cap(tb, unix.CAP_SYS_PTRACE) }); (r.skipped == "") != has {
		t.Errorf("effective %v, skipped %q", has, r.skipped)
	}
}
