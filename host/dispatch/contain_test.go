package dispatch

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/sdktest/gate"
	"github.com/firn-cr/firn/sdk/wire"
)

// needs are the capabilities that the test plugin "needy" declares.
var needs = []string{"CAP_SYS_PTRACE", "CAP_NET_ADMIN"}

const needsMask = 1<<unix.CAP_SYS_PTRACE | 1<<unix.CAP_NET_ADMIN

// TestContained: a plugin of a third party has the rights that it declares, whether
// they are remembered or not, and what it executes has no others either.
func TestContained(t *testing.T) {
	gate.Cap(t, unix.CAP_SETPCAP)
	gate.Cap(t, unix.CAP_SYS_PTRACE)
	own, err := procfs.Status(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	bins := install(t, "honest", "needy")
	runtime := runtimeDir(t)
	want := map[string]uint64{"honest": 0, "needy": needsMask}
	for _, round := range []string{"unknown", "remembered", "trusted"} {
		if round == "trusted" {
			if err := Trust(bins, []string{"honest", "needy"}); err != nil {
				t.Fatal(err)
			}
			want = map[string]uint64{"honest": own.CapEff, "needy": own.CapEff}
		}
		memory := Recall(bins, runtime)
		if (len(memory) == 2) != (round != "unknown") {
			t.Errorf("%s: %d plugins are remembered", round, len(memory))
		}
		set, err := Start(t.Context(), bins, Options{RuntimeDir: runtime, Memory: memory})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range set.Plugins() {
			s, err := procfs.Status(p.PID())
			if err != nil {
				t.Fatal(err)
			}
			if s.CapEff != want[p.Name()] || s.CapPrm != want[p.Name()] || s.NoNewPrivs != (round != "trusted") {
				t.Errorf("%s: plugin %s has the rights %#x, %#x, no_new_privs %v; want %#x", round, p.Name(), s.CapEff, s.CapPrm, s.NoNewPrivs, want[p.Name()])
			}
		}
		p := set.Get("needy")
		if err := p.Open(t.Context(), SessionConfig{}); err != nil {
			t.Fatal(err)
		}
		res, err := p.Run(t.Context(), wire.PhaseCheck, wire.Round{})
		if err != nil {
			t.Fatal(err)
		}
		if text := fmt.Sprintf("CapEff:\t%016x", want["needy"]); !strings.Contains(res.Findings[0].Text, text) {
			t.Errorf("%s: what the plugin executes says %q, want %q", round, res.Findings[0].Text, text)
		}
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestUnknownCapability(t *testing.T) {
	_, err := Start(t.Context(), install(t, "greedy"), Options{RuntimeDir: runtimeDir(t)})
	if !errors.Is(err, failure.ErrPlugin) || !strings.Contains(err.Error(), `plugin greedy: start: declares the capability "CAP_EVERYTHING"`) {
		t.Errorf("%v", err)
	}
	if err := Trust(nil, []string{"nobody"}); !errors.Is(err, failure.ErrUsage) {
		t.Errorf("%v", err)
	}
}

// TestCapabilityNumbers compares the table with the constants of x/sys.
func TestCapabilityNumbers(t *testing.T) {
	for name, n := range map[string]int{
		"CAP_CHOWN": unix.CAP_CHOWN, "CAP_SETPCAP": unix.CAP_SETPCAP, "CAP_SYS_MODULE": unix.CAP_SYS_MODULE,
		"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_MKNOD": unix.CAP_MKNOD, "CAP_SETFCAP": unix.CAP_SETFCAP,
		"CAP_SYSLOG": unix.CAP_SYSLOG, "CAP_BPF": unix.CAP_BPF, "CAP_CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE,
	} {
		if r, err := declared([]string{name}); err != nil || r.mask != 1<<n {
			t.Errorf("%s: %#x, %v; want bit %d", name, r.mask, err, n)
		}
	}
	if len(capabilities) != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d names, want %d", len(capabilities), unix.CAP_LAST_CAP+1)
	}
}
