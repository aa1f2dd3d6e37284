package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// server is a running "firn serve".
type server struct {
	t      *testing.T
	run    *harness.Run
	client harness.Firn // runs commands that it serves
	socket string
}

func startServer(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{t: t, client: firn(t), socket: filepath.Join(workDir(t), "run", "serve.sock")}
	s.client.Env = append(s.client.Env, "FIRN_SERVE="+s.socket)
	var err error
	if s.run, err = s.client.Start(append([]string{"serve", "--log-level", "debug"}, args...)...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	s.await()
	return s
}

// await waits until a worker is ready for a command.
func (s *server) await() {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !s.serves(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatal("firn serve does not serve")
		}
	}
}

// serves tells whether a worker does a command's work.
func (s *server) serves() bool {
	s.t.Helper()
	res, err := s.client.Run("check", "--log-level", "info", strconv.Itoa(os.Getpid()))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Contains(res.Stderr, "served by")
}

// stop ends the server, which must leave nothing.
func (s *server) stop() {
	if s.run == nil {
		return
	}
	if err := unix.Kill(s.run.PID(), unix.SIGTERM); err != nil {
		s.t.Error(err)
	}
	res, err := s.run.Wait()
	s.run = nil
	if err != nil {
		s.t.Error(err)
		return
	}
	if res.Status != harness.StatusDone {
		s.t.Errorf("want status 0: %s", res)
	}
	if err := harness.WaitSession(res.PID, grace); err != nil {
		s.t.Error(err)
	}
	if exists(s.socket) {
		s.t.Errorf("%s is left", s.socket)
	}
}

// served runs a command and requires that a worker did it.
func (s *server) served(status int, args ...string) harness.Result {
	s.t.Helper()
	res := want(s.t, status, s.client, append(args, "--log-level", "info")...)
	if !strings.Contains(res.Stderr, "served by") {
		s.t.Errorf("not served: %s", res)
	}
	return res
}

// TestServe: programs come and go through a warm host as they do without one.
func TestServe(t *testing.T) {
	s := startServer(t)
	c := startCounter(t)
	for range 3 {
		pids := c.pids()
		s.served(harness.StatusDone, "checkpoint", strconv.Itoa(c.PID), "-o", c.image)
		for _, pid := range pids {
			if harness.Exists(pid) {
				t.Errorf("process %d still exists although checkpoint returned", pid)
			}
		}
		c.Forget()
		c.only(c.image)
		s.served(harness.StatusDone, "restore", "-d", c.image)
		c.unharmed()
	}
	// What the command says of itself is true of what the worker does.
	dir := workDir(t)
	f := s.client
	f.Prefix = []string{"/bin/sh", "-c", `cd "$0" && umask 077 && exec "$@"`, dir}
	want(t, harness.StatusDone, f, "checkpoint", strconv.Itoa(c.PID), "-o", "here.firn", "--leave-running")
	if !exists(filepath.Join(dir, "here.firn")) {
		t.Error("the image is not in the directory of the command")
	}
	c.unharmed()
}

// TestServeRefuses: status and text are those of a command that does its work
// itself.
func TestServeRefuses(t *testing.T) {
	s := startServer(t)
	held, _ := startBlockers(t, "tcp", "uring")
	for _, args := range [][]string{
		{"checkpoint", strconv.Itoa(held.PID), "-o", held.image},
		{"checkpoint", "0", "-o", held.image},
		{"checkpoint", strconv.Itoa(held.PID), "-o", "/nowhere/image"},
		{"restore", "-d", "/nowhere/image"},
		{"check", strconv.Itoa(held.PID)},
	} {
		direct, err := firn(t).Run(args...)
		if err != nil {
			t.Fatal(err)
		}
		warm, err := s.client.Run(args...)
		if err != nil {
			t.Fatal(err)
		}
		if warm.Status != direct.Status || warm.Stderr != direct.Stderr || warm.Stdout != direct.Stdout {
			t.Errorf("served: %s\nnot served: %s", warm, direct)
		}
	}
	held.unharmed()
}

// TestServeOthers: a command that has other rights or namespaces than the server
// does its own work.
func TestServeOthers(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	s := startServer(t)
	c := startCounter(t)
	for name, prefix := range map[string][]string{
		"namespace":  {program(t, "unshare"), "--uts"},
		"capability": {program(t, "setpriv"), "--bounding-set", "-sys_boot", "--inh-caps", "-sys_boot"},
		"limit":      {"/bin/sh", "-c", `ulimit -n 512; exec "$@"`, "sh"},
	} {
		t.Run(name, func(t *testing.T) {
			f := s.client
			f.Prefix = prefix
			res := want(t, harness.StatusDone, f, "checkpoint", strconv.Itoa(c.PID), "-o", c.image, "--leave-running", "--log-level", "info")
			if !strings.Contains(res.Stderr, "not served") {
				t.Errorf("served: %s", res)
			}
		})
	}
	c.unharmed()
}

// TestServeCrash: whoever is killed in the middle, the program goes on and
// nothing is left.
func TestServeCrash(t *testing.T) {
	s := startServer(t, "--workers", "1")
	v := startVictim(t)
	args := v.args()
	killed := map[string]func(*harness.Run){
		"command": func(r *harness.Run) { _ = r.Kill() }, // else: it has ended
		"worker": func(*harness.Run) {
			for _, p := range harness.InSession(s.run.PID()) {
				if p.Parent == s.run.PID() {
					_ = unix.Kill(p.PID, unix.SIGKILL) // else: it has ended
				}
			}
		},
	}
	for name, kill := range killed {
		t.Run(name, func(t *testing.T) {
			for i := range 10 {
				r, err := s.client.Start(args...)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Duration(2+2*i) * time.Millisecond)
				kill(r)
				res, err := r.Wait()
				if err != nil {
					t.Fatal(err)
				}
				if name == "worker" && res.Status != harness.StatusDone && res.Status != harness.StatusFailed {
					t.Errorf("want status 0 or 1: %s", res)
				}
				s.await() // the next worker comes when the last has ended
				v.survived(r.PID())
			}
		})
	}
}
