package integration

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// echo is a service that answers with what it is asked, until it is closed.
func echo(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				conn.Close()
			}()
		}
	}()
	return l
}

// TestPythonPlugin: a plugin that is written in Python connects a program to a
// service outside of the tree again.
func TestPythonPlugin(t *testing.T) {
	needs(t)
	p, err := subjects()
	if err != nil {
		t.Fatal(err)
	}
	dir := workDir(t)
	build := exec.Command(program(t, "make"), "-C", p.Path("sdk/examples/redial"), "BIN="+dir)
	if out, err := harness.Output(20*grace, build); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	with := firn(t)
	with.Env = []string{"FIRN_PLUGIN_PATH=" + dir}

	path := filepath.Join(workDir(t), "service")
	service := echo(t, path)
	s := start(t, harness.Spec{Path: program(t, "python3"), Args: []string{script(t, "client.py"), path}})
	s.ready()
	pid := strconv.Itoa(s.PID)
	if lines := strings.Join(s.refused(), "\n"); !strings.Contains(lines, "outside the tree") {
		t.Errorf("the connection is not named:\n%s", lines)
	}
	rule := "--plugin-for=file:" + s.socketLink() + "=redial"
	res := want(t, harness.StatusDone, with, "check", pid, rule)
	contains(t, res, res.Stdout, "redial", "connection to "+path+": is made anew")
	for range 20 { // an answer may be on its way
		if res = run(t, with, "checkpoint", pid, "-o", s.image, rule); res.Status == harness.StatusDone {
			break
		}
		contains(t, res, res.Stderr, "has data from "+path+" that was not read")
		s.unharmed()
	}
	if res.Status != harness.StatusDone {
		t.Fatal(res)
	}
	s.Forget()

	service.Close()
	res = run(t, with, "restore", "-d", s.image)
	if res.Status == harness.StatusDone {
		t.Error("a restore without the service succeeds")
	}
	contains(t, res, res.Stderr, "connection to "+path, "start the service")
	s.notRestored(harness.StatusPlugin, "redial")
	echo(t, path)
	want(t, harness.StatusDone, with, "restore", "-d", s.image)
	s.ticks(20)
	s.unharmed()

	// The image is read by whoever has the plugin, and by nobody else.
	b, err := os.ReadFile(s.image)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(b), `{"path": "`+path)
	if at < 0 {
		t.Fatal("the record is not in the image")
	}
	b[at] ^= 0xff
	if err := os.WriteFile(s.image, b, 0o600); err != nil {
		t.Fatal(err)
	}
	res = want(t, harness.StatusFailed, with, "restore", "-d", s.image)
	contains(t, res, res.Stderr, "checksum")
}

// socketLink is what /proc/PID/fd shows of the only socket of the root process.
func (s *subject) socketLink() string {
	s.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", s.PID)
	entries, err := os.ReadDir(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range entries {
		if link, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.HasPrefix(link, "socket:") {
			return link
		}
	}
	s.t.Fatal("there is no socket")
	return ""
}
