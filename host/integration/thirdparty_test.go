package integration

import (
	"os"
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

	with := withExample(t, "kmsg")
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

// withExample is firn with the plugin of an example, which is built from its own
// module.
func withExample(t *testing.T, name string) harness.Firn {
	t.Helper()
	with := firn(t)
	with.Env = []string{"FIRN_PLUGIN_PATH=" + filepath.Dir(buildExample(t, name, ""))}
	return with
}

// TestQuiesce: a plugin brings redis-server to rest before the freeze, in the
// middle of a dump by a child of it. Whatever becomes of the checkpoint, the server
// takes writes again.
func TestQuiesce(t *testing.T) {
	needs(t)
	with := withExample(t, "redis")
	r := startRedis(t, false)
	writes := func(value string) {
		t.Helper()
		r.want("OK", "SET", "key", value)
		r.want(value, "GET", "key")
		r.quiet()
	}
	checkpoint := func(status int, args ...string) harness.Result {
		t.Helper()
		args = append([]string{"checkpoint", strconv.Itoa(r.PID), "-o", r.image, "--log-level", "info"}, args...)
		return want(t, status, with, args...)
	}
	// The child takes a moment for each key.
	r.want("loaded", "EVAL", `for i = 1, 2000 do redis.call('SET', 'key:' .. i, i) end return 'loaded'`, "0")
	r.want("OK", "CONFIG", "SET", "rdb-key-save-delay", "500")
	r.want("Background saving started", "BGSAVE")
	r.quiet()
	res := checkpoint(harness.StatusDone, "--leave-running")
	contains(t, res, res.Stderr, "firn.redis: paused", "task="+strconv.Itoa(r.PID))
	if got, err := r.command("INFO", "persistence"); err != nil || !strings.Contains(got, "rdb_last_bgsave_status:ok") ||
		!strings.Contains(got, "rdb_bgsave_in_progress:0") {
		t.Errorf("the child was not waited for: %s, %v", got, err)
	}
	writes("after the thaw")

	// One that fails after the pause leaves it running, too.
	checkpoint(harness.StatusFailed, "-o", filepath.Join(r.Dir, "nowhere", "image.firn"))
	writes("after a failure")

	// A program that is not brought to rest is not frozen.
	r.want("OK", "CONFIG", "SET", "requirepass", "secret")
	res = checkpoint(harness.StatusFailed)
	contains(t, res, res.Stderr, "plugin redis: quiesce", "NOAUTH")
	r.connect = append(r.connect, "--no-auth-warning", "-a", "secret")
	writes("unharmed")

	checkpoint(harness.StatusDone, "--plugin-option", "redis-password=secret")
	r.Forget()
	want(t, harness.StatusDone, with, "restore", "-d", "--plugin-option", "redis-password=secret", r.image)
	writes("after the restore")
}
