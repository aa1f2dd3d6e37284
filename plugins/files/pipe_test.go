package files

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
)

func pipe2(t *testing.T, flags int) (r, w int) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], flags|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	return p[0], p[1]
}

// readAll reads what is there, message by message.
func readAll(t *testing.T, fd int) (msgs []string) {
	t.Helper()
	unix.SetNonblock(fd, true)
	buf := make([]byte, 4<<20)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EAGAIN {
			return msgs
		}
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return append(msgs, "EOF")
		}
		msgs = append(msgs, string(buf[:n]))
	}
}

func mustWrite(t *testing.T, fd int, s string) {
	t.Helper()
	if n, err := unix.Write(fd, []byte(s)); err != nil || n != len(s) {
		t.Fatalf("wrote %d of %d bytes: %v", n, len(s), err)
	}
}

func TestPipeBothEnds(t *testing.T) {
	r, w := pipe2(t, 0)
	if _, err := unix.FcntlInt(uintptr(w), unix.F_SETPIPE_SZ, 256<<10); err != nil {
		t.Fatal(err)
	}
	content := strings.Repeat("0123456789abcdef", 12345)
	mustWrite(t, w, content)
	unix.SetNonblock(w, true)
	again := open(t, fmt.Sprintf("/proc/self/fd/%d", r), unix.O_RDONLY|unix.O_NONBLOCK)
	both := open(t, fmt.Sprintf("/proc/self/fd/%d", w), unix.O_RDWR)
	fds := []int{both, again, r, w}
	var flags []int
	for _, fd := range fds {
		flags = append(flags, fdtest.Flags(t, fd))
	}
	trip := fdtest.Dump(t, New(), nil, fds...)
	if n, _ := unix.IoctlGetInt(r, unix.TIOCINQ); n != len(content) {
		t.Errorf("the dump took from the pipe: %d of %d bytes left", n, len(content))
	}
	trip.Restore()
	for i, fd := range fds {
		if got := fdtest.Flags(t, fd); got != flags[i] {
			t.Errorf("end %d: flags %#o, want %#o", i, got, flags[i])
		}
		if size, _ := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0); size != 256<<10 {
			t.Errorf("end %d: size %d", i, size)
		}
	}
	mustWrite(t, w, "tail")
	if got := strings.Join(readAll(t, r), ""); got != content+"tail" {
		t.Errorf("%d bytes, want %d", len(got), len(content)+4)
	}
	mustWrite(t, both, "x")
	if got := readAll(t, again); len(got) != 1 || got[0] != "x" {
		t.Errorf("through the other ends: %q", got)
	}
}

func TestPipePackets(t *testing.T) {
	tests := map[string][]struct {
		data   string
		direct bool
	}{
		"packets":        {{"one", true}, {"two", true}, {strings.Repeat("3", 4096), true}, {"4", true}},
		"one packet":     {{"alone", true}},
		"bytes":          {{"one", false}, {"two", false}},
		"packet, bytes":  {{"one", true}, {"two", false}, {"three", false}},
		"bytes, packet":  {{strings.Repeat("b", 5000), false}, {strings.Repeat("p", 4096), true}},
		"packet at last": {{"one", true}, {"last", true}},
	}
	for name, writes := range tests {
		t.Run(name, func(t *testing.T) {
			fill := func(w int) {
				for _, m := range writes {
					flag := 0
					if m.direct {
						flag = unix.O_DIRECT
					}
					if _, err := unix.FcntlInt(uintptr(w), unix.F_SETFL, flag); err != nil {
						t.Fatal(err)
					}
					mustWrite(t, w, m.data)
				}
			}
			// drain takes what is there, with more behind it, in small reads:
			// of a packet, they throw away the rest.
			drain := func(r, w int) (out []string) {
				unix.FcntlInt(uintptr(w), unix.F_SETFL, 0)
				mustWrite(t, w, "behind")
				unix.SetNonblock(r, true)
				buf := make([]byte, 4095)
				for {
					n, err := unix.Read(r, buf)
					if err != nil {
						return out
					}
					out = append(out, string(buf[:n]))
				}
			}
			r0, w0 := pipe2(t, 0)
			fill(w0)
			want := drain(r0, w0)
			unix.Close(r0)
			unix.Close(w0)
			r, w := pipe2(t, 0)
			fill(w)
			fdtest.Dump(t, New(), nil, r, w).Restore()
			if got := drain(r, w); strings.Join(got, "|") != strings.Join(want, "|") {
				t.Errorf("read %q, want %q", got, want)
			}
		})
	}
}

func TestPipeClosedPeer(t *testing.T) {
	r, w := pipe2(t, 0)
	mustWrite(t, w, "rest")
	unix.Close(w)
	fdtest.Dump(t, New(), nil, r).Restore()
	if got := readAll(t, r); strings.Join(got, "|") != "rest|EOF" {
		t.Errorf("read %q", got)
	}
	r, w = pipe2(t, unix.O_NONBLOCK)
	mustWrite(t, w, "unread")
	unix.Close(r)
	fdtest.Dump(t, New(), nil, w).Restore()
	if p := []unix.PollFd{{Fd: int32(w)}}; pollNow(t, p) == 0 || p[0].Revents&unix.POLLERR == 0 {
		t.Errorf("poll of a pipe without readers: %#x", p[0].Revents)
	}
	if n, _ := unix.IoctlGetInt(w, unix.TIOCINQ); n != len("unread") {
		t.Errorf("%d bytes", n)
	}
}

func pollNow(t *testing.T, p []unix.PollFd) int {
	t.Helper()
	n, err := unix.Poll(p, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPipeOutsideHolder(t *testing.T) {
	r, w := pipe2(t, 0)
	defer unix.Close(r)
	other, err := unix.Dup(w)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(other), "w")
	c := startChild(t, "hold", "", f)
	f.Close()
	unix.Close(w)
	text := fmt.Sprintf("is also open in task %d", c.pid)
	blocked(t, r, text)
}

func TestPipeLostPeer(t *testing.T) {
	// The other end is in no process of the tree, and in none that is searched:
	// this one plays the plugin.
	r, w := pipe2(t, 0)
	defer unix.Close(r)
	defer unix.Close(w)
	blocked(t, r, "its other end is held outside the tree")
	blocked(t, w, "its other end is held outside the tree")
}

func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFIFO(t *testing.T) {
	path := fifo(t)
	r := open(t, path, unix.O_RDONLY|unix.O_NONBLOCK)
	w := open(t, path, unix.O_WRONLY)
	ref := open(t, path, unix.O_PATH)
	mustWrite(t, w, "queued")
	flags := fdtest.Flags(t, r)
	fdtest.Dump(t, New(), nil, r, w, ref).Restore()
	if got := fdtest.Flags(t, r); got != flags {
		t.Errorf("flags %#o, want %#o", got, flags)
	}
	mustWrite(t, w, " and more")
	if got := readAll(t, r); strings.Join(got, "") != "queued and more" {
		t.Errorf("read %q", got)
	}
	unix.Dup3(r, w, unix.O_CLOEXEC) // closes the writer
	if got := readAll(t, r); len(got) != 1 || got[0] != "EOF" {
		t.Errorf("after the writer: %q", got)
	}
}

// TestFIFOStates compares what a lone end sees before and after.
func TestFIFOStates(t *testing.T) {
	state := func(t *testing.T, fd int) string {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT}}
		pollNow(t, p)
		return fmt.Sprintf("%#x", p[0].Revents)
	}
	tests := map[string]func(t *testing.T, path string) int{
		"reader before any writer": func(t *testing.T, path string) int {
			return open(t, path, unix.O_RDONLY|unix.O_NONBLOCK)
		},
		"reader after the last writer": func(t *testing.T, path string) int {
			r := open(t, path, unix.O_RDONLY|unix.O_NONBLOCK)
			w := open(t, path, unix.O_WRONLY)
			mustWrite(t, w, "left")
			unix.Close(w)
			return r
		},
		"writer after the last reader": func(t *testing.T, path string) int {
			r := open(t, path, unix.O_RDONLY|unix.O_NONBLOCK)
			w := open(t, path, unix.O_WRONLY)
			mustWrite(t, w, "left")
			unix.Close(r)
			return w
		},
		"both in one": func(t *testing.T, path string) int { return open(t, path, unix.O_RDWR) },
	}
	for name, make := range tests {
		t.Run(name, func(t *testing.T) {
			fd := make(t, fifo(t))
			want := state(t, fd)
			queued, _ := unix.IoctlGetInt(fd, unix.TIOCINQ)
			fdtest.Dump(t, New(), nil, fd).Restore()
			if got := state(t, fd); got != want {
				t.Errorf("poll says %s, said %s", got, want)
			}
			if n, _ := unix.IoctlGetInt(fd, unix.TIOCINQ); n != queued {
				t.Errorf("%d bytes, had %d", n, queued)
			}
		})
	}
}

func TestFIFORefused(t *testing.T) {
	path := fifo(t)
	fd := open(t, path, unix.O_RDWR)
	defer unix.Close(fd)
	c := startChild(t, "open-fifo", path)
	blocked(t, fd, fmt.Sprintf("is also open in task %d", c.pid))
	os.Remove(path)
	blocked(t, fd, "(deleted): is also open in task")
}

// TestPipeOfNewProcess: while the tree runs, a process of it that is younger than
// the list of them is not outside.
func TestPipeOfNewProcess(t *testing.T) {
	r, w := pipe2(t, 0)
	defer unix.Close(r)
	defer unix.Close(w)
	startChild(t, "hold", "", fileOf(t, w))
	sess := &sdk.Session{Tree: sdktest.Tree(os.Getpid()), Resources: fdtest.Resources(t, r, w)}
	for _, frozen := range []bool{false, true} {
		s, err := newSurvey(t.Context(), sess, nil, frozen)
		if err != nil {
			t.Fatal(err)
		}
		s.close()
		if f := s.report.Findings(); (len(f) > 0) != frozen {
			t.Errorf("frozen %t: %+v", frozen, f)
		}
	}
}

func TestFIFOChanged(t *testing.T) {
	path := fifo(t)
	trip := fdtest.Dump(t, New(), nil, open(t, path, unix.O_RDWR))
	os.Remove(path)
	write(t, path, "no fifo")
	if b := sdktest.Blockers(trip.CheckImage()); len(b) != 1 || !strings.Contains(b[0], "is a regular file, was a FIFO") {
		t.Errorf("findings %q", b)
	}
	if err := trip.TryRestore(); err == nil {
		t.Error("restored")
	}
}

func TestPipeContentCorrupt(t *testing.T) {
	// More content than the pipe holds must end in an error, not in a hang.
	r, w := pipe2(t, unix.O_NONBLOCK)
	defer unix.Close(r)
	defer unix.Close(w)
	if err := writePipe(w, bytes.Repeat([]byte("x"), 1<<20), 0); err == nil || !strings.Contains(err.Error(), sdk.ErrCorrupt.Error()) {
		t.Errorf("overfull: %v", err)
	}
}
