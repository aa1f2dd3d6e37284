package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
)

// console is a terminal whose other side is this test: what a user has in front
// of them.
type console struct {
	t             *testing.T
	master, slave *os.File

	mu   sync.Mutex
	text strings.Builder
}

func newConsole(t *testing.T) *console {
	t.Helper()
	c := &console{t: t}
	c.master, c.slave = openTerminal(t)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := c.master.Read(buf)
			if err != nil {
				return // closed at the end of the test
			}
			c.mu.Lock()
			c.text.Write(buf[:n])
			c.mu.Unlock()
		}
	}()
	return c
}

// escapes are what readline sends to a terminal.
var escapes = regexp.MustCompile("\x1b\\[[?0-9;]*[a-zA-Z]")

func (c *console) shown() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.ReplaceAll(escapes.ReplaceAllString(c.text.String(), ""), "\r", "")
}

// shows waits until the terminal has shown a text.
func (c *console) shows(text string) {
	c.t.Helper()
	for end := time.Now().Add(harness.Patience); !strings.Contains(c.shown(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("the terminal does not show %q; it has shown:\n%s", text, c.shown())
		}
	}
}

func (c *console) types(text string) {
	c.t.Helper()
	if _, err := c.master.WriteString(text); err != nil {
		c.t.Fatal(err)
	}
}

// shell starts bash on a terminal.
func (c *console) shell(prompt string) *subject {
	c.t.Helper()
	dir := workDir(c.t)
	s := start(c.t, harness.Spec{
		Path: program(c.t, "bash"), Args: []string{"--norc", "--noprofile", "-i"}, Dir: dir,
		Files: [3]*os.File{c.slave, c.slave, c.slave}, Terminal: true,
		Env: []string{"TERM=dumb", "HOME=" + dir, "HISTFILE=", "PS1=" + prompt},
	})
	c.shows(prompt)
	return s
}

// TestShellJobSession: a shell that leads its session leaves its terminal and
// goes on on another one.
func TestShellJobSession(t *testing.T) {
	needs(t)
	first, second := newConsole(t), newConsole(t)
	s := first.shell("[1] ")
	first.types("variable=kept$((40 + 2)); tty\n")
	first.shows(first.slave.Name() + "\n[1] ")
	want(t, harness.StatusRefused, firn(t), "checkpoint", strconv.Itoa(s.PID), "-o", s.image)
	s.checkpoint("--shell-job")

	res := s.notRestored(harness.StatusFailed, "--shell-job")
	if strings.Count(res.Stderr, "\n") != 1 {
		t.Errorf("one line is enough: %s", res)
	}
	res = run(t, firn(t), "restore", "-d", "--shell-job", s.image)
	if res.Status != harness.StatusFailed || !strings.Contains(res.Stderr, "no terminal") {
		t.Errorf("a restore without a terminal: %s", res)
	}

	f := firn(t)
	f.Terminal = second.slave
	r, err := f.Start("restore", "--shell-job", s.image)
	if err != nil {
		t.Fatal(err)
	}
	second.types("echo $variable; tty\n")
	second.shows("kept42\n" + second.slave.Name() + "\n[1] ")
	// The terminal is its controlling one: job control works.
	second.types("sleep 1000\n")
	second.shows("sleep 1000\n")
	waitForeground(t, second, "sleep")
	second.types("\x03")
	second.types("echo status $?\n")
	second.shows("status 130\n")
	second.types("exit 33\n")
	if res, err = r.Wait(); err != nil || res.Status != 33 {
		t.Errorf("firn passes on another status than the shell's: %v\n%s", err, res)
	}
}

// waitForeground waits until a program runs in the foreground of a terminal.
func waitForeground(t *testing.T, c *console, comm string) {
	t.Helper()
	for end := time.Now().Add(harness.Patience); ; time.Sleep(5 * time.Millisecond) {
		group, err := foreground(c.master)
		if err == nil {
			if p, err := harness.ReadProcess(group); err == nil && p.Comm == comm {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("%s is not in the foreground: group %d, %v", comm, group, err)
		}
	}
}

// foreground is the process group in the foreground of a terminal.
func foreground(master *os.File) (int, error) {
	return unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPGRP)
}

// TestShellJob: a job of a shell goes on as a job of another shell, from which
// it was restored.
func TestShellJob(t *testing.T) {
	needs(t)
	first, second := newConsole(t), newConsole(t)
	outer := first.shell("[1] ")
	first.types("PS1='inner ' bash --norc --noprofile -i\n")
	first.shows("\ninner ")
	group, err := foreground(first.master)
	if err != nil {
		t.Fatal(err)
	}
	inner := &subject{Subject: &harness.Subject{Dir: outer.Dir, PID: group, Mark: outer.Mark}, t: t, image: filepath.Join(workDir(t), "image.firn")}
	first.types("variable=kept$((40 + 2))\n")
	first.shows("))\ninner ")
	want(t, harness.StatusDone, firn(t), "checkpoint", strconv.Itoa(inner.PID), "-o", inner.image, "--shell-job")
	first.shows("Killed")

	second.shell("[2] ")
	second.types(firn(t).Path + " restore --shell-job " + inner.image + "; echo status $?\n")
	second.shows("status $?\n")
	waitForeground(t, second, "bash")
	second.types("echo $variable; tty\n")
	second.shows("kept42\n" + second.slave.Name() + "\ninner ")
	second.types("sleep 1000\n")
	waitForeground(t, second, "sleep")
	second.types("\x03")
	second.types("echo status $?\n")
	second.shows("status 130\n")
	second.types("exit 33\n")
	second.shows("status 33\n[2] ")
}

// TestShellJobStops: Ctrl-Z stops the tree and gives the terminal back to the
// shell, fg brings it back; so does its end to a shell without job control.
func TestShellJobStops(t *testing.T) {
	needs(t)
	first, second := newConsole(t), newConsole(t)
	outer := first.shell("[1] ")
	first.types("cat\n")
	waitForeground(t, first, "cat")
	group, err := foreground(first.master)
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(workDir(t), "image.firn")
	want(t, harness.StatusDone, firn(t), "checkpoint", strconv.Itoa(group), "-o", image, "--shell-job")
	outer.Forget()
	first.shows("Killed")

	second.shell("[2] ")
	second.types(firn(t).Path + " restore --shell-job " + image + "\n")
	waitForeground(t, second, "cat")
	second.types("one\n")
	second.shows("one\none\n")
	second.types("\x1a")
	second.shows("Stopped")
	waitForeground(t, second, "bash")
	second.types("echo shell$((1 + 1))\n")
	second.shows("shell2\n")
	second.types("fg\n")
	waitForeground(t, second, "cat")
	second.types("two\n")
	second.shows("two\ntwo\n")
	second.types("\x04")
	second.shows("two\n[2] ")

	second.types("bash --norc -c '" + firn(t).Path + " restore --shell-job " + image + "; read line; echo got $line'\n")
	waitForeground(t, second, "cat")
	second.types("\x04")
	waitForeground(t, second, "bash")
	second.types("something\n")
	second.shows("got something\n")
}
