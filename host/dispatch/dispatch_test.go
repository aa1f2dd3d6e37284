package dispatch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/hbuf"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/tape"
	"github.com/firn-cr/firn/sdk/wire"
)

// logBuffer collects a log.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// wait waits until the log has all texts.
func (l *logBuffer) wait(t *testing.T, texts ...string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		missing := ""
		for _, text := range texts {
			if !strings.Contains(l.String(), text) {
				missing = text
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("the log lacks %q:\n%s", missing, l.String())
			return
		}
	}
}

func newLog() (*logBuffer, hclog.Logger) {
	l := &logBuffer{}
	return l, hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: l})
}

func open(t *testing.T, p *Plugin, cfg SessionConfig) {
	t.Helper()
	if cfg.Host == nil {
		cfg.Host = &sdktest.Host{}
	}
	if err := p.Open(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
}

func TestCheckpointAndRestore(t *testing.T) {
	for _, arena := range []*ArenaOptions{{}, {Mode: hbuf.Deferred, MemoryLimit: 32 << 20, Populate: 1 << 20}, nil} {
		t.Run(fmt.Sprintf("%+v", arena), func(t *testing.T) {
			img := sdktest.NewImage(t)
			set := start(t, Options{Arena: arena}, "one")
			p := set.Get("one")
			open(t, p, SessionConfig{})
			found, _, err := p.Check(t.Context(), Round{})
			if err != nil || len(found) != 1 || found[0].Text != "2" {
				t.Fatalf("%v: %v", found, err)
			}
			p.SetSink(img)
			if err := p.Dump(t.Context(), Round{}); err != nil {
				t.Fatal(err)
			}
			if err := set.Drain(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s := p.Stats(); s.Records != 1001 || s.WrittenRecords != 1001 || s.BulkBytes != 1<<20 {
				t.Errorf("stats %+v", s)
			}
			restoreFrom(t, img)
		})
	}
}

func restoreFrom(t *testing.T, img *sdktest.Image) {
	t.Helper()
	set := start(t, Options{}, "one")
	p := set.Get("one")
	open(t, p, SessionConfig{Image: img.File(), Blocks: img.Blocks()})
	provided, err := p.RestoreObjects(t.Context(), Round{})
	if err != nil || len(provided) != 1 || provided[0] != (wire.Provided{Object: 5, FD: 0}) {
		t.Errorf("%v: %v", provided, err)
	}
}

func TestTapes(t *testing.T) {
	host := &sdktest.Host{Tapes: func(r tape.Run) tape.Outcome { return tape.Outcome{Results: []int64{4711}} }}
	p := start(t, Options{}, "one").Get("one")
	open(t, p, SessionConfig{Host: host, Options: map[string]string{"do": "tapes"}})
	if err := p.Dump(t.Context(), Round{}); err != nil {
		t.Error(err)
	}
}

func TestErrorsNamePluginAndPhase(t *testing.T) {
	for do, want := range map[string]string{
		"fail":  "plugin one: dump: fd 7 of task 41: not supported: operation not supported",
		"crash": "plugin one: dump: plugin process died (exit status 2: panic: on purpose)",
		"exit":  "plugin one: dump: plugin process died (exit status 7)",
		"hang":  "plugin one: dump: timed out after 300ms",
		"stop":  "plugin one: dump: timed out after 300ms",
	} {
		t.Run(do, func(t *testing.T) {
			t.Parallel()
			set := start(t, Options{Deadlines: map[wire.Phase]time.Duration{wire.PhaseDump: 300 * time.Millisecond}}, "one")
			p := set.Get("one")
			open(t, p, SessionConfig{Options: map[string]string{"do": do}, Sink: sdktest.NewImage(t)})
			err := p.Dump(t.Context(), Round{})
			if err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
			pid, begin := p.PID(), time.Now()
			if err := set.Close(); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took > 3*time.Second {
				t.Errorf("close took %v", took)
			}
			gone(t, pid)
		})
	}
}

func TestSentinelsArrive(t *testing.T) {
	p := start(t, Options{}, "one").Get("one")
	open(t, p, SessionConfig{Options: map[string]string{"do": "fail"}})
	err := p.Dump(t.Context(), Round{})
	if !errors.Is(err, sdk.ErrUnsupported) || !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Errorf("got %v", err)
	}
}

func TestKilledPlugin(t *testing.T) {
	set := start(t, Options{}, "one", "two")
	for _, p := range set.Plugins() {
		open(t, p, SessionConfig{Options: map[string]string{"do": "hang"}})
	}
	go func() {
		time.Sleep(50 * time.Millisecond)
		_ = syscall.Kill(set.Get("two").PID(), syscall.SIGKILL)
	}()
	err := set.Each(t.Context(), nil, func(ctx context.Context, p *Plugin) error { return p.Dump(ctx, Round{}) })
	if !errors.Is(err, ErrDied) || err.Error() != "plugin two: dump: plugin process died (signal: killed)" {
		t.Errorf("got %v", err)
	}
	if err := set.Abort(t.Context()); err == nil || err.Error() != "plugin one: abort: abort was called" {
		t.Errorf("abort: %v", err)
	}
}

func TestProtocolViolationKills(t *testing.T) {
	for do, arena := range map[string]*ArenaOptions{"violate": {}, "undeclared": {}, "undeclared by message": nil} {
		p := start(t, Options{Arena: arena}, "one").Get("one")
		do, _, _ := strings.Cut(do, " ")
		open(t, p, SessionConfig{Options: map[string]string{"do": do}, Sink: sdktest.NewImage(t)})
		err := p.Dump(t.Context(), Round{})
		if err == nil {
			err = p.Drain(t.Context())
		}
		if !errors.Is(err, hbuf.ErrProtocol) || !strings.HasPrefix(err.Error(), "plugin one: ") {
			t.Errorf("%s: %v", do, err)
		}
		gone(t, p.PID())
	}
}

func TestRecordsWithoutSink(t *testing.T) {
	p := start(t, Options{Arena: &ArenaOptions{}}, "one").Get("one")
	open(t, p, SessionConfig{})
	// The records may have been accepted before writing them failed.
	err := p.Dump(t.Context(), Round{})
	if err == nil {
		err = p.Drain(t.Context())
	}
	if !errors.Is(err, errNoSink) {
		t.Errorf("got %v", err)
	}
}

func TestGrandchildDies(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	set := start(t, Options{}, "one")
	p := set.Get("one")
	open(t, p, SessionConfig{Options: map[string]string{"do": "fork", "pidfile": file}})
	if err := p.Dump(t.Context(), Round{}); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := set.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("close took %v", took)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil {
		t.Fatal(err)
	}
	gone(t, pid)
}

func TestOutputReachesTheLog(t *testing.T) {
	text, log := newLog()
	set := start(t, Options{Log: log}, "noisy", "garbage")
	p := set.Get("noisy")
	open(t, p, SessionConfig{})
	if _, _, err := p.Check(t.Context(), Round{Frozen: true}); err != nil {
		t.Fatal(err)
	}
	text.wait(t, "noisy: plugin prints on stdout before it serves: text=\"hello from init\"",
		"noisy: checking: frozen=true", "noisy: stdout: text=\"printed on stdout\"", "noisy: stderr: text=\"printed on stderr\"",
		"garbage: stderr:", `{\"@message\":5}`)
}

func TestStartFails(t *testing.T) {
	for name, want := range map[string]string{
		"early": "plugin early: start: plugin process died (exit status 3: cannot find my configuration)",
		"mute":  "plugin mute: start: start of plugins: timed out",
		"liar":  `says that its name is "honest"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rt := runtimeDir(t)
			timeout := 10 * time.Second
			if name == "mute" {
				timeout = 300 * time.Millisecond
			}
			set, err := Start(t.Context(), install(t, name, "good"), Options{RuntimeDir: rt, StartTimeout: timeout})
			if err == nil {
				set.Close()
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), want) || !errors.Is(err, failure.ErrPlugin) {
				t.Errorf("got %v", err)
			}
			noSockets(t, rt)
		})
	}
}

// noSockets checks that nothing but the common directory is left.
func noSockets(t *testing.T, rt string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(rt, "firn"))
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		if e.Name() != "plugins" || !e.IsDir() { // the memory of claims is to stay
			t.Errorf("%s is left", e.Name())
		}
	}
}

func TestNoSocketsWhileRunning(t *testing.T) {
	rt := runtimeDir(t)
	start(t, Options{RuntimeDir: rt}, "one", "two")
	noSockets(t, rt)
}

func TestSweep(t *testing.T) {
	rt := runtimeDir(t)
	used, err := newSocketDir(rt)
	if err != nil {
		t.Fatal(err)
	}
	defer used.remove()
	left := filepath.Join(rt, "firn", "host-left")
	if err := os.MkdirAll(filepath.Join(left, "plugin-dir1"), 0o700); err != nil {
		t.Fatal(err)
	}
	other, err := newSocketDir(rt)
	if err != nil {
		t.Fatal(err)
	}
	defer other.remove()
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("the left directory: %v", err)
	}
	if _, err := os.Stat(used.path); err != nil {
		t.Errorf("the used directory: %v", err)
	}
	if _, err := newSocketDir(filepath.Join(rt, strings.Repeat("x", 100))); err == nil {
		t.Error("a long path was taken")
	}
}
