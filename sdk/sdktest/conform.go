package sdktest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/wire"
)

// Conformance is a plugin with something for it to carry.
type Conformance struct {
	// Plugin makes a plugin. Every part of the test gets a new one.
	Plugin func() sdk.Plugin
	// Setup opens what the plugin is to carry, in the process of the test, and
	// returns what describes it. It is called once for every part; what it opens it
	// closes with t.Cleanup.
	Setup func(t testing.TB) Config
	// Verify looks at what a restore has made: s.FD(object) is a descriptor that was
	// provided. Nil if there is nothing to look at.
	Verify func(t testing.TB, s *Session)
	// Program is the directory of the plugin's main package: it is built and run by
	// firn. Empty leaves that out.
	Program string
	// Subject is a program, with its arguments, that firn checkpoints and restores
	// with the plugin, for which Program must be set. It appends a line to the file
	// "log" in its working directory as often as it has found that all is right, and
	// one that begins with "bad" when it is not. Nil leaves that out.
	Subject []string
	// Flags are those of the checkpoint of Subject.
	Flags []string
}

// Conform tests what the host and the authors of other plugins rely on:
//
//   - the description is valid and always the same;
//   - checks change nothing, and say for every flag which one it is;
//   - what was dumped is restored, also for the second time in one process;
//   - a session may be aborted, or end, after every phase, and be canceled in it;
//   - records that are missing, cut, changed or of an unknown kind are errors, not
//     panics, and never a restore that looks right;
//   - descriptors and goroutines are given back with the session.
//
// With Program the plugin is also run as a process by firn, if that is in the PATH or
// named by the environment variable FIRN, and with Subject a whole program is
// checkpointed and restored, where the rights are there. See package gate for what
// is missing.
func Conform(t *testing.T, c Conformance) {
	t.Helper()
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) { p.run(t, &c) })
	}
	if c.Program != "" {
		t.Run("process", func(t *testing.T) { conformProcess(t, &c) })
	}
}

// part is one part of the test.
type part struct {
	name string
	run  func(t testing.TB, c *Conformance)
}

var parts = []part{
	{"describe", conformDescription},
	{"check", conformCheck},
	{"round trip", conformRoundTrip},
	{"abort", conformAbort},
	{"cancel", conformCancel},
	{"damaged image", conformDamage},
}

func conformDescription(t testing.TB, c *Conformance) {
	defer leaks(t, nil)()
	p := c.Plugin()
	first, second := p.Describe(), p.Describe()
	if err := first.Validate(); err != nil {
		t.Errorf("description: %v", err)
	}
	if a, b := fmt.Sprintf("%+v", summary(&first)), fmt.Sprintf("%+v", summary(&second)); a != b {
		t.Errorf("a second description differs:\n%s\n%s", a, b)
	}
	for _, r := range first.Records {
		if r.Version == 0 || r.Message == nil && r.Name == "" {
			t.Errorf("record kind %d: want a version above 0, and a message or a name", r.Kind)
		}
	}
	if len(first.Claims) == 0 && len(first.Attends) == 0 {
		t.Error("the plugin claims nothing and attends nothing: it will never be called")
	}
}

// summary is what of a description can be compared as text.
func summary(d *sdk.Description) []any {
	out := []any{d.Name, d.Version, d.Summary, d.After, d.Capabilities}
	for _, list := range [][]sdk.Claim{d.Claims, d.Attends} {
		for _, c := range list {
			device, socket := c.Device, c.Socket
			c.Device, c.Socket = nil, nil
			out = append(out, fmt.Sprintf("%+v %+v %+v", c, device, socket))
		}
	}
	for _, r := range d.Records {
		out = append(out, r.Kind, r.Version, r.Name, r.Optional)
	}
	return out
}

func conformCheck(t testing.TB, c *Conformance) {
	cfg := c.Setup(t)
	h := New(t, c.Plugin(), cfg)
	if !h.Info().Has(wire.PhaseCheck) {
		return
	}
	for _, frozen := range []bool{false, true, false} {
		settled := leaks(t, h)
		found, err := h.Check(frozen)
		if err != nil {
			t.Fatalf("check (frozen: %v): %v", frozen, err)
		}
		for _, f := range found {
			switch {
			case f.Subject == "" || f.Text == "":
				t.Errorf("a finding says nothing: %+v", f)
			case f.Level == sdk.LevelFlag && !strings.HasPrefix(f.Help, "--"):
				t.Errorf("%s: %s: the help of a finding for a flag starts with the flag: %q", f.Subject, f.Text, f.Help)
			}
		}
		if b := Blockers(found); len(b) > 0 {
			t.Errorf("what Setup opened cannot be carried: %s", strings.Join(b, "; "))
		}
		settled()
	}
}

func conformRoundTrip(t testing.TB, c *Conformance) {
	cfg := c.Setup(t)
	h := New(t, c.Plugin(), cfg)
	settled := leaks(t, h)
	for range 2 {
		c.trip(t, h)
	}
	settled()
}

// trip dumps and restores once.
func (c *Conformance) trip(t testing.TB, h *Harness) {
	t.Helper()
	img, err := h.Dump()
	if err != nil {
		t.Fatalf("dump: %v", err)
	}
	own := map[uint64]bool{0: true}
	for _, r := range h.Resources {
		own[r.Object] = true
	}
	for _, r := range img.Records(t) {
		if !own[r.Object] {
			t.Errorf("record kind %d of object %d, which is not the plugin's", r.Kind, r.Object)
		}
	}
	s, err := c.restore(h, img)
	if err != nil {
		s.Close()
		t.Fatalf("restore: %v", err)
	}
	defer s.Close()
	for _, r := range h.Resources {
		if r.Kind == sdk.KindFile && s.FD(r.Object) < 0 {
			t.Errorf("object %d (%s) was not provided", r.Object, r.File.Link)
		}
	}
	if c.Verify != nil {
		c.Verify(t, s)
	}
}

// restore runs all phases of a restore, the check included.
func (*Conformance) restore(h *Harness, img *Image) (*Session, error) {
	s := h.OpenRestore(img)
	for _, p := range append([]wire.Phase{wire.PhaseCheckImage}, restorePhases...) {
		if !h.info.Has(p) {
			continue
		}
		res, err := s.Run(p)
		if err != nil {
			return s, err
		}
		if b := Blockers(res.Findings); len(b) > 0 {
			return s, fmt.Errorf("%s: %s", p, strings.Join(b, "; "))
		}
	}
	return s, nil
}

// dumpPhases are the phases of a checkpoint in order.
var dumpPhases = []wire.Phase{
	wire.PhaseQuiesce, wire.PhaseCheck, wire.PhasePrepare, wire.PhaseDump, wire.PhaseThawed,
}

// conformAbort ends sessions after each number of phases, by the abort that a host
// sends and without one, as if it had died. A whole trip must work afterwards.
func conformAbort(t testing.TB, c *Conformance) {
	cfg := c.Setup(t)
	h := New(t, c.Plugin(), cfg)
	img, err := h.Dump()
	if err != nil {
		t.Fatalf("dump: %v", err)
	}
	settled := leaks(t, h)
	for _, flow := range []struct {
		phases []wire.Phase
		open   func() *Session
	}{
		{dumpPhases, h.Open},
		{append([]wire.Phase{wire.PhaseCheckImage}, restorePhases...), func() *Session { return h.OpenRestore(img) }},
	} {
		for n := range len(flow.phases) + 1 {
			for _, abort := range []bool{true, false} {
				s := flow.open()
				for _, p := range flow.phases[:n] {
					s.Frozen = p == wire.PhaseDump
					if _, err := s.runIf(p); err != nil {
						t.Errorf("%v", err)
					}
				}
				if abort {
					if _, err := s.Run(wire.PhaseAbort); err != nil {
						t.Errorf("abort after %d phases: %v", n, err)
					}
				}
				s.Close()
			}
		}
	}
	c.trip(t, h)
	settled()
}

// runIf runs a phase if the plugin has it.
func (s *Session) runIf(p wire.Phase) (wire.Result, error) {
	if !s.h.info.Has(p) {
		return wire.Result{}, nil
	}
	return s.Run(p)
}

// conformCancel cancels every phase, before it begins and a moment later. The
// plugin may finish it or give up, but must come to an end.
func conformCancel(t testing.TB, c *Conformance) {
	cfg := c.Setup(t)
	h := New(t, c.Plugin(), cfg)
	img, err := h.Dump()
	if err != nil {
		t.Fatalf("dump: %v", err)
	}
	settled := leaks(t, h)
	canceled := func(s *Session, phases []wire.Phase) {
		for i, p := range phases {
			if !h.info.Has(p) {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i%2)*time.Millisecond)
			_, _ = s.RunContext(ctx, p) // the error is that of the context, or the phase was faster
			cancel()
			break
		}
		s.Close()
	}
	for i := range dumpPhases {
		canceled(h.Open(), dumpPhases[i:])
	}
	for i := range restorePhases {
		canceled(h.OpenRestore(img), restorePhases[i:])
	}
	settled()
	c.trip(t, h)
}

// settleTime is how long a plugin may take to give back what it had, and to end
// what it was doing.
var settleTime = 5 * time.Second

// leaks notes which descriptors and goroutines there are. The function that it
// returns requires that no more are left, without the images of sessions of h that
// were opened meanwhile.
func leaks(t testing.TB, h *Harness) func() {
	t.Helper()
	files, routines := descriptors(t), runtime.NumGoroutine()
	images := 0
	if h != nil {
		images = len(h.images)
	}
	return func() {
		t.Helper()
		if h != nil {
			for _, img := range h.images[images:] {
				_ = img.file.Close() // again with the test
			}
		}
		var more []string
		var running int
		for deadline := time.Now().Add(settleTime); ; time.Sleep(10 * time.Millisecond) {
			more = slices.DeleteFunc(descriptors(t), func(f string) bool { return slices.Contains(files, f) })
			running = runtime.NumGoroutine()
			if len(more) == 0 && running <= routines {
				return
			}
			if time.Now().After(deadline) {
				break
			}
		}
		if len(more) > 0 {
			t.Errorf("descriptors were left open: %s", strings.Join(more, ", "))
		}
		if running > routines {
			buf := make([]byte, 64<<10)
			t.Errorf("%d goroutines are left, %d there were:\n%s", running, routines, buf[:runtime.Stack(buf, true)])
		}
	}
}

// descriptors are the open files of this process, as "NUMBER -> FILE".
func descriptors(t testing.TB) []string {
	t.Helper()
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatalf("sdktest: %v", err)
	}
	var out []string
	for _, e := range entries {
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // that of the list
		}
		if err != nil {
			t.Fatalf("sdktest: %v", err)
		}
		out = append(out, e.Name()+" -> "+link)
	}
	return out
}
