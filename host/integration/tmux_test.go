package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
)

// lowNumbers keeps low numbers of pseudo-terminals from what is started before
// the function that it returns is called: who opens one between a checkpoint
// and the restore gets a low one and does not take ours.
func lowNumbers(t *testing.T) (release func()) {
	t.Helper()
	var held []*os.File
	release = func() {
		for _, f := range held {
			_ = f.Close()
		}
		held = nil
	}
	t.Cleanup(release)
	for {
		f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, f)
		index, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPTN)
		if err != nil {
			t.Fatal(err)
		}
		if index >= 200+os.Getpid()%100 {
			return release
		}
	}
}

// tmux is a server of its own with a window, to which no client is attached.
type tmux struct {
	*subject
	path, socket string
}

// startTmux starts a server with bash in its window.
func startTmux(t *testing.T) *tmux {
	t.Helper()
	needs(t)
	release := lowNumbers(t)
	defer release()
	dir := workDir(t)
	m := &tmux{path: program(t, "tmux"), socket: filepath.Join(dir, "socket")}
	// -D: it stays in the foreground, so it is what was started.
	m.subject = start(t, harness.Spec{
		Path: m.path, Args: []string{"-D", "-S", m.socket, "-f", "/dev/null"}, Dir: dir,
		Env: []string{"LC_ALL=C.UTF-8", "TERM=xterm", "HOME=" + dir, "PS1=$ ", "HISTFILE="},
	})
	m.eventually("the server answers", func() bool {
		_, err := m.command("new-session", "-d", "-s", "main", "-x", "90", "-y", "25", "bash", "--norc", "--noprofile")
		return err == nil
	})
	m.prompts()
	return m
}

// command runs tmux as a client; it is gone when it returns.
func (m *tmux) command(args ...string) (string, error) {
	// -N: it starts no server of its own.
	cmd := exec.Command(m.path, append([]string{"-N", "-S", m.socket}, args...)...)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "TERM=xterm"}
	return harness.Output(10*time.Second, cmd)
}

func (m *tmux) do(args ...string) string {
	m.t.Helper()
	out, err := m.command(args...)
	if err != nil {
		m.t.Fatalf("tmux %q: %v", args, err)
	}
	return out
}

// keys types into the window; the last is usually "Enter".
func (m *tmux) keys(keys ...string) {
	m.t.Helper()
	m.do(append([]string{"send-keys", "-t", "main"}, keys...)...)
}

// screen is what the window shows.
func (m *tmux) screen() string {
	out, err := m.command("capture-pane", "-p", "-t", "main")
	if err != nil {
		return ""
	}
	return strings.TrimRight(out, "\n ")
}

// shows waits until the window shows a text.
func (m *tmux) shows(text string) {
	m.t.Helper()
	m.eventually("the window shows "+strconv.Quote(text), func() bool { return strings.Contains(m.screen(), text) })
}

// runs waits until a program has the terminal: what is typed before goes to the
// shell.
func (m *tmux) runs(name string) {
	m.t.Helper()
	m.eventually(name+" runs in the window", func() bool {
		out, err := m.command("display-message", "-p", "-t", "main", "#{pane_current_command}")
		return err == nil && strings.TrimSpace(out) == name
	})
}

// prompts waits until the shell does.
func (m *tmux) prompts() {
	m.t.Helper()
	m.eventually("the shell prompts", func() bool { return strings.HasSuffix(m.screen(), "$") })
}

func (m *tmux) eventually(what string, is func() bool) {
	m.t.Helper()
	for end := time.Now().Add(harness.Patience); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("waited in vain until %s; it shows:\n%s", what, m.screen())
		}
	}
}

// cycle saves and restores the server when no client is left of it.
func (m *tmux) cycle() {
	m.t.Helper()
	m.eventually("no client is left", func() bool {
		out, err := os.ReadFile("/proc/net/unix")
		return err == nil && strings.Count(string(out), m.socket+"\n") == 1
	})
	m.subject.cycle()
}

// TestTmux: a tmux server and the shell in it go on: the screen, the variables,
// the jobs, the size of the window, and what was typed and not yet entered.
func TestTmux(t *testing.T) {
	m := startTmux(t)
	m.keys("variable=kept$((40 + 2)); sleep 1000 & sleep 2000", "Enter")
	m.runs("sleep")
	m.keys("C-z")
	m.shows("Stopped")
	m.keys("cat", "Enter")
	m.runs("cat")
	m.keys("half a l")
	m.shows("half a l")
	before := m.screen()
	for range 2 {
		m.cycle()
		if now := m.screen(); now != before {
			t.Fatalf("the window shows after the restore:\n%s\nbefore:\n%s", now, before)
		}
	}
	m.keys("ine", "Enter")
	m.shows("half a line\nhalf a line")
	m.keys("C-c")
	m.prompts()
	m.keys("echo $variable; stty size; jobs; tty", "Enter")
	m.shows("kept42\n25 90\n")
	m.shows("Running                 sleep 1000")
	m.shows("Stopped                 sleep 2000")
	m.shows("/dev/pts/")
	m.do("resize-window", "-t", "main", "-x", "70", "-y", "20")
	m.keys("clear; stty size; kill %1 %2; wait; echo over", "Enter")
	m.shows("20 70")
	m.shows("over")
}

// TestTmuxWindows: several terminals below one server keep apart.
func TestTmuxWindows(t *testing.T) {
	m := startTmux(t)
	release := lowNumbers(t)
	m.do("new-window", "-d", "-t", "main:7", "bash", "--norc", "--noprofile")
	release()
	m.keys("clear; where=first; tty", "Enter")
	m.shows("/dev/pts/")
	m.do("send-keys", "-t", "main:7", "clear; where=second; tty", "Enter")
	m.eventually("the second window shows its terminal", func() bool {
		out, _ := m.command("capture-pane", "-p", "-t", "main:7")
		return strings.Contains(out, "/dev/pts/")
	})
	first := m.screen()
	second := m.do("capture-pane", "-p", "-t", "main:7")
	m.cycle()
	if m.screen() != first || m.do("capture-pane", "-p", "-t", "main:7") != second {
		t.Errorf("the windows show other things than before")
	}
	m.keys("clear; echo in $where", "Enter")
	m.shows("in first")
	m.do("send-keys", "-t", "main:7", "clear; echo in $where", "Enter")
	m.eventually("the second window answers", func() bool {
		out, _ := m.command("capture-pane", "-p", "-t", "main:7")
		return strings.Contains(out, "in second")
	})
}

// TestVim: the buffer of vim that was not written is there.
func TestVim(t *testing.T) {
	program(t, "vim")
	m := startTmux(t)
	file := m.Path("text")
	m.keys("vim -u NONE -N "+file, "Enter")
	m.shows("~")
	m.keys("i", "unwritten words", "Enter", "and more")
	m.shows("and more")
	m.cycle()
	m.keys(" of them", "Escape", ":w", "Enter")
	const text = "unwritten words\nand more of them\n"
	m.eventually("vim has written", func() bool {
		b, err := os.ReadFile(file)
		return err == nil && string(b) == text
	})
	m.keys(":q", "Enter")
	m.prompts()
	m.keys("echo left vim", "Enter")
	m.shows("\nleft vim")
}

// TestLess: less goes on at its line.
func TestLess(t *testing.T) {
	program(t, "less")
	m := startTmux(t)
	var text strings.Builder
	for n := range 500 {
		fmt.Fprintf(&text, "line %d of many\n", n)
	}
	if err := os.WriteFile(m.Path("text"), []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	m.keys("less "+m.Path("text"), "Enter")
	m.shows("line 5 of many")
	m.keys("100g")
	m.shows("line 99 of many")
	before := m.screen()
	m.cycle()
	if now := m.screen(); now != before {
		t.Errorf("less shows:\n%s\nbefore:\n%s", now, before)
	}
	m.keys("/line 321", "Enter")
	m.shows("line 321 of many\nline 322 of many")
}

// TestTop: top goes on showing what runs.
func TestTop(t *testing.T) {
	program(t, "top")
	m := startTmux(t)
	m.keys("top -d 0.2", "Enter")
	m.shows("PID USER")
	for range 2 {
		m.cycle()
		first := m.screen()
		m.eventually("top shows something new", func() bool { return m.screen() != first })
		m.shows("PID USER")
	}
	m.keys("q")
	m.prompts()
	m.keys("echo left top", "Enter")
	m.shows("\nleft top")
}
