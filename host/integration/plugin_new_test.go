package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/sdktest"
)

// TestNewPlugin goes the way of somebody who has an idea: a new module, its tests,
// its installation, and a program that is saved with it.
func TestNewPlugin(t *testing.T) {
	needs(t)
	p, err := subjects()
	if err != nil {
		t.Fatal(err)
	}
	dir := workDir(t)
	f := firn(t)
	f.Env = []string{"FIRN_PLUGIN_PATH=" + filepath.Join(dir, "plugins")}
	for _, name := range []string{"PATH", "GOCACHE", "GOPATH", "GOMODCACHE", "GOFLAGS", "GOPROXY"} {
		if v, ok := os.LookupEnv(name); ok {
			f.Env = append(f.Env, name+"="+v)
		}
	}
	module := filepath.Join(dir, "module")
	want(t, harness.StatusDone, f, "plugin", "new", "widget", "--path", dir+"/data/*", "--dir", module, "--sdk", p.Path("."))
	want(t, harness.StatusFailed, f, "plugin", "new", "widget", "--dir", module)
	want(t, harness.StatusUsage, f, "plugin", "new", "Widget")
	for _, target := range []string{"test", "build"} {
		cmd := exec.Command(program(t, "make"), target)
		cmd.Dir = module
		cmd.Env = append(os.Environ(), sdktest.FirnProgram+"="+f.Path)
		if out, err := harness.Output(40*grace, cmd); err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
	}
	binary := filepath.Join(module, "bin", "firn-plugin-widget")
	res := want(t, harness.StatusDone, f, "plugin", "add", binary)
	contains(t, res, res.Stdout, "widget 0.1.0", dir+"/data/*")
	want(t, harness.StatusPlugin, f, "plugin", "add", binary)
	want(t, harness.StatusDone, f, "plugin", "add", "--replace", binary)
	res = want(t, harness.StatusDone, f, "plugin", "verify", "widget")
	contains(t, res, res.Stdout, "ok, pinned")

	// A file that the plugin files would take belongs to it.
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	held, err := os.Create(filepath.Join(dir, "data", "x"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	s := start(t, harness.Spec{Path: program(t, "python3"), Args: []string{script(t, "counter.py")}, Files: [3]*os.File{held}})
	s.ready()
	res = want(t, harness.StatusDone, f, "check", strconv.Itoa(s.PID))
	contains(t, res, res.Stdout, "widget")
	// Who takes what can be decided for one run.
	res = want(t, harness.StatusDone, f, "check", strconv.Itoa(s.PID), "--disable-plugin", "widget")
	if strings.Contains(res.Stdout, "widget") {
		t.Errorf("a plugin that is disabled takes something: %s", res)
	}
	res = want(t, harness.StatusDone, f, "check", strconv.Itoa(s.PID), "--plugin-for", "file:"+s.Dir+"/log=widget")
	if strings.Count(res.Stdout, "widget") < 2 {
		t.Errorf("the rule does not hold: %s", res)
	}
	want(t, harness.StatusUsage, f, "check", strconv.Itoa(s.PID), "--plugin-for", "file:/x=nobody")
	want(t, harness.StatusUsage, f, "check", strconv.Itoa(s.PID), "--disable-plugin", "nobody")
	want(t, harness.StatusUsage, f, "check", strconv.Itoa(s.PID), "--trust-plugin", "nobody")
	want(t, harness.StatusDone, f, "check", strconv.Itoa(s.PID), "--trust-plugin", "widget")
	want(t, harness.StatusDone, f, "checkpoint", strconv.Itoa(s.PID), "-o", s.image, "--plugin-for", "file:"+s.Dir+"/*=widget")
	s.Forget()
	want(t, harness.StatusUsage, f, "restore", "-d", s.image, "--trust-plugin", "nobody")
	want(t, harness.StatusDone, f, "restore", "-d", s.image)
	s.unharmed()

	// What is not the file that was added is not executed.
	installed := filepath.Join(dir, "plugins", "firn-plugin-widget")
	b, err := os.ReadFile(installed)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(installed, append(b, 0), 0o755); err != nil {
		t.Fatal(err)
	}
	res = want(t, harness.StatusPlugin, f, "plugin", "verify")
	contains(t, res, res.Stdout, "recorded is")
	want(t, harness.StatusPlugin, f, "checkpoint", strconv.Itoa(s.PID), "-o", s.image+"2")
	want(t, harness.StatusDone, f, "plugin", "remove", "widget")
	want(t, harness.StatusPlugin, f, "plugin", "remove", "widget")
	if left, err := os.ReadDir(filepath.Join(dir, "plugins")); err != nil || len(left) > 0 {
		t.Errorf("%v is left: %v", left, err)
	}
	s.unharmed()
}
