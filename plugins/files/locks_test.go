package files

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/tape"
	"github.com/firn-cr/firn/sdk/wire"
)

var withLocks = map[string]string{lockOption: "true"}

// locksOf are the locks that fdinfo shows, without who took them.
func locksOf(t *testing.T, fd int) string {
	t.Helper()
	var out []string
	for _, l := range fdinfoOf(t, fd).Locks {
		out = append(out, fmt.Sprint(l.Type, " ", l.Access, " ", l.Start, "-", l.End))
	}
	return strings.Join(out, ", ")
}

func TestLocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, "0123456789")
	flock := open(t, path, unix.O_RDONLY)
	if err := unix.Flock(flock, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ofd := open(t, path, unix.O_RDWR)
	for _, l := range []unix.Flock_t{{Type: unix.F_RDLCK, Start: 5}, {Type: unix.F_WRLCK, Start: 1, Len: 2}} {
		if err := unix.FcntlFlock(uintptr(ofd), unix.F_OFD_SETLK, &l); err != nil {
			t.Fatal(err)
		}
	}
	free := open(t, path, unix.O_RDONLY)
	f := fdtest.Check(t, New(), nil, flock, ofd, free).Findings
	for i, text := range []string{
		"lock of flock(2) (WRITE)", "lock of the description (WRITE) from byte 1 to byte 2",
		"lock of the description (READ) from byte 5 to the end",
	} {
		if len(f) != 3 || f[i].Level != sdk.LevelFlag || !strings.Contains(f[i].Text, text) || !strings.HasPrefix(f[i].Help, "--file-locks") {
			t.Errorf("findings %+v", f)
		}
	}
	want := []string{locksOf(t, flock), locksOf(t, ofd)}
	trip := fdtest.Dump(t, New(), withLocks, flock, ofd, free)
	if f := trip.CheckImage(); len(f) != 2 || !strings.Contains(f[0].Text, "is locked by") {
		t.Errorf("while the originals have the locks: %+v", f)
	}
	trip.Restore()
	if got := []string{locksOf(t, flock), locksOf(t, ofd)}; got[0] != want[0] || got[1] != want[1] || got[0] == "" || got[1] == "" {
		t.Errorf("locks %q, want %q", got, want)
	}
	if got := locksOf(t, free); got != "" {
		t.Errorf("a description without locks has %q", got)
	}
	if err := unix.Flock(free, unix.LOCK_SH|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		t.Errorf("lock of another description: %v", err)
	}
}

// TestLockAmongManyFiles: with many files /proc/locks tells which to look at.
func TestLockAmongManyFiles(t *testing.T) {
	dir := t.TempDir()
	var fds []int
	for i := range fdinfoFiles + 1 {
		path := filepath.Join(dir, fmt.Sprint(i))
		write(t, path, "x")
		fds = append(fds, open(t, path, unix.O_RDONLY))
	}
	if err := unix.Flock(fds[fdinfoFiles/2], unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	found := fdtest.Check(t, New(), nil, fds...).Findings
	if len(found) != 1 || found[0].Level != sdk.LevelFlag || !strings.Contains(found[0].Text, fmt.Sprintf("%s/%d: lock of flock(2)", dir, fdinfoFiles/2)) {
		t.Errorf("findings %+v", found)
	}
}

// TestPOSIXLock needs another process: whoever closes a duplicate of the
// description, as the plugin does, releases the POSIX locks of its own process.
func TestPOSIXLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, "0123456789")
	c := startChild(t, "posix-lock", path)
	cfg := sdktest.Config{Tree: sdktest.Tree(c.pid), Resources: []sdk.Resource{fdtest.ResourceOf(t, c.pid, 3)}}
	found, err := sdktest.New(t, New(), cfg).Check(true)
	if err != nil {
		t.Fatal(err)
	}
	if b := sdktest.Blockers(found); len(b) != 1 || !strings.Contains(b[0], "lock (WRITE) from byte 1 to byte 2") {
		t.Errorf("findings %q", b)
	}
	cfg.Options, cfg.Host = withLocks, &sdktest.Host{}
	h := sdktest.New(t, New(), cfg)
	img, err := h.Dump()
	if err != nil {
		t.Fatal(err)
	}
	if f := checkImage(t, h, img); len(f) != 1 || f[0].Text != fmt.Sprintf("%s: is locked by task %d", path, c.pid) {
		t.Errorf("findings %+v", f)
	}
	if _, err := h.Restore(img); err != nil {
		t.Fatal(err)
	}
	want := flockBytes(unix.Flock_t{Type: unix.F_WRLCK, Start: 1, Len: 2})
	runs := cfg.Host.Runs()
	if len(runs) != 1 || runs[0].TID != c.pid || len(runs[0].Tape.Calls) != 1 {
		t.Fatalf("runs %+v", runs)
	}
	call := runs[0].Tape.Calls[0]
	if call.Nr != unix.SYS_FCNTL || call.Args[0] != tape.Imm(3) || call.Args[1] != tape.Imm(unix.F_SETLK) ||
		string(runs[0].Tape.Data[:len(want)]) != string(want) {
		t.Errorf("call %+v with %x", call, runs[0].Tape.Data)
	}
}

func checkImage(t *testing.T, h *sdktest.Harness, img *sdktest.Image) []sdk.Finding {
	t.Helper()
	s := h.OpenRestore(img)
	defer s.Close()
	res, err := s.Run(wire.PhaseCheckImage)
	if err != nil {
		t.Fatal(err)
	}
	return res.Findings
}

func TestLease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	write(t, path, "x")
	fd := open(t, path, unix.O_RDONLY)
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		t.Fatal(err)
	}
	b := sdktest.Blockers(fdtest.Check(t, New(), nil, fd).Findings)
	if len(b) != 1 || !strings.Contains(b[0], "lease (ACTIVE READ)") {
		t.Errorf("findings %q", b)
	}
	fdtest.Dump(t, New(), withLocks, fd).Restore()
	if got := locksOf(t, fd); got != fmt.Sprint("LEASE READ 0-", uint64(math.MaxUint64)) {
		t.Errorf("locks %q", got)
	}
}

// dnCreate is DN_CREATE (linux/fcntl.h).
const dnCreate = 4

// TestDirectoryNotification: the kernel does not tell of F_NOTIFY, only that
// somebody gets signals.
func TestDirectoryNotification(t *testing.T) {
	c := startChild(t, "notify", t.TempDir())
	cfg := sdktest.Config{Tree: sdktest.Tree(c.pid), Resources: []sdk.Resource{fdtest.ResourceOf(t, c.pid, 3)}}
	found, err := sdktest.New(t, New(), cfg).Check(true)
	if err != nil {
		t.Fatal(err)
	}
	if b := sdktest.Blockers(found); len(b) != 1 || !strings.Contains(b[0], "signals of F_NOTIFY") {
		t.Errorf("findings %q", b)
	}
}

func TestLockRanges(t *testing.T) {
	if _, err := flockOf(&filespb.Lock{Start: 1 << 63}); err == nil {
		t.Error("a start behind every file was taken")
	}
	if f, err := flockOf(&filespb.Lock{Start: 3, Length: 4, Write: true}); err != nil || f.Type != unix.F_WRLCK || f.Start != 3 || f.Len != 4 {
		t.Errorf("%+v, %v", f, err)
	}
}
