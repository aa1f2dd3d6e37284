package sdktest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

// good is a plugin without a fault, which the others change.
type good struct{}

func (good) Describe() sdk.Description {
	return sdk.Description{
		Name: "good", Version: "1", Claims: []sdk.Claim{{Kind: sdk.KindFile}},
		Records: []sdk.RecordType{{Kind: 1, Version: 1, Name: "path"}},
	}
}

func (good) Check(context.Context, *sdk.CheckRequest) ([]sdk.Finding, error) { return nil, nil }

func (good) DumpFile(ctx context.Context, f *sdk.FileDump) error {
	return f.Records.EmitRaw(ctx, 1, f.Resource.Object, []byte(f.Resource.File.Link))
}

func (good) RestoreFile(_ context.Context, f *sdk.FileRestore) (int, error) {
	if len(f.Own) != 1 || f.Own[0].Kind != 1 {
		return -1, fmt.Errorf("%d records: %w", len(f.Own), sdk.ErrCorrupt)
	}
	return unix.Open(string(f.Own[0].Payload), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// conformance is that of a plugin that carries one file.
func conformance(p sdk.Plugin) *Conformance {
	const object = 7
	return &Conformance{
		Plugin: func() sdk.Plugin { return p },
		Setup: func(t testing.TB) Config {
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			task := sdk.TaskID(os.Getpid())
			return Config{Tree: Tree(os.Getpid()), Resources: []sdk.Resource{{
				Kind: sdk.KindFile, Object: object, Task: task,
				File: &sdk.File{Link: path, Type: sdk.TypeRegular, Refs: []sdk.FDRef{{Task: task, FD: int(f.Fd())}}},
			}}}
		},
		Verify: func(t testing.TB, s *Session) {
			b := make([]byte, 20)
			if n, err := unix.Pread(s.FD(object), b, 0); err != nil || string(b[:n]) != "content" {
				t.Errorf("the restored file reads %q: %v", b[:n], err)
			}
		},
	}
}

func TestConform(t *testing.T) { Conform(t, *conformance(good{})) }

// fake collects what a part of the test finds, in place of failing.
type fake struct {
	testing.TB
	mu       sync.Mutex
	found    []string
	cleanups []func()
}

func (f *fake) Helper() {}
func (f *fake) Errorf(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.found = append(f.found, fmt.Sprintf(format, args...))
}
func (f *fake) Error(args ...any) { f.Errorf("%s", fmt.Sprint(args...)) }
func (f *fake) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	runtime.Goexit()
}
func (f *fake) Fatal(args ...any) { f.Fatalf("%s", fmt.Sprint(args...)) }

// Cleanup runs before the next part, as in a test of its own.
func (f *fake) Cleanup(c func()) { f.cleanups = append(f.cleanups, c) }

// find runs a part of the test and returns what it says.
func find(t *testing.T, c *Conformance, part func(testing.TB, *Conformance)) string {
	f := &fake{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		part(f, c)
	}()
	<-done
	for i := len(f.cleanups) - 1; i >= 0; i-- {
		f.cleanups[i]()
	}
	return strings.Join(f.found, "\n")
}

// The plugins below have one fault each.

type fickle struct {
	good
	n *int
}

func (f fickle) Describe() sdk.Description {
	d := f.good.Describe()
	*f.n++
	d.Version = fmt.Sprint(*f.n)
	return d
}

type nameless struct{ good }

func (nameless) Describe() sdk.Description {
	d := good{}.Describe()
	d.Records[0].Name, d.Claims = "", nil
	return d
}

type vague struct{ good }

func (vague) Check(context.Context, *sdk.CheckRequest) ([]sdk.Finding, error) {
	return []sdk.Finding{{Level: sdk.LevelFlag, Subject: "fd 1", Text: "wants a flag", Help: "pass it"}, {}}, nil
}

type leaky struct{ good }

func (l leaky) Check(context.Context, *sdk.CheckRequest) ([]sdk.Finding, error) {
	_, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return nil, err
}

type once struct {
	good
	n *int
}

func (o once) DumpFile(ctx context.Context, f *sdk.FileDump) error {
	if *o.n++; *o.n > 1 {
		return errors.New("a second time")
	}
	return o.good.DumpFile(ctx, f)
}

type astray struct{ good }

func (astray) DumpFile(ctx context.Context, f *sdk.FileDump) error {
	return errors.Join(f.Records.EmitRaw(ctx, 1, 99, nil), good{}.DumpFile(ctx, f))
}

// stubborn does not end with its context.
type stubborn struct {
	good
	stop chan struct{}
}

func (s stubborn) DumpFile(ctx context.Context, f *sdk.FileDump) error {
	select {
	case <-ctx.Done():
		<-s.stop
	case <-time.After(20 * time.Millisecond):
	}
	return s.good.DumpFile(ctx, f)
}

type sour struct{ good }

func (sour) Abort(context.Context) error { return errors.New("no") }

// trusting restores nothing without a word if there is no record.
type trusting struct{ good }

func (trusting) RestoreObjects(_ context.Context, req *sdk.RestoreRequest) error {
	for r, err := range req.Records.All() {
		if err != nil || len(r.Payload) == 0 {
			return errors.Join(err, sdk.ErrCorrupt)
		}
		fd, err := unix.Open(string(r.Payload), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := req.Provide(r.Object, fd); err != nil {
			return err
		}
	}
	return nil
}

// impatient has parts of the test not wait long for what never comes.
func impatient(t *testing.T) {
	patient := settleTime
	settleTime = 300 * time.Millisecond
	t.Cleanup(func() { settleTime = patient })
}

// careless takes for granted what an image has.
type careless struct{ good }

func (careless) RestoreFile(_ context.Context, f *sdk.FileRestore) (int, error) {
	return unix.Open(string(f.Own[0].Payload), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

func TestConformFindsFaults(t *testing.T) {
	n, m := 0, 0
	for name, c := range map[string]struct {
		plugin sdk.Plugin
		part   func(testing.TB, *Conformance)
		want   string
	}{
		"fickle":         {fickle{n: &n}, conformDescription, "a second description differs"},
		"nameless":       {nameless{}, conformDescription, "claims nothing"},
		"without a name": {nameless{}, conformDescription, "record kind 1"},
		"vague":          {vague{}, conformCheck, "starts with the flag"},
		"says nothing":   {vague{}, conformCheck, "a finding says nothing"},
		"leaky":          {leaky{}, conformCheck, "/dev/null"},
		"once":           {once{n: &m}, conformRoundTrip, "a second time"},
		"astray":         {astray{}, conformRoundTrip, "object 99, which is not the plugin's"},
		"sour":           {sour{}, conformAbort, "abort after 0 phases"},
		"trusting":       {trusting{}, conformDamage, "no record: the restore succeeds without object 7"},
		"careless":       {careless{}, conformDamage, "panic: "},
	} {
		impatient(t)
		if got := find(t, conformance(c.plugin), c.part); !strings.Contains(got, c.want) {
			t.Errorf("%s: found %q, want %q", name, got, c.want)
		}
	}
	for _, p := range parts {
		if got := find(t, conformance(good{}), p.run); got != "" {
			t.Errorf("%s of a good plugin: %s", p.name, got)
		}
	}
}

// TestConformFindsStubborn: a plugin that goes on when nobody waits any more.
func TestConformFindsStubborn(t *testing.T) {
	p := stubborn{stop: make(chan struct{})}
	c := conformance(p)
	setup := c.Setup
	c.Setup = func(t testing.TB) Config {
		cfg := setup(t)
		cfg.Timeout = 300 * time.Millisecond
		return cfg
	}
	time.AfterFunc(3*time.Second, func() { close(p.stop) })
	if got := find(t, c, conformCancel); !strings.Contains(got, "close session") {
		t.Errorf("found %q", got)
	}
}
