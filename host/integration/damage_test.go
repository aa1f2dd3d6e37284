package integration

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// section is a part of an image; docs/image-format.md draws them.
type section struct {
	name       string
	start, end int64
}

// sections walks the blocks of an image: a header of 64 bytes with the magic
// "FBLK", the type at 4, the stream at 8, the length of the body at 16.
func sections(t *testing.T, image []byte) []section {
	t.Helper()
	size := int64(len(image))
	found := []section{{"header", 0, 64}}
	at := int64(64)
	for at < size-64 {
		b := image[at:]
		if string(b[:4]) != "FBLK" {
			t.Fatalf("no block at offset %d", at)
		}
		kind, stream := binary.LittleEndian.Uint16(b[4:]), binary.LittleEndian.Uint32(b[8:])
		length := (64 + int64(binary.LittleEndian.Uint64(b[16:])) + 63) &^ 63
		found = append(found, section{fmt.Sprintf("block of type %d in stream %d", kind, stream), at, at + length})
		at += length
	}
	return append(found, section{"trailer", at, size})
}

// places are offsets in every kind of section: its header, middle and end.
func places(all []section) map[string][]int64 {
	places := map[string][]int64{}
	for _, s := range all {
		if _, seen := places[s.name]; seen {
			continue
		}
		offsets := []int64{s.start, s.start + 24, (s.start + 64 + s.end) / 2, s.end - 1}
		places[s.name] = slices.DeleteFunc(offsets, func(o int64) bool { return o >= s.end })
	}
	return places
}

// TestDamagedImage: an image with one wrong byte, or a part of one, is refused
// before any task exists; the message has the section and the offset.
func TestDamagedImage(t *testing.T) {
	s := startC(t, "queues")
	s.checkpoint()
	whole, err := os.ReadFile(s.image)
	if err != nil {
		t.Fatal(err)
	}
	f := firn(t)
	f.Timeout = grace
	refused := func(t *testing.T, image []byte) {
		t.Helper()
		if err := os.WriteFile(s.image, image, 0o600); err != nil {
			t.Fatal(err)
		}
		s.notRestoredBy(f, harness.StatusFailed, "section", "offset")
		res := run(t, f, "verify", s.image)
		if res.Status != harness.StatusFailed || !strings.Contains(res.Stderr, "offset") {
			t.Errorf("verify: %s", res)
		}
	}
	for name, offsets := range places(sections(t, whole)) {
		t.Run(name, func(t *testing.T) {
			for _, offset := range offsets {
				changed := slices.Clone(whole)
				changed[offset] ^= 0x10
				refused(t, changed)
				if t.Failed() {
					t.Fatalf("with a flipped bit at offset %d", offset)
				}
			}
		})
	}
	size := len(whole)
	for _, length := range []int{0, 1, 63, 64, 100, 4096, size / 3, size / 2, size - 64, size - 1} {
		t.Run(fmt.Sprintf("cut to %d", length), func(t *testing.T) { refused(t, whole[:length]) })
	}
	t.Run("longer", func(t *testing.T) { refused(t, append(slices.Clone(whole), make([]byte, 64)...)) })

	if err := os.WriteFile(s.image, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	s.restore()
	s.unharmed()
	finishQueues(s)
}

// without makes a directory with firn and all plugins but one.
func without(t *testing.T, plugin string) harness.Firn {
	t.Helper()
	from := filepath.Dir(firn(t).Path)
	dir := workDir(t)
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "firn-plugin-"+plugin {
			continue
		}
		install(t, filepath.Join(from, e.Name()), filepath.Join(dir, e.Name()))
	}
	return harness.Firn{Path: filepath.Join(dir, "firn")}
}

// TestMissingPlugin: without the plugin that wrote records nothing is created,
// and without the plugin that claims a resource nothing is written.
func TestMissingPlugin(t *testing.T) {
	s := startC(t, "queues")
	f := without(t, "sockets")

	res := want(t, harness.StatusRefused, f, "checkpoint", strconv.Itoa(s.PID), "-o", s.image)
	if !strings.Contains(res.Stderr, "socket:[") || !strings.Contains(res.Stderr, strconv.Itoa(s.PID)) {
		t.Errorf("the unclaimed sockets are not named: %s", res)
	}
	s.unharmed()

	s.checkpoint()
	s.notRestoredBy(f, harness.StatusPlugin, "sockets")
	s.restore()
	s.unharmed()
}

// TestFullDisk: an image that does not fit costs nothing but the checkpoint.
func TestFullDisk(t *testing.T) {
	gate.Cap(t, unix.CAP_SYS_ADMIN)
	disk := filepath.Join(workDir(t), "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	err := unix.Mount("firn-test", disk, "tmpfs", 0, "size=1m")
	gate.Feature(t, "mount of a tmpfs", !errors.Is(err, unix.EPERM))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(errors.Join(err, unix.Unmount(disk, unix.MNT_DETACH)))
		}
	})
	for _, mode := range [][]string{nil, {"--deferred"}, {"--leave-running"}} {
		t.Run(strings.Join(append(mode, "mode"), " "), func(t *testing.T) {
			s := startC(t, "registers", "1")
			image := filepath.Join(disk, "image.firn")
			args := append([]string{"checkpoint", strconv.Itoa(s.PID), "-o", image}, mode...)
			res := want(t, harness.StatusFailed, firn(t), args...)
			if !strings.Contains(res.Stderr, "no space left on device") {
				t.Errorf("the cause is not named: %s", res)
			}
			s.unharmed()
			if left, err := os.ReadDir(disk); err != nil || len(left) > 0 {
				t.Errorf("left on the disk: %v, %v", left, err)
			}
		})
	}
}

// TestFileSizeLimit: the same with a limit instead of a full disk.
func TestFileSizeLimit(t *testing.T) {
	s := startC(t, "registers", "1")
	f := firn(t)
	f.Prefix = []string{program(t, "prlimit"), "--fsize=500000", "--"}
	res := want(t, harness.StatusFailed, f, "checkpoint", strconv.Itoa(s.PID), "-o", s.image)
	if !strings.Contains(res.Stderr, "file too large") {
		t.Errorf("the cause is not named: %s", res)
	}
	s.unharmed()
	if left, err := os.ReadDir(filepath.Dir(s.image)); err != nil || len(left) > 0 {
		t.Errorf("left beside the image: %v, %v", left, err)
	}
}

// TestImageToPipe: an image can go to standard output, and be read back from
// the file that it was put into.
func TestImageToPipe(t *testing.T) {
	s := startC(t, "queues")
	f := firn(t)
	f.Prefix = []string{program(t, "bash"), "-c", `set -o pipefail; "$@" | cat > "$0"`, s.image}
	want(t, harness.StatusDone, f, "checkpoint", strconv.Itoa(s.PID), "-o", "-")
	if err := harness.WaitGone(s.PID); err != nil {
		t.Fatal(err)
	}
	want(t, harness.StatusDone, firn(t), "verify", s.image)
	s.Forget()
	s.restore()
	s.unharmed()
	finishQueues(s)

	s = startC(t, "tick")
	f.Prefix = []string{program(t, "bash"), "-c", `exec "$@" > /dev/full`, "firn"}
	res := run(t, f, "checkpoint", strconv.Itoa(s.PID), "-o", "-")
	if res.Status != harness.StatusFailed {
		t.Errorf("standard output is full: %s", res)
	}
	s.unharmed()
}
