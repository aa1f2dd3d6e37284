package dispatch

import (
	"errors"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/sdk/procfs"
)

// TestDebuggedPluginWaits: a plugin that is to be debugged stands still, longer than
// plugins may take to start, until somebody lets it go; then it works as always.
func TestDebuggedPluginWaits(t *testing.T) {
	text, log := newLog()
	bins := install(t, "one")
	if err := Debug(bins, []string{"nobody"}); !errors.Is(err, failure.ErrUsage) {
		t.Errorf("a plugin that is not there: %v", err)
	}
	if err := Debug(bins, []string{"one"}); err != nil {
		t.Fatal(err)
	}
	type outcome struct {
		set *Set
		err error
	}
	started := make(chan outcome, 1)
	go func() {
		set, err := Start(t.Context(), bins, Options{Log: log, RuntimeDir: runtimeDir(t), StartTimeout: 50 * time.Millisecond})
		started <- outcome{set, err}
	}()
	text.wait(t, "waits for a debugger")
	m := regexp.MustCompile(`process (\d+) waits`).FindStringSubmatch(text.String())
	pid, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if st, err := procfs.Stat(pid); err == nil && st.State == 'T' {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the plugin does not stop")
		}
	}
	select {
	case o := <-started:
		t.Fatalf("the plugin has started: %v", o.err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	o := <-started
	if o.err != nil {
		t.Fatal(o.err)
	}
	p := o.set.Get("one")
	open(t, p, SessionConfig{})
	if _, _, err := p.Check(t.Context(), Round{}); err != nil {
		t.Error(err)
	}
	if err := o.set.Close(); err != nil {
		t.Error(err)
	}
}
