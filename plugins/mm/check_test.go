package mm

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
)

func TestCheckRefuses(t *testing.T) {
	needTracing(t)
	l := startSubject(t, "refused")
	findings, err := harness(t, l.pid).Check(true)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(sdktest.Blockers(findings), "\n")
	for name, a := range l.areas {
		v := vma{}
		v.Start, v.End = a.Start, a.End
		line := ""
		for _, b := range sdktest.Blockers(findings) {
			if strings.HasPrefix(b, v.subject()) {
				line = b
			}
		}
		if !strings.Contains(line, name) {
			t.Errorf("%s at %s: %q in\n%s", name, v.subject(), line, all)
		}
	}
	if len(sdktest.Blockers(findings)) != len(l.areas) {
		t.Errorf("%d blockers, want %d:\n%s", len(sdktest.Blockers(findings)), len(l.areas), all)
	}
	if _, err := harness(t, l.pid).Dump(); err == nil {
		t.Error("dumped all the same")
	}
}

func TestCheckAccepts(t *testing.T) {
	needTracing(t)
	l := startSubject(t, "zoo")
	for _, frozen := range []bool{false, true} {
		findings, err := harness(t, l.pid).Check(frozen)
		if err != nil {
			t.Fatal(err)
		}
		if b := sdktest.Blockers(findings); len(b) > 0 {
			t.Errorf("frozen %v: %q", frozen, b)
		}
		if len(findings) != 1 || findings[0].Level != sdk.LevelOK {
			t.Errorf("frozen %v: %+v", frozen, findings)
		}
	}
}

func TestCheckRefusesMemoryOfOutsiders(t *testing.T) {
	needTracing(t)
	l := startSubject(t, "sharing")
	child := int(l.areas["child"].Start)
	findings, err := harness(t, l.pid).Check(true)
	if err != nil {
		t.Fatal(err)
	}
	if b := sdktest.Blockers(findings); len(b) != 1 || !strings.Contains(b[0], strconv.Itoa(child)) {
		t.Errorf("without %d: %q", child, b)
	}
	if findings, err = harness(t, l.pid, child).Check(true); err != nil || len(sdktest.Blockers(findings)) != 0 {
		t.Errorf("with both: %v, %v", findings, err)
	}
}

func TestSharedAddressSpaceIsRefused(t *testing.T) {
	needTracing(t)
	l := startSubject(t, "idle")
	sp := func(task sdk.TaskID, pid int) *space { return &space{task: task, pid: pid} }
	got, err := sharedSpaces([]*space{sp(1, l.pid), sp(2, os.Getpid()), sp(3, l.pid)})
	if err != nil || len(got) != 2 || got[1] != 3 || got[3] != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestMappedFileIdentity(t *testing.T) {
	dir := t.TempDir()
	table := newFileTable()
	write := func(name, text string) *mmpb.MappedFile {
		path := dir + "/" + name
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return table.identify(path, &st).record(1)
	}
	plain, lib := write("plain", "text"), write("lib", string(elfWithNote([]byte("one"))))
	for _, m := range []*mmpb.MappedFile{plain, lib} {
		if diff, note := table.difference(m); diff+note != "" {
			t.Errorf("%s unchanged: %q %q", m.Path, diff, note)
		}
	}
	write("lib", string(elfWithNote([]byte("two"))))
	if diff, _ := table.difference(lib); !strings.Contains(diff, "build id") {
		t.Errorf("other build id: %q", diff)
	}
	later := plain.Mtime + 1e9
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, plain.Path, []unix.Timespec{unix.NsecToTimespec(later), unix.NsecToTimespec(later)}, 0); err != nil {
		t.Fatal(err)
	}
	if diff, _ := table.difference(plain); !strings.Contains(diff, "modified") {
		t.Errorf("modified: %q", diff)
	}
	plain.SharedWritable = true
	if diff, note := table.difference(plain); diff != "" || note == "" {
		t.Errorf("modified shared: %q %q", diff, note)
	}
	write("plain", "longer text")
	if diff, _ := table.difference(plain); !strings.Contains(diff, "bytes") {
		t.Errorf("other size: %q", diff)
	}
	if err := os.Remove(plain.Path); err != nil {
		t.Fatal(err)
	}
	if diff, _ := table.difference(plain); diff == "" {
		t.Error("a missing file is no difference")
	}
}
