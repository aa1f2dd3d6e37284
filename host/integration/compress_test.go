package integration

import (
	"os"
	"testing"

	"github.com/firn-cr/firn/host/integration/harness"
)

// TestCompress: a program comes back from compressed images, written in both
// modes. They are smaller, and a damaged one is refused.
func TestCompress(t *testing.T) {
	s := startC(t, "memory", "16")
	s.checkpoint("--leave-running")
	plain, err := os.Stat(s.image)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--compress", "zstd"}, {"--compress", "zstd:1", "--deferred"}} {
		c := s.checkpoint(args...)
		info, err := os.Stat(s.image)
		if err != nil || info.Size() >= plain.Size() || info.Size() != c.BytesImage {
			t.Errorf("%d bytes, %d are told, %d without compression: %v", info.Size(), c.BytesImage, plain.Size(), err)
		}
		want(t, harness.StatusDone, firn(t), "verify", s.image)
		want(t, harness.StatusDone, firn(t), "show", s.image)
		s.restore()
		s.unharmed()
	}
	s.checkpoint("--compress", "zstd")
	b, err := os.ReadFile(s.image)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/3] ^= 1
	if err := os.WriteFile(s.image+".damaged", b, 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, harness.StatusFailed, firn(t), "restore", "-d", s.image+".damaged")
	s.restore()
	s.unharmed()
	want(t, harness.StatusUsage, firn(t), "checkpoint", "1", "-o", s.image, "--compress", "zstd:99")
}
