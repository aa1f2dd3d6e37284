package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/sdk"
)

// run executes a command line and returns its status and what it printed.
func run(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	oldOut, oldErr := os.Stdout, os.Stderr
	defer func() { os.Stdout, os.Stderr = oldOut, oldErr }()
	collect := func(to **os.File) func() string {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		*to = w
		text := make(chan string)
		go func() {
			b, _ := io.ReadAll(r)
			text <- string(b)
		}()
		return func() string { w.Close(); return <-text }
	}
	out, errs := collect(&os.Stdout), collect(&os.Stderr)
	status = execute(context.Background(), &global{}, args)
	return status, out(), errs()
}

func TestUsageErrorsAreOneLine(t *testing.T) {
	tests := [][]string{
		{"chekpoint"},
		{"checkpoint"},
		{"checkpoint", "x", "-o", "y"},
		{"checkpoint", "-1", "-o", "y"},
		{"checkpoint", "4711"},
		{"checkpoint", "4711", "-o", "y", "--no-such-flag"},
		{"checkpoint", "4711", "-o", "y", "--leave-running", "--leave-stopped"},
		{"checkpoint", "4711", "-o", "y", "--memory-limit", "much"},
		{"checkpoint", "4711", "-o", "y", "--plugin-option", "novalue"},
		{"checkpoint", "4711", "-o", "y", "--log-level", "loud"},
		{"restore"},
		{"verify", "a", "b"},
		{"plugin", "explode"},
	}
	for _, args := range tests {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			status, out, errs := run(t, args...)
			if status != int(failure.Usage) || strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, "firn: ") || out != "" {
				t.Errorf("status %d, stdout %q, stderr %q", status, out, errs)
			}
		})
	}
}

func TestMissingImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.firn")
	for _, command := range []string{"show", "verify", "restore"} {
		status, _, errs := run(t, command, path)
		if status != int(failure.Failed) || !strings.Contains(errs, path) {
			t.Errorf("%s: status %d, %q", command, status, errs)
		}
	}
}

func TestEveryBlockerIsALine(t *testing.T) {
	err := &commandError{"checkpoint 7", fmt.Errorf("wrapped: %w", &failure.BlockedError{Lines: []failure.Line{
		{Plugin: "sockets", Finding: sdk.Finding{Level: sdk.LevelBlock, Task: 8, Subject: "fd 9", Text: "established TCP connection a->b", Help: "end it"}},
		{Finding: sdk.Finding{Level: sdk.LevelBlock, Task: 7, Subject: "thread", Text: "is odd"}},
	}})}
	want := "checkpoint 7: sockets: fd 9 of task 8: established TCP connection a->b: end it\ncheckpoint 7: thread of task 7: is odd"
	if got := describe(err); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if failure.Of(err) != failure.Blocked {
		t.Errorf("status %d", failure.Of(err))
	}
	if got := describe(errors.New("a\nb")); strings.Contains(got, "\n") {
		t.Errorf("an error of one cause has lines: %q", got)
	}
}

func TestPluginOptionsReachPlugins(t *testing.T) {
	cmd := newCheckpoint(&global{})
	if err := cmd.ParseFlags([]string{"--file-locks", "--plugin-option", "tone=red=blue", "--plugin-option", "n=1"}); err != nil {
		t.Fatal(err)
	}
	got, err := pluginOptions(cmd)
	if err != nil || got["file-locks"] != "true" || got["tone"] != "red=blue" || got["n"] != "1" || got["ghost-limit"] != "" {
		t.Errorf("%v, %v", got, err)
	}
}
