// Package fdtest describes descriptors of the test's own process as a host
// would, and puts restored ones in their place, for round trips of plugins
// that carry files.
package fdtest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/wire"
)

// Resource describes descriptor fd of this process as object number fd+1000.
func Resource(t testing.TB, fd int) sdk.Resource {
	t.Helper()
	return ResourceOf(t, os.Getpid(), fd)
}

// ResourceOf is [Resource] for another process. Sockets must be of this one.
func ResourceOf(t testing.TB, pid, fd int) sdk.Resource {
	t.Helper()
	task := sdk.TaskID(pid)
	path := fmt.Sprintf("/proc/%d/fd/%d", pid, fd)
	link, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	info, err := procfs.ReadFDInfo(pid, fd)
	if err != nil {
		t.Fatal(err)
	}
	f := &sdk.File{
		Link: link, Type: fileType(st.Mode), Mode: st.Mode, Dev: st.Dev, Ino: st.Ino, Rdev: st.Rdev, Size: st.Size,
		Flags: info.Flags &^ unix.O_CLOEXEC, Offset: info.Pos, MountID: info.MountID,
		FS:   mountFS(t, info.MountID),
		Refs: []sdk.FDRef{{Task: task, FD: fd, Cloexec: info.Flags&unix.O_CLOEXEC != 0}},
	}
	if f.Type == sdk.TypeSocket && strings.HasPrefix(link, "socket:") {
		f.Socket = socket(t, fd)
	}
	return sdk.Resource{Kind: sdk.KindFile, Object: Object(fd), Task: task, File: f}
}

// Object is the object that [Resource] gives to a descriptor.
func Object(fd int) uint64 { return uint64(fd) + 1000 }

// Resources describes several descriptors.
func Resources(t testing.TB, fds ...int) []sdk.Resource {
	t.Helper()
	out := make([]sdk.Resource, 0, len(fds))
	for _, fd := range fds {
		out = append(out, Resource(t, fd))
	}
	return out
}

func mountFS(t testing.TB, id int) string {
	mounts, err := procfs.Mounts(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if m.ID == id {
			return m.FS
		}
	}
	return "" // mounted in the kernel only: pipes, sockets, anonymous inodes
}

func socket(t testing.TB, fd int) *sdk.Socket {
	get := func(opt int) int {
		v, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, opt)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	return &sdk.Socket{Family: get(unix.SO_DOMAIN), Type: get(unix.SO_TYPE), Protocol: get(unix.SO_PROTOCOL)}
}

func fileType(mode uint32) sdk.FileType {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return sdk.TypeRegular
	case unix.S_IFDIR:
		return sdk.TypeDirectory
	case unix.S_IFLNK:
		return sdk.TypeSymlink
	case unix.S_IFCHR:
		return sdk.TypeChar
	case unix.S_IFBLK:
		return sdk.TypeBlock
	case unix.S_IFIFO:
		return sdk.TypeFIFO
	case unix.S_IFSOCK:
		return sdk.TypeSocket
	}
	return sdk.TypeAnon
}

// Trip is one checkpoint and restore of descriptors of this process.
type Trip struct {
	t   testing.TB
	fds []int
	h   *sdktest.Harness
	// Image is what was dumped.
	Image *sdktest.Image
	// Findings are what the check of the frozen tree said.
	Findings []sdk.Finding
}

// Dump checks and dumps the descriptors in one session, as a checkpoint does.
// Findings that block are a failure of the test.
func Dump(t testing.TB, p sdk.Plugin, options map[string]string, fds ...int) *Trip {
	t.Helper()
	tr, s := check(t, p, options, fds)
	defer s.Close()
	if b := sdktest.Blockers(tr.Findings); len(b) > 0 {
		t.Fatalf("blocked: %s", strings.Join(b, "; "))
	}
	if _, err := s.Run(wire.PhaseDump); err != nil {
		t.Fatal(err)
	}
	// The restore closes the originals, and the end of a tree comes before it.
	if tr.h.Info().Has(wire.PhaseEnded) {
		if _, err := s.Run(wire.PhaseEnded); err != nil {
			t.Fatal(err)
		}
	}
	tr.Image = s.Image()
	return tr
}

// Check only checks the descriptors: once before the freeze, once frozen.
func Check(t testing.TB, p sdk.Plugin, options map[string]string, fds ...int) *Trip {
	t.Helper()
	tr, s := check(t, p, options, fds)
	s.Close()
	return tr
}

func check(t testing.TB, p sdk.Plugin, options map[string]string, fds []int) (*Trip, *sdktest.Session) {
	t.Helper()
	tr := &Trip{t: t, fds: fds}
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(self) })
	tr.h = sdktest.New(t, p, sdktest.Config{
		Tree: sdktest.Tree(os.Getpid()), Resources: Resources(t, fds...), Options: options,
		Host: &sdktest.Host{Tapes: sdktest.Execute}, PluginFD: self,
	})
	s := tr.h.Open()
	for _, s.Frozen = range []bool{false, true} {
		res, err := s.Run(wire.PhaseCheck)
		if err != nil {
			t.Fatal(err)
		}
		tr.Findings = res.Findings
	}
	return tr, s
}

// CheckImage runs the check of the image before a restore.
func (tr *Trip) CheckImage() []sdk.Finding {
	tr.t.Helper()
	s := tr.h.OpenRestore(tr.Image)
	defer s.Close()
	res, err := s.Run(wire.PhaseCheckImage)
	if err != nil {
		tr.t.Fatal(err)
	}
	return res.Findings
}

// Restore restores the descriptors in place: the objects are made, installed
// under the old numbers, and linked. The originals are closed before. The
// restored ones are closed when the test ends.
func (tr *Trip) Restore() {
	tr.t.Helper()
	if err := tr.TryRestore(); err != nil {
		tr.t.Fatal(err)
	}
}

// TryRestore is [Trip.Restore] for restores that are expected to fail.
func (tr *Trip) TryRestore() error {
	tr.t.Helper()
	// Replaced, not closed: the numbers must not be taken by others meanwhile.
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		tr.t.Fatal(err)
	}
	defer unix.Close(null)
	for _, fd := range tr.fds {
		if err := unix.Dup3(null, fd, unix.O_CLOEXEC); err != nil {
			tr.t.Fatal(err)
		}
		tr.t.Cleanup(func() { unix.Close(fd) })
	}
	s := tr.h.OpenRestore(tr.Image)
	defer s.Close()
	for _, phase := range []wire.Phase{wire.PhaseCheckImage, wire.PhaseRestoreObjects} {
		res, err := s.Run(phase)
		if err != nil {
			return err
		}
		if b := sdktest.Blockers(res.Findings); len(b) > 0 {
			return fmt.Errorf("blocked: %s", strings.Join(b, "; "))
		}
	}
	for _, fd := range tr.fds {
		made := s.FD(Object(fd))
		if made < 0 {
			return fmt.Errorf("nothing was restored for fd %d", fd)
		}
		if err := unix.Dup3(made, fd, unix.O_CLOEXEC); err != nil {
			return err
		}
	}
	for _, phase := range []wire.Phase{wire.PhaseLinkFiles, wire.PhaseSeal, wire.PhaseResumed} {
		if !tr.h.Info().Has(phase) {
			continue
		}
		if _, err := s.Run(phase); err != nil {
			return err
		}
	}
	return nil
}

// Flags are the status flags and access mode of a descriptor.
func Flags(t testing.TB, fd int) int {
	t.Helper()
	v, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Raw takes the descriptor out of a file: the file is closed, and what is
// returned has the flags that the file would have without the Go runtime
// (which makes descriptors of some kinds non-blocking).
func Raw(t testing.TB, f *os.File) int {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	return fd
}
