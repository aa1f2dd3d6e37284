package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(harness.Patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, harness.Patience)
		}
	}
}

// lines returns the lines of a file of the subject.
func (s *subject) lines(name string) []string {
	s.t.Helper()
	lines, err := s.Lines(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return lines
}

// addLine appends a line to a file of the subject, for a program that reads it.
func (s *subject) addLine(name, line string) {
	s.t.Helper()
	f, err := os.OpenFile(s.Path(name), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(line + "\n"); err != nil {
		s.t.Fatal(err)
	}
}

// startShell starts a shell script in an empty directory with these files.
func startShell(t *testing.T, script string, files map[string]string) *subject {
	t.Helper()
	firn(t) // compiled before the program runs
	dir := workDir(t)
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return start(t, harness.Spec{Path: program(t, "bash"), Args: []string{"-c", script}, Dir: dir})
}

// retried checkpoints a tree that may be in a moment in which it cannot be
// saved: unread events of inotify, or a vfork, whose parent cannot be stopped.
func (s *subject) retried(args ...string) {
	s.t.Helper()
	args = append([]string{"checkpoint", strconv.Itoa(s.PID), "-o", s.image}, args...)
	var res harness.Result
	until(s.t, "checkpoint", func() bool {
		res = run(s.t, firn(s.t), args...)
		if res.Status != harness.StatusDone && res.Status != harness.StatusRefused && res.Status != harness.StatusTimeout {
			s.t.Fatalf("%s", res)
		}
		return res.Status == harness.StatusDone
	})
	s.Forget()
}

// TestGrowingFile: a growing file goes through tail, grep and tee. Every line
// arrives once, those that come while the pipeline does not exist as well.
func TestGrowingFile(t *testing.T) {
	s := startShell(t, "tail -n +1 -f grow | grep --line-buffered keep | tee copy", map[string]string{"grow": ""})
	var want []string
	add := func(count int) {
		for range count {
			n := len(want)
			s.addLine("grow", fmt.Sprintf("drop %d", n))
			s.addLine("grow", fmt.Sprintf("keep %d", n))
			want = append(want, fmt.Sprintf("keep %d", n))
		}
	}
	arrived := func() bool { return len(s.lines("copy")) >= len(want) }
	add(20)
	until(t, "lines arrive", arrived)
	for range 3 {
		s.retried()
		add(10)
		s.restore()
		add(10) // tail is told of these
		until(t, "lines arrive after a restore", arrived)
	}
	for _, name := range []string{"copy", "out"} {
		if got := s.lines(name); !slices.Equal(got, want) {
			t.Errorf("%s has %d lines, want %d: %q", name, len(got), len(want), got)
		}
	}
}

// sqlite asks the database from outside.
func (s *subject) sqlite(sql string) string {
	s.t.Helper()
	out, err := harness.Output(grace, exec.Command(program(s.t, "sqlite3"), s.Path("db"), sql))
	if err != nil {
		s.t.Fatalf("%s: %v", out, err)
	}
	return strings.TrimSpace(out)
}

// TestSQLite: sqlite3 in the middle of a transaction, with its locks and its
// journal. Others see nothing of it before it is committed.
func TestSQLite(t *testing.T) {
	s := startShell(t, "tail -s 0.01 -n +1 -f statements | sqlite3 db", map[string]string{"statements": ""})
	do := func(sql, answer string) {
		t.Helper()
		s.addLine("statements", sql)
		s.addLine("statements", fmt.Sprintf(".print %s", answer))
		until(t, sql, func() bool { return slices.Contains(s.lines("out"), answer) })
	}
	do("create table t (n integer primary key, text); insert into t values (0, 'committed');", "created")
	do("begin; insert into t select value, hex(randomblob(500)) from generate_series(1, 300);", "inserted")
	if s.sqlite("select count(*) from t") != "1" {
		t.Error("the transaction is seen from outside before the checkpoint")
	}
	if lines := s.report(); !strings.Contains(lines, "--file-locks") {
		t.Errorf("the report does not name the flag: %s", lines)
	}
	for i := range 2 {
		s.retried("--file-locks")
		if _, err := os.Stat(s.Path("db-journal")); err != nil {
			t.Fatalf("the transaction has no journal: %v", err)
		}
		s.restore()
		do(fmt.Sprintf("insert into t values (%d, 'after %d');", 10000+i, i), fmt.Sprintf("again %d", i))
		if s.sqlite("select count(*) from t") != "1" {
			t.Error("the transaction is seen from outside after the restore")
		}
	}
	do("commit;", "done")
	if got := s.sqlite("select count(*), sum(length(text) = 1000) from t; pragma integrity_check"); got != "303|300\nok" {
		t.Errorf("the database has %q", got)
	}
}

// report is the report of a refused checkpoint of a program that does not tick.
func (s *subject) report() string {
	s.t.Helper()
	return want(s.t, harness.StatusRefused, firn(s.t), "checkpoint", strconv.Itoa(s.PID), "-o", s.image).Stderr
}

// TestBuild: make with two jobs in the middle of a build of some fifty files,
// whose result must be right.
func TestBuild(t *testing.T) {
	const units = 50
	files := map[string]string{
		"makefile": "objects := $(patsubst %.c,%.o,$(wildcard unit*.c))\nprogram: main.o $(objects)\n\tgcc -o $@ $^\n" +
			"%.o: %.c\n\tgcc -O1 -c -o $@ $<\n\t@echo built $@ >>log\n",
	}
	var main, sum strings.Builder
	for i := range units {
		files[fmt.Sprintf("unit%d.c", i)] = fmt.Sprintf("#include <stdio.h>\n#include <string.h>\nint unit%d(void) { char b[20]; snprintf(b, 20, \"%%d\", %d); return strlen(b) + %d; }\n", i, i, i*i)
		fmt.Fprintf(&main, "int unit%d(void);\n", i)
		fmt.Fprintf(&sum, " + unit%d()", i)
	}
	files["main.c"] = "#include <stdio.h>\n" + main.String() + "int main(void) { printf(\"%d\\n\", 0" + sum.String() + "); return 0; }\n"
	expected := 0
	for i := range units {
		expected += len(strconv.Itoa(i)) + i*i
	}
	s := startShell(t, "make -j2 && echo finished >done", files)
	for i := range 3 {
		until(t, "objects are built", func() bool { return len(s.lines("log")) > 3+i*10 })
		s.retried()
		s.restore()
	}
	until(t, "the build ends", func() bool { return len(s.lines("done")) == 1 })
	out, err := harness.Output(grace, exec.Command(s.Path("program")))
	if err != nil || strings.TrimSpace(out) != strconv.Itoa(expected) {
		t.Errorf("the program says %q, want %d: %v", out, expected, err)
	}
	if n := len(s.lines("log")); n != units+1 {
		t.Errorf("%d objects were built, want %d", n, units+1)
	}
}

// TestPythonMemory: a program in Python with memory files and epoll.
func TestPythonMemory(t *testing.T) {
	s := start(t, harness.Spec{Path: program(t, "python3"), Args: []string{script(t, "memfd.py")}})
	s.ready()
	s.checkpoint("--leave-running")
	for range 3 {
		s.cycle()
		s.unharmed()
	}
}

// TestPing: ping, with its raw socket and the filter on it, goes on counting where
// it was, and gets an answer to every request.
func TestPing(t *testing.T) {
	gate.Cap(t, unix.CAP_NET_RAW)
	pingGoesOn(t, startShell(t, "exec ping -n -i 0.05 127.0.0.1 >log.ping 2>&1", nil))
}

// TestPingSocket: the same in a network namespace in which everybody may have a
// ping socket, which is what ping then takes.
func TestPingSocket(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	gate.Cap(t, unix.CAP_NET_ADMIN)
	s := start(t, harness.Spec{Path: program(t, "unshare"), Args: []string{"-n", "sh", "-ec", `ip link set lo up
echo 0 2147483647 >/proc/sys/net/ipv4/ping_group_range
exec ping -n -i 0.05 127.0.0.1 >log.ping 2>&1`}})
	until(t, "ping has answers", func() bool { return len(s.lines("log.ping")) > 5 })
	sockets, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/icmp", s.PID))
	if err != nil || bytes.Count(sockets, []byte("\n")) < 2 {
		t.Fatalf("ping has no ping socket: %q, %v", sockets, err)
	}
	pingGoesOn(t, s)
}

// pingGoesOn requires that ping counts on, through two restores.
func pingGoesOn(t *testing.T, s *subject) {
	t.Helper()
	count := 0
	goesOn := func() {
		t.Helper()
		before := len(s.lines("log.ping"))
		until(t, "ping has answers", func() bool { return len(s.lines("log.ping")) > before+5 })
	}
	goesOn()
	for range 2 {
		s.retried()
		s.restore()
		goesOn()
	}
	for _, line := range s.lines("log.ping") {
		_, number, answer := strings.Cut(line, "icmp_seq=")
		if !answer {
			continue
		}
		count++
		if number, _, _ = strings.Cut(number, " "); number != strconv.Itoa(count) {
			t.Fatalf("answer %d is to request %s", count, number)
		}
	}
	if count < 15 {
		t.Errorf("%d answers", count)
	}
}
