package dispatch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/tape"
	"github.com/firn-cr/firn/sdk/wire"
)

// TestMain makes the test binary a plugin when a host started it as one, and a
// host when a test started it as one.
func TestMain(m *testing.M) {
	if name, ok := strings.CutPrefix(filepath.Base(os.Args[0]), Prefix); ok {
		servePlugin(name)
	}
	if dir := os.Getenv("FIRN_TEST_HOST"); dir != "" {
		hostMain(dir)
	}
	os.Exit(m.Run())
}

// servePlugin serves a plugin that behaves as its name says.
func servePlugin(name string) {
	switch name {
	case "noisy":
		fmt.Println("hello from init")
		fmt.Println("1|2|3")
	case "garbage":
		fmt.Fprintln(os.Stderr, `{"@message":5}`)
		fmt.Fprintln(os.Stderr, `{"@message":"x","@level":7,"@timestamp":"never"}`)
		fmt.Fprintln(os.Stderr, `{"a":[`+strings.Repeat(`[`, 100))
		fmt.Fprintln(os.Stderr, strings.Repeat("long ", 100000))
		fmt.Fprint(os.Stderr, "\x00\xff{")
		fmt.Fprintln(os.Stderr)
	case "early":
		fmt.Fprintln(os.Stderr, "cannot find my configuration")
		os.Exit(3)
	case "foreign":
		serveForeign()
	case "mute":
		time.Sleep(time.Hour)
	case "liar":
		name = "honest"
	}
	sdk.Serve(&actor{name: name})
}

// actor is the test plugin. What a phase does is told by the options.
type actor struct{ name string }

const (
	kindText  = 1
	kindPages = 9
)

func (a *actor) Describe() sdk.Description {
	d := sdk.Description{
		Name: a.name, Version: "0.1.0", Summary: "a plugin of tests",
		Claims: []sdk.Claim{{Kind: sdk.KindTask}},
		Records: []sdk.RecordType{
			{Kind: kindText, Version: 2, Message: &wrapperspb.StringValue{}}, {Kind: kindPages, Version: 1, Name: "pages"},
		},
	}
	switch a.name {
	case "second":
		d.After = []string{"first", "absent"}
	case "needy":
		d.Capabilities = needs
	case "greedy":
		d.Capabilities = []string{"CAP_EVERYTHING"}
	}
	return d
}

func (a *actor) Check(_ context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	fmt.Println("printed on stdout")
	fmt.Fprintln(os.Stderr, "printed on stderr")
	hclog.Default().Debug("checking", "frozen", req.Frozen)
	if a.name == "needy" {
		text, err := exec.Command("grep", "Cap", "/proc/self/status").Output()
		return []sdk.Finding{{Level: sdk.LevelNote, Subject: a.name, Text: string(text)}}, err
	}
	return []sdk.Finding{{Level: sdk.LevelNote, Subject: a.name, Text: os.Getenv("GOMAXPROCS")}}, nil
}

func (a *actor) Dump(ctx context.Context, req *sdk.DumpRequest) error {
	do, _ := req.Option("do")
	switch do {
	case "crash":
		go func() { panic("on purpose") }()
		select {}
	case "exit":
		os.Exit(7)
	case "hang":
		select {}
	case "stop":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		select {}
	case "fail":
		return fmt.Errorf("fd 7 of task 41: %w: %w", sdk.ErrUnsupported, syscall.EOPNOTSUPP)
	case "fork":
		return startSleeper(req.Options["pidfile"])
	case "tapes":
		return runTape(ctx, req)
	case "violate":
		// Claim a submission far behind anything that was granted.
		arena, err := syscall.Mmap(wire.FDArena, 0, 4096, syscall.PROT_WRITE, syscall.MAP_SHARED)
		if err != nil {
			return err
		}
		arena[3] = 0x7f
		_, err = syscall.Write(wire.FDSubmit, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		if err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	for i := range uint64(1000) {
		if err := req.Records.Emit(ctx, kindText, i, wrapperspb.String(fmt.Sprint("record ", i))); err != nil {
			return err
		}
	}
	buf, err := req.Records.Bulk(ctx, 1<<20)
	if err != nil {
		return err
	}
	if do == "undeclared" {
		return buf.Commit(ctx, 77, 1, 5)
	}
	return buf.Commit(ctx, kindPages, 1, 5)
}

// startSleeper leaves a child that holds stdout and stderr.
func startSleeper(pidfile string) error {
	p, err := os.StartProcess("/bin/sleep", []string{"sleep", "600"}, &os.ProcAttr{Files: []*os.File{nil, os.NewFile(1, "1"), os.NewFile(2, "2")}})
	if err != nil {
		return err
	}
	return os.WriteFile(pidfile, []byte(fmt.Sprint(p.Pid)), 0o600)
}

func runTape(ctx context.Context, req *sdk.DumpRequest) error {
	t := &tape.Tape{}
	t.Call(unix.SYS_GETPID)
	out, err := req.Host.RunTapes(ctx, []tape.Run{{TID: 5, Tape: t}})
	if err != nil {
		return err
	}
	if v, err := out[0].Value(0); err != nil || v != 4711 {
		return fmt.Errorf("got %d: %w", v, err)
	}
	return nil
}

func (a *actor) RestoreObjects(_ context.Context, req *sdk.RestoreRequest) error {
	n := 0
	for r, err := range req.Records.All() {
		if err != nil {
			return err
		}
		if r.Object == 5 && r.Bulk {
			continue
		}
		n++
	}
	if n != 1000 {
		return fmt.Errorf("%d records", n)
	}
	return req.Provide(5, 0)
}

func (a *actor) Abort(context.Context) error {
	return errors.New("abort was called")
}

// install makes plugins of the test binary in a directory.
func install(t testing.TB, names ...string) []Binary {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.Symlink(exe, filepath.Join(dir, Prefix+name)); err != nil {
			t.Fatal(err)
		}
	}
	bins, err := Discover([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	return bins
}

// start starts plugins and stops them when the test ends.
func start(t testing.TB, opt Options, names ...string) *Set {
	t.Helper()
	if opt.RuntimeDir == "" {
		opt.RuntimeDir = runtimeDir(t)
	}
	set, err := Start(t.Context(), install(t, names...), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return set
}

// runtimeDir is a directory with a short name.
func runtimeDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// alive tells whether a process exists and is no zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// gone waits for a process to end.
func gone(t testing.TB, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("process %d is still there", pid)
			return
		}
	}
}
