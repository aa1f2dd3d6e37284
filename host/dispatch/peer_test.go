package dispatch

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/wire"
)

func TestPeerMustBeThePlugin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for pid, want := range map[int]error{os.Getpid(): nil, os.Getppid(): sdk.ErrNotPermitted} {
		r := &pluginRunner{address: path, proc: &process{proc: &os.Process{Pid: pid}}}
		conn, err := r.dial(t.Context(), "")
		if !errors.Is(err, want) || !errors.Is(r.refusal(), want) {
			t.Errorf("process %d: %v, want %v", pid, err, want)
		}
		if err == nil {
			conn.Close()
		}
	}
}

// script installs a shell script as a plugin.
func script(t *testing.T, name, text string) []Binary {
	t.Helper()
	dir := plugins(t)
	if err := os.WriteFile(filepath.Join(dir, Prefix+name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	bins, err := Discover([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	return bins
}

func TestScripts(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"elsewhere": {"echo '1|1|unix|/tmp/x|grpc'; sleep 600", `plugin listens on unix "/tmp/x", want a unix socket in `},
		"parent":    {`echo "1|1|unix|$PLUGIN_UNIX_SOCKET_DIR/../s|grpc"; sleep 600`, "want a unix socket in "},
		"tcp":       {"echo '1|1|tcp|127.0.0.1:80|grpc'; sleep 600", "plugin listens on tcp"},
		"nobody":    {`echo "1|1|unix|$PLUGIN_UNIX_SOCKET_DIR/s|grpc"; sleep 600`, "no such file"},
		"version":   {`echo "1|99|unix|$PLUGIN_UNIX_SOCKET_DIR/s|grpc"; sleep 600`, "Plugin version: 99"},
		"netrpc":    {`echo "1|1|unix|$PLUGIN_UNIX_SOCKET_DIR/s|netrpc"; sleep 600`, `unsupported plugin protocol "netrpc"`},
		"ends":      {"echo never mind >&2; exit 5", "plugin process died (exit status 5: never mind)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begin, rt := time.Now(), runtimeDir(t)
			_, err := Start(t.Context(), script(t, name, c.text), Options{RuntimeDir: rt})
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, failure.ErrPlugin) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("it took %v", took)
			}
			noSockets(t, rt)
		})
	}
}

func TestRunByHand(t *testing.T) {
	bins := install(t, "one")
	out, err := exec.Command(bins[0].Path).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "This program is a plugin of firn") {
		t.Errorf("%v: %s", err, out)
	}
	// With the cookie but without a host.
	cmd := exec.Command(bins[0].Path)
	hs := wire.Handshake()
	cmd.Env = append(os.Environ(), hs.MagicCookieKey+"="+hs.MagicCookieValue)
	out, err = cmd.CombinedOutput()
	if !errors.As(err, &exit) || !strings.Contains(string(out), "start this plugin through firn") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("SECRET_TOKEN", "x")
	t.Setenv("LD_PRELOAD_X", "x")
	t.Setenv("FIRN_SOMETHING", "y")
	t.Setenv("LC_ALL", "C")
	env := environment(Options{Env: []string{"GOMAXPROCS=1"}}, hclog.Off)
	for _, want := range []string{"FIRN_SOMETHING=y", "LC_ALL=C", "GOMAXPROCS=1", "FIRN_PLUGIN_LOG=off"} {
		if !slices.Contains(env, want) {
			t.Errorf("%s is missing in %v", want, env)
		}
	}
	for _, v := range env {
		if strings.HasPrefix(v, "SECRET") || strings.HasPrefix(v, "LD_") {
			t.Errorf("%s is passed on", v)
		}
	}
}
