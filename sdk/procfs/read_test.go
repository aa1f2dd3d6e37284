package procfs

import (
	"bytes"
	"errors"
	"os"
	"testing"
)

func TestRead(t *testing.T) {
	pid := os.Getpid()
	for _, name := range []string{"cmdline", "comm", "task", "environ", "auxv"} {
		want, wantErr := os.ReadFile("/proc/self/" + name)
		got, err := Read(pid, name)
		if !bytes.Equal(got, want) || (err == nil) != (wantErr == nil) {
			t.Errorf("%s: %d bytes, %v; want %d, %v", name, len(got), err, len(want), wantErr)
		}
	}
	// Longer than a buffer.
	if got, err := Read(pid, "smaps"); err != nil || len(got) < 8<<10 || !bytes.HasSuffix(got, []byte("\n")) {
		t.Errorf("smaps: %d bytes, %v", len(got), err)
	}
	if _, err := Read(1<<30, "stat"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such task: %v", err)
	}
}
