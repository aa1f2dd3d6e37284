package image

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// envChild makes the test program do the work of a child process.
const envChild = "FIRN_IMAGE_TEST_CHILD"

func TestMain(m *testing.M) {
	if work := os.Getenv(envChild); work != "" {
		name, dir, _ := strings.Cut(work, ":")
		if err := children[name](dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var children = map[string]func(dir string) error{"endless": endlessChild, "nospace": noSpaceChild}

func child(t *testing.T, name, dir string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), envChild+"="+name+":"+dir)
	return cmd
}

// entries lists a directory.
func entries(tb testing.TB, dir string) []string {
	tb.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		tb.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func smallCommit(t *testing.T, path string) error {
	t.Helper()
	w, err := Create(path, nil)
	if err != nil {
		return err
	}
	newFeeder(w.Stream("mm")).record(t, 1, []byte("x"))
	_, err = w.Commit(context.Background(), CommitOptions{})
	return err
}

func TestCommitReplacesAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "x.firn")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	w, err := Create(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	newFeeder(w.Stream("mm")).record(t, 1, []byte("x"))
	if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
		t.Errorf("before the commit the file is %q, %v", b, err)
	}
	if _, err := w.Commit(context.Background(), CommitOptions{Sync: true}); err != nil {
		t.Fatal(err)
	}
	i, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	i.Close()
	if names := entries(t, dir); len(names) != 1 {
		t.Errorf("directory has %q", names)
	}
	if _, err := w.Commit(context.Background(), CommitOptions{}); !errors.Is(err, ErrClosed) {
		t.Errorf("second commit: %v", err)
	}
	if err := w.Abort(); err != nil {
		t.Errorf("abort after commit: %v", err)
	}
	if _, err := w.Stream("mm").WriteBulk(make([]byte, 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("write after commit: %v", err)
	}
	if err := w.Stream("new").WriteRecords(make([]byte, 64), 1); !errors.Is(err, ErrClosed) {
		t.Errorf("new stream after commit: %v", err)
	}
}

func TestAbortLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := Create(filepath.Join(dir, "x.firn"), nil)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, w, 3)
	if err := errors.Join(w.Abort(), w.Abort()); err != nil {
		t.Error(err)
	}
	if names := entries(t, dir); len(names) != 0 {
		t.Errorf("directory has %q", names)
	}
}

func TestFailedCommitLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := Create(filepath.Join(dir, "x.firn"), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := w.Commit(ctx, CommitOptions{Sync: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if names := entries(t, dir); len(names) != 0 {
		t.Errorf("directory has %q", names)
	}
}

// A file system without O_TMPFILE gets a name that is hidden and random.
func TestNamedTemporaryFile(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"publish", "discard"} {
		dir := t.TempDir()
		d, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		tmp := &tempFile{dir: d, base: strings.Repeat("x", 250)}
		if err := tmp.openNamed(); err != nil {
			t.Fatal(err)
		}
		names := entries(t, dir)
		if len(names) != 1 || !strings.HasPrefix(names[0], ".xx") || !strings.HasSuffix(names[0], ".tmp") {
			t.Errorf("directory has %q", names)
		}
		want := 0
		if end == "publish" {
			want, err = 1, tmp.publish(true)
		} else {
			err = tmp.discard()
		}
		if err != nil {
			t.Errorf("%s: %v", end, err)
		}
		if names := entries(t, dir); len(names) != want || want == 1 && names[0] != tmp.base {
			t.Errorf("%s: directory has %q", end, names)
		}
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := smallCommit(t, dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("directory: %v", err)
	}
	if err := smallCommit(t, filepath.Join(dir, "none", "x.firn")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("directory that is not there: %v", err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := smallCommit(t, fifo); err == nil {
		t.Error("a FIFO was replaced")
	}
	if _, err := Open(fifo); err == nil {
		t.Error("a FIFO was opened")
	}
	if _, err := Open(dir); err == nil {
		t.Error("a directory was opened")
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("fifo", link); err != nil {
		t.Fatal(err)
	}
	if err := smallCommit(t, link); err == nil {
		t.Error("a link to a FIFO was replaced")
	}
	if err := errors.Join(os.Remove(fifo), os.WriteFile(fifo, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := smallCommit(t, link); err != nil {
		t.Error(err)
	}
	if to, err := os.Readlink(link); err != nil || to != "fifo" {
		t.Errorf("the link became %q, %v", to, err)
	}
	if i, err := Open(link); err != nil {
		t.Error(err)
	} else {
		i.Close()
	}
}

// endlessChild writes until it is killed.
func endlessChild(dir string) error {
	w, err := Create(filepath.Join(dir, "x.firn"), nil)
	if err != nil {
		return err
	}
	s := w.Stream("mm")
	data := make([]byte, 1<<20)
	for n := range 4096 {
		if _, err := s.WriteBulk(data); err != nil {
			return err
		}
		if n == 10 {
			fmt.Println("writing")
		}
		time.Sleep(time.Millisecond)
	}
	return errors.New("was not killed")
}

func TestKilledWriterLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	probe := &tempFile{dir: d, base: "probe"}
	err = probe.openUnnamed()
	gate.Feature(t, "O_TMPFILE in "+dir, err == nil)
	if err := probe.discard(); err != nil {
		t.Fatal(err)
	}
	cmd := child(t, "endless", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	cmd.Wait()
	if line != "writing\n" {
		t.Fatalf("child says %q", line)
	}
	if names := entries(t, dir); len(names) != 0 {
		t.Errorf("directory has %q", names)
	}
}

// noSpaceChild fills a file system of its own.
func noSpaceChild(dir string) error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		return err
	}
	path := filepath.Join(dir, "x.firn")
	for _, size := range []int{1 << 10, 60 << 10, 1 << 20, 4 << 20} {
		w, err := Create(path, nil)
		if err != nil {
			return err
		}
		s := w.Stream("mm")
		var first error
		for n := 0; n < 20<<20 && first == nil; n += size {
			_, first = s.WriteBulk(make([]byte, size))
		}
		if !errors.Is(first, unix.ENOSPC) {
			return fmt.Errorf("payloads of %d bytes: error is %w", size, first)
		}
		if _, err := w.Commit(context.Background(), CommitOptions{}); !errors.Is(err, unix.ENOSPC) {
			return fmt.Errorf("commit: error is %w", err)
		}
		var st unix.Statfs_t
		list, err := os.ReadDir(dir)
		if err := errors.Join(err, unix.Statfs(dir, &st)); err != nil {
			return err
		}
		if len(list) != 0 || st.Blocks-st.Bfree > 1 {
			return fmt.Errorf("%d files and %d blocks stay", len(list), st.Blocks-st.Bfree)
		}
	}
	// No room for the first block.
	room := make([]byte, 8<<20)
	for n := len(room); n > 0; n /= 2 {
		if f, err := os.OpenFile(filepath.Join(dir, "other"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err == nil {
			_, _ = f.Write(room[:n])
			f.Close()
		}
	}
	if _, err := Create(path, nil); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("create on a full file system: error is %w", err)
	}
	return nil
}

func TestNoSpace(t *testing.T) {
	t.Parallel()
	cmd := child(t, "nospace", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		gate.Feature(t, "user namespaces", false)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, &out)
	}
}

func TestPipeErrors(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if _, err := NewWriter(full, nil); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("full pipe: %v", err)
	}
	r, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer wr.Close()
	w, err := NewWriter(wr, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if _, err := w.Stream("mm").WriteBulk(make([]byte, 1<<20)); !errors.Is(err, unix.EPIPE) {
		t.Errorf("closed pipe: %v", err)
	}
	// Every later use tells the first error.
	if _, err := w.Stream("other").WriteBulk(make([]byte, 1)); !errors.Is(err, unix.EPIPE) {
		t.Errorf("after the error: %v", err)
	}
	if _, err := w.Commit(context.Background(), CommitOptions{}); !errors.Is(err, unix.EPIPE) {
		t.Errorf("commit after the error: %v", err)
	}
}
