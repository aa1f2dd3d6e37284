package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// TestThirdPartyPlugin builds the example of a plugin from its own module. With
// it a program is carried that is refused without it, and its image is.
func TestThirdPartyPlugin(t *testing.T) {
	needs(t)
	f, err := os.OpenFile("/dev/kmsg", os.O_RDONLY, 0)
	gate.Feature(t, "/dev/kmsg", err == nil)
	_ = f.Close()

	p, err := subjects()
	if err != nil {
		t.Fatal(err)
	}
	dir := workDir(t)
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "firn-plugin-kmsg"), ".")
	build.Dir = p.Path("sdk/examples/kmsg")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if _, err := harness.Output(20*grace, build); err != nil {
		t.Fatal(err)
	}
	with := firn(t)
	with.Env = []string{"FIRN_PLUGIN_PATH=" + dir}

	s := start(t, harness.Spec{Path: program(t, "python3"), Args: []string{script(t, "kmsg.py")}})
	s.ready()
	if lines := strings.Join(s.refused(), "\n"); !strings.Contains(lines, "/dev/kmsg") {
		t.Errorf("the file is not named:\n%s", lines)
	}
	res := want(t, harness.StatusDone, with, "plugin", "list")
	contains(t, res, res.Stdout, "kmsg", "readers and writers of /dev/kmsg")
	res = want(t, harness.StatusDone, with, "checkpoint", strconv.Itoa(s.PID), "-o", s.image)
	contains(t, res, res.Stderr, "messages that are unread at the restore are skipped")
	s.Forget()

	s.notRestored(harness.StatusPlugin, "kmsg")
	res = want(t, harness.StatusDone, firn(t), "show", s.image, "--records=kmsg")
	contains(t, res, res.Stdout, "UInt32Value")
	want(t, harness.StatusDone, with, "restore", "-d", s.image)
	s.unharmed()
}
