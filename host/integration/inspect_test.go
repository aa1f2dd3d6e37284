package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// contains requires every one of the words in a text.
func contains(t *testing.T, res harness.Result, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing: %s", w, res)
		}
	}
}

// object requires that the output is one JSON object with these members.
func object(t *testing.T, res harness.Result, members ...string) map[string]any {
	t.Helper()
	var o map[string]any
	if err := json.Unmarshal([]byte(res.Stdout), &o); err != nil {
		t.Fatalf("%v: %s", err, res)
	}
	for _, m := range members {
		if _, ok := o[m]; !ok {
			t.Errorf("member %q is missing: %s", m, res)
		}
	}
	return o
}

// TestCheck: the report before a checkpoint, which changes nothing.
func TestCheck(t *testing.T) {
	s := startC(t, "queues")
	f := firn(t)
	for _, args := range [][]string{{"check"}, {"check", "--freeze"}} {
		res := want(t, harness.StatusDone, f, append(args, strconv.Itoa(s.PID))...)
		contains(t, res, res.Stdout, "Tree 2 processes, 2 threads", "Verdict: YES", "RESOURCE", "WHERE", "PLUGIN", "RESULT",
			"mm", "files", "sockets", "eventfd", "listener.sock", "(deleted")
		s.unharmed()
	}
	res := want(t, harness.StatusDone, f, "check", strconv.Itoa(s.PID), "--json")
	object(t, res)
	res = want(t, harness.StatusDone, f, "check", strconv.Itoa(s.PID), "--why")
	contains(t, res, res.Stdout, "WHY", "claims file sock family 1", "claims file [eventfd]")

	// Without an argument: what this kernel can do.
	res = want(t, harness.StatusDone, f, "check")
	contains(t, res, strings.ToLower(res.Stdout), "ptrace", "clone3")

	s.checkpoint("--leave-running")
	res = want(t, harness.StatusDone, f, "check", s.image)
	contains(t, res, res.Stdout, s.image, "ok")
	s.unharmed()
}

// TestCheckBlocked: the verdict over a program that cannot be carried.
func TestCheckBlocked(t *testing.T) {
	needs(t)
	s, _ := startBlockers(t, "inotify", "tcp")
	res := want(t, harness.StatusRefused, firn(t), "check", strconv.Itoa(s.PID))
	contains(t, res, res.Stdout, "Verdict: NO", "inotify", "127.0.0.1")
	s.unharmed()
}

// TestShow: what is in an image, also that of a plugin that is not there.
func TestShow(t *testing.T) {
	s := startC(t, "queues")
	s.checkpoint("--leave-running")
	f := firn(t)
	res := want(t, harness.StatusDone, f, "show", s.image)
	contains(t, res, res.Stdout, strconv.Itoa(s.PID), "queues", "/dev/null", "[eventpoll]", "mm", "files", "sockets", "task")

	res = want(t, harness.StatusDone, f, "show", s.image, "--json")
	o := object(t, res, "image", "created", "arch", "kernel", "root_pid", "plugins", "tree", "files")
	if o["root_pid"] != float64(s.PID) {
		t.Errorf("root is %v, want %d", o["root_pid"], s.PID)
	}

	all := want(t, harness.StatusDone, f, "show", s.image, "--records")
	missing := want(t, harness.StatusDone, without(t, "mm"), "show", s.image, "--records")
	if all.Stdout != missing.Stdout {
		t.Error("without the plugin mm its records are shown differently")
	}
	contains(t, all, all.Stdout, "AddressSpace", "Epoll", "HostTree")
	if lines := strings.Count(all.Stdout, "\n"); lines < 50 {
		t.Errorf("all records are %d lines", lines)
	}
}

// TestVerify: a good image, one that is not an image, and none at all.
func TestVerify(t *testing.T) {
	s := startC(t, "tick")
	s.checkpoint("--leave-running")
	f := firn(t)
	res := want(t, harness.StatusDone, f, "verify", s.image)
	contains(t, res, res.Stdout, "ok")
	object(t, want(t, harness.StatusDone, f, "verify", s.image, "--json"))
	res = want(t, harness.StatusFailed, f, "verify", s.Path("log"))
	contains(t, res, res.Stderr, s.Path("log"))
	res = want(t, harness.StatusFailed, f, "verify", s.Path("absent"))
	contains(t, res, res.Stderr, "no such file")
}

// TestImageMode: an image holds the memory of a program, so nobody else may
// read it; an image that is there is not replaced before the new one is whole.
func TestImageMode(t *testing.T) {
	s := startC(t, "tick")
	s.checkpoint("--leave-running")
	st, err := os.Stat(s.image)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode of the image is %v, want 0600: %v", st.Mode(), err)
	}
	s.checkpoint("--leave-running")
	s.only(s.image)
}

// TestPluginList: every plugin that was built is there.
func TestPluginList(t *testing.T) {
	f := firn(t)
	entries, err := os.ReadDir(filepath.Dir(f.Path))
	if err != nil {
		t.Fatal(err)
	}
	res := want(t, harness.StatusDone, f, "plugin", "list")
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Name(), "firn-plugin-"); ok {
			names = append(names, name)
		}
	}
	if len(names) < 5 || !slices.Contains(names, "mm") {
		t.Errorf("built plugins are %v", names)
	}
	contains(t, res, res.Stdout, names...)
	var list any
	res = want(t, harness.StatusDone, f, "plugin", "list", "--json")
	if err := json.Unmarshal([]byte(res.Stdout), &list); err != nil {
		t.Errorf("%v: %s", err, res)
	}
	res = want(t, harness.StatusDone, f, "plugin", "describe", "sockets")
	contains(t, res, res.Stdout, "sockets")

	// A plugin that is run by hand says what it is.
	by := harness.Firn{Path: filepath.Join(filepath.Dir(f.Path), "firn-plugin-mm")}
	res = run(t, by)
	if res.Status == 0 || !strings.Contains(res.Stdout+res.Stderr, "firn") {
		t.Errorf("a plugin that was started by hand: %s", res)
	}
}

// TestUsage: help and version, and the status of a wrong command line.
func TestUsage(t *testing.T) {
	f := firn(t)
	res := want(t, harness.StatusDone, f, "version")
	contains(t, res, res.Stdout, "firn", "0.0.0-test")
	object(t, want(t, harness.StatusDone, f, "version", "--json"))
	res = want(t, harness.StatusDone, f, "help")
	contains(t, res, res.Stdout, "checkpoint", "restore", "check", "show", "verify", "plugin", "version")
	res = want(t, harness.StatusDone, f, "completion", "bash")
	contains(t, res, res.Stdout, "firn")
	for _, args := range [][]string{
		{"no-such-command"}, {"checkpoint"}, {"checkpoint", "1"}, {"restore"}, {"checkpoint", "1", "--no-such-flag"},
		{"checkpoint", "x", "-o", "/dev/null"}, {"checkpoint", "1", "-o", "x", "--leave-running", "--leave-stopped"},
	} {
		res := run(t, f, args...)
		if res.Status != harness.StatusUsage || res.Stdout != "" || !strings.HasPrefix(res.Stderr, "firn: ") {
			t.Errorf("want status 2 and a message on stderr only: %s", res)
		}
	}
}
