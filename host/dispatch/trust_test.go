package dispatch

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
)

// plugins makes files that look like plugins in a directory with mode 0755.
func plugins(t *testing.T, names ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "plugins")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("\x7fELF "+name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDiscover(t *testing.T) {
	first := plugins(t, "firn-plugin-b", "firn-plugin-a", "firn", "firn-plugin-", "firn-plugin-UPPER", "other")
	second := plugins(t, "firn-plugin-b", "firn-plugin-c")
	bins, err := Discover([]string{first, filepath.Join(first, "absent"), second})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range bins {
		got = append(got, b.Name+" "+filepath.Base(filepath.Dir(filepath.Dir(b.Path))))
	}
	want := "a " + filepath.Base(filepath.Dir(first)) + ",b " + filepath.Base(filepath.Dir(first)) + ",c " + filepath.Base(filepath.Dir(second))
	if strings.Join(got, ",") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestDiscoverRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(dir, file string) error
		want  string
	}{
		"writable file":  {func(_, f string) error { return os.Chmod(f, 0o775) }, "it is writable by others, mode 0775"},
		"writable dir":   {func(d, _ string) error { return os.Chmod(d, 0o757) }, "is writable by others, mode 0757"},
		"sticky dir":     {func(d, _ string) error { return os.Chmod(d, 0o777|os.ModeSticky) }, "is writable by others"},
		"writable above": {func(d, _ string) error { return os.Chmod(filepath.Dir(d), 0o777) }, "is writable by others"},
		"no program":     {func(_, f string) error { return os.Chmod(f, 0o644) }, "is not executable"},
		"fifo": {func(_, f string) error {
			return errors.Join(os.Remove(f), unix.Mkfifo(f, 0o755))
		}, "is not a regular file"},
		"symlink": {func(d, f string) error {
			open := filepath.Join(filepath.Dir(d), "open")
			return errors.Join(os.Mkdir(open, 0o755), os.Chmod(open, 0o777), os.Rename(f, filepath.Join(open, "x")), os.Symlink(filepath.Join(open, "x"), f))
		}, "open is writable by others"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := plugins(t, "firn-plugin-bad", "firn-plugin-good")
			if err := c.spoil(dir, filepath.Join(dir, "firn-plugin-bad")); err != nil {
				t.Fatal(err)
			}
			bins, err := Discover([]string{dir})
			var refused *RefusedError
			if !errors.As(err, &refused) || !errors.Is(err, failure.ErrPlugin) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
			if len(bins) == 2 {
				t.Error("the bad plugin is among the good ones")
			}
		})
	}
}

func TestDiscoverRefusesForeignOwner(t *testing.T) {
	gate.Cap(t, unix.CAP_CHOWN)
	dir := plugins(t, "firn-plugin-bad")
	if err := os.Chown(filepath.Join(dir, "firn-plugin-bad"), 12345, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := Discover([]string{dir}); err == nil || !strings.Contains(err.Error(), "belongs to user 12345") {
		t.Errorf("got %v", err)
	}
}

func TestSums(t *testing.T) {
	bins := install(t, "good", "bad")
	dir := filepath.Dir(bins[0].Path)
	good, err := Digest(bins[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	sums := "# recorded\n" + good + "  firn-plugin-good\n" + strings.Repeat("0", 64) + " *firn-plugin-bad\n"
	if err := os.WriteFile(filepath.Join(dir, SumsFile), []byte(sums), 0o644); err != nil {
		t.Fatal(err)
	}
	if bins, err = Discover([]string{dir}); err != nil {
		t.Fatal(err)
	}
	for _, b := range bins {
		set, err := Start(t.Context(), []Binary{b}, Options{RuntimeDir: runtimeDir(t)})
		if err == nil {
			err = set.Close()
		} else if !strings.Contains(err.Error(), "recorded is 0000") {
			t.Errorf("%s: %v", b.Name, err)
		}
		if (b.Name == "good") != (err == nil) {
			t.Errorf("%s: %v", b.Name, err)
		}
	}
	for _, bad := range []string{"xyz  firn-plugin-good\n", good + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, SumsFile), []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Discover([]string{dir}); !errors.Is(err, failure.ErrPlugin) {
			t.Errorf("line %q: %v", bad, err)
		}
	}
}

func TestPluginDirs(t *testing.T) {
	t.Setenv(PathVariable, "relative:/abs/one::/abs/two/")
	dirs := PluginDirs()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/abs/one", "/abs/two", filepath.Dir(exe), systemDirs[0], systemDirs[1]}
	if len(dirs) < len(want) || strings.Join(dirs[:len(want)], ":") != strings.Join(want, ":") {
		t.Errorf("got %v", dirs)
	}
}
