package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// buildExample builds the plugin of an example, with another version if one is given.
func buildExample(t *testing.T, name, version string) string {
	t.Helper()
	p, err := subjects()
	if err != nil {
		t.Fatal(err)
	}
	dir := workDir(t)
	source := p.Path("sdk/examples/" + name)
	out := filepath.Join(dir, "firn-plugin-"+name)
	args := []string{"build", "-o", out}
	if version != "" {
		main := filepath.Join(source, "main.go")
		text, err := os.ReadFile(main)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(text), `Version: "1.0.0"`, `Version: "`+version+`"`, 1)
		overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{main: filepath.Join(dir, "main.go")}})
		if err != nil {
			t.Fatal(err)
		}
		for file, b := range map[string][]byte{"main.go": []byte(changed), "overlay.json": overlay} {
			if err := os.WriteFile(filepath.Join(dir, file), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		args = append(args, "-overlay", filepath.Join(dir, "overlay.json"))
	}
	build := exec.Command("go", append(args, ".")...)
	build.Dir = source
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if _, err := harness.Output(20*grace, build); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestPluginVersions: of two versions of a plugin side by side the new one writes
// images, and each image is restored with the version that has written it.
func TestPluginVersions(t *testing.T) {
	needs(t)
	first, second := buildExample(t, "kmsg", ""), buildExample(t, "kmsg", "2.0.0")
	dir := filepath.Join(workDir(t), "plugins")
	with := firn(t)
	with.Env = []string{"FIRN_PLUGIN_PATH=" + dir}
	version := func(res harness.Result) string {
		t.Helper()
		var r struct {
			Plugins []struct{ Name, Version string }
		}
		if err := res.Decode(&r); err != nil {
			t.Fatal(err)
		}
		for _, p := range r.Plugins {
			if p.Name == "kmsg" {
				return p.Version
			}
		}
		return "none"
	}
	s := start(t, harness.Spec{Path: program(t, "python3"), Args: []string{script(t, "kmsg.py")}})
	s.ready()
	checkpoint := func(wants string) {
		t.Helper()
		if got := version(want(t, harness.StatusDone, with, "checkpoint", strconv.Itoa(s.PID), "-o", s.image, "--json")); got != wants {
			t.Errorf("version %s has written the image, want %s", got, wants)
		}
		s.Forget()
	}
	restore := func(wants string) {
		t.Helper()
		if got := version(want(t, harness.StatusDone, with, "restore", "-d", "--json", s.image)); got != wants {
			t.Errorf("version %s has read the image, want %s", got, wants)
		}
		s.unharmed()
	}
	want(t, harness.StatusDone, with, "plugin", "add", first)
	checkpoint("1.0.0")
	want(t, harness.StatusPlugin, with, "plugin", "add", second)
	want(t, harness.StatusDone, with, "plugin", "add", "--replace", second)
	restore("1.0.0")
	checkpoint("2.0.0")
	restore("2.0.0")
	res := want(t, harness.StatusDone, with, "plugin", "list")
	contains(t, res, res.Stdout, "firn-plugin-kmsg@1.0.0", "2.0.0")
	res = want(t, harness.StatusDone, with, "plugin", "verify")
	contains(t, res, res.Stdout, "kmsg@1.0.0", "ok, pinned")

	// A kept version is pinned as any other.
	kept := filepath.Join(dir, "firn-plugin-kmsg@1.0.0")
	if err := os.Chmod(kept, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(kept, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("changed"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	want(t, harness.StatusPlugin, with, "plugin", "verify", "kmsg@1.0.0")
	want(t, harness.StatusDone, with, "plugin", "remove", "kmsg@1.0.0")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v are left, want the new version and the lock file", entries, err)
	}
	want(t, harness.StatusDone, with, "plugin", "verify", "kmsg")
}
