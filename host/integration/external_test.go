package integration

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
)

// echoes writes a line and requires that it comes back.
func echoes(t *testing.T, in *os.File, out *bufio.Reader, text string) {
	t.Helper()
	if _, err := in.WriteString(text + "\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := out.ReadString('\n'); err != nil || line != text+"\n" {
		t.Fatalf("%q came back as %q: %v", text, line, err)
	}
}

// openFIFO makes a FIFO and opens it with a deadline for reads.
func openFIFO(t *testing.T, path string) *os.File {
	t.Helper()
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := f.SetDeadline(time.Now().Add(harness.Patience)); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestInheritFD: cat between two pipes of somebody else is refused by name, and
// carried with --external: after the restore it is between two other ones.
func TestInheritFD(t *testing.T) {
	needs(t)
	var in, out [2]*os.File
	for _, p := range []*[2]*os.File{&in, &out} {
		var err error
		if p[0], p[1], err = os.Pipe(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = p[0].Close(); _ = p[1].Close() })
	}
	s := start(t, harness.Spec{Path: program(t, "cat"), Files: [3]*os.File{in[0], out[1], nil}})
	_ = in[0].Close()
	_ = out[1].Close()
	echoes(t, in[1], bufio.NewReader(out[0]), "before")

	keys := make([]string, 2)
	for fd := range keys {
		var err error
		if keys[fd], err = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", s.PID, fd)); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"checkpoint", strconv.Itoa(s.PID), "-o", s.image}
	res := want(t, harness.StatusRefused, firn(t), args...)
	for fd, key := range keys {
		names(t, strings.Split(res.Stderr, "\n"), s.PID, blocker{fd, key})
		if flag := "--external '" + key + "'"; !strings.Contains(res.Stderr, flag) {
			t.Errorf("%s is not named: %s", flag, res)
		}
	}
	want(t, harness.StatusDone, firn(t), append(args, "--external", keys[0], "--external", keys[1])...)
	s.Forget()

	s.notRestored(harness.StatusFailed, "pass --inherit-fd 'fd[N]:"+keys[0]+"'", "fd[N]:"+keys[1])
	res = run(t, firn(t), "restore", "-d", s.image, "--inherit-fd", "fd[77]:"+keys[0])
	if res.Status != harness.StatusUsage || !strings.Contains(res.Stderr, "descriptor 77 that the tree is to inherit is not open") {
		t.Errorf("%s", res)
	}
	dir := workDir(t)
	newIn, newOut := openFIFO(t, filepath.Join(dir, "in")), openFIFO(t, filepath.Join(dir, "out"))
	f := firn(t)
	f.Prefix = []string{program(t, "bash"), "-c", `cd "$0"; exec 7<>in 8<>out; exec "$@"`, dir}
	want(t, harness.StatusDone, f, "restore", "-d", s.image, "--inherit-fd", "fd[7]:"+keys[0], "--inherit-fd", "fd[8]:"+keys[1])
	reader := bufio.NewReader(newOut)
	echoes(t, newIn, reader, "after")

	// The same again, by number: those of the restorer are the tree's.
	if err := unix.Kill(s.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := harness.WaitGone(s.PID); err != nil {
		t.Fatal(err)
	}
	f.Prefix[2] = `cd "$0"; exec <>in >>out; exec "$@"`
	want(t, harness.StatusDone, f, "restore", "-d", s.image, "--inherit", "0,1", "--json")
	if line, err := reader.ReadString('\n'); err != nil || !strings.HasPrefix(line, "{") {
		t.Fatalf("the result is %q: %v", line, err)
	}
	for line := ""; line != "}\n"; {
		var err error
		if line, err = reader.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	echoes(t, newIn, reader, "by number")
	if d := s.Disturbed(); len(d) > 0 {
		t.Errorf("left disturbed: %v", d)
	}
}

// TestExternalFile: a file that stays outside is whatever the caller hands over.
func TestExternalFile(t *testing.T) {
	s := startC(t, "carried")
	key := s.Path("growing")
	s.checkpoint("--external", key)
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	s.notRestored(harness.StatusFailed, "fd[N]:"+key)
	f := firn(t)
	f.Prefix = []string{program(t, "bash"), "-c", `exec 5</etc/hostname; exec "$@"`, "bash"}
	want(t, harness.StatusDone, f, "restore", "-d", s.image, "--inherit-fd", "fd[5]:"+key)
	s.unharmed()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.PID))
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, l := range links {
		to, _ := os.Readlink(l)
		found = found || to == "/etc/hostname"
	}
	if !found {
		t.Error("the file of the caller is not open in the program")
	}
	finishQueues(s)
}
