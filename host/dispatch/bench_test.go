package dispatch

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/sdktest"
	"github.com/firn-cr/firn/sdk/wire"
)

// buildIdle builds a plugin as it is shipped and installs it under names.
func buildIdle(b *testing.B, names ...string) []Binary {
	b.Helper()
	dir := b.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	exe := filepath.Join(dir, "idle")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", exe, "./testdata/plugin")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	for _, name := range names {
		if err := os.Symlink(exe, filepath.Join(dir, Prefix+name)); err != nil {
			b.Fatal(err)
		}
	}
	bins, err := Discover([]string{dir})
	if err != nil {
		b.Fatal(err)
	}
	return bins
}

// BenchmarkStart measures from nothing to the answer of the first call of all
// plugins, started at the same time.
func BenchmarkStart(b *testing.B) {
	for _, n := range []int{1, 5} {
		names := []string{"a", "b", "c", "d", "e"}[:n]
		b.Run(fmt.Sprintf("plugins=%d", n), func(b *testing.B) {
			bins := buildIdle(b, names...)
			var took []time.Duration
			for b.Loop() {
				begin := time.Now()
				set, err := Start(b.Context(), bins, Options{Arena: &ArenaOptions{}})
				if err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begin))
				b.StopTimer()
				if err := set.Close(); err != nil {
					b.Error(err)
				}
				b.StartTimer()
			}
			slices.Sort(took)
			b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
			b.ReportMetric(took[len(took)*9/10].Seconds()*1e3, "p90-ms")
		})
	}
}

// BenchmarkPhase measures a phase with a tree and some resources, and the
// close of a set.
func BenchmarkPhase(b *testing.B) {
	set, err := Start(b.Context(), buildIdle(b, "a"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	p := set.Get("a")
	if err := p.Open(b.Context(), SessionConfig{Host: &sdktest.Host{}}); err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{0, 100, 10000} {
		round := Round{Tree: sdktest.Tree(1)}
		for i := range n {
			round.Resources = append(round.Resources, sdk.Resource{Kind: sdk.KindVMA, Object: uint64(i), VMA: &sdk.VMA{Path: "/usr/lib/libx.so", Perm: "r-xp"}})
		}
		b.Run(fmt.Sprintf("resources=%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := p.Run(b.Context(), wire.PhaseAbort, round); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	begin := time.Now()
	if err := set.Close(); err != nil {
		b.Error(err)
	}
	b.Logf("close took %v", time.Since(begin))
}
