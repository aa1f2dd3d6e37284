// Command firn checkpoints and restores process trees.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/host/serve"
	"github.com/firn-cr/firn/sdk/kern"
)

// version is set by the linker.
var version = "0.1.0-dev"

func main() {
	// A command is short, and a collection while a tree stands still is the
	// tree's loss.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	// A closed pipe or a file size limit is an error of the write, which is
	// rolled back; it must not end the process.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGXFSZ)
	g := &global{}
	if serve.Served(os.Args[1:]) {
		status, done, err := serve.Do(os.Args[1:])
		if done {
			if err != nil {
				fmt.Fprintln(os.Stderr, "firn: "+err.Error())
			}
			os.Exit(status)
		}
		g.unserved = err
	}
	go func() { _ = kern.GrowTable() }() // else: when it is full
	code := execute(ctx, g, os.Args[1:])
	stop()
	os.Exit(code)
}

// execute runs a command line and returns the exit status. Errors are printed
// here and nowhere else, one line per cause.
func execute(ctx context.Context, g *global, args []string) int {
	root := newRoot(g)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	if err == nil {
		return int(failure.Done)
	}
	if g.declined != nil {
		return int(failure.Failed) // somebody else does it
	}
	for line := range strings.Lines(describe(err)) {
		fmt.Fprintln(os.Stderr, "firn: "+strings.TrimRight(line, "\n"))
	}
	return int(failure.Of(err))
}

// commandError names the command that failed.
type commandError struct {
	what string // "checkpoint 4711"
	err  error
}

func (e *commandError) Error() string { return e.what + ": " + e.err.Error() }
func (e *commandError) Unwrap() error { return e.err }

// exitError carries the exit status of a restored program.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// describe repeats the command on every line of an error that has several.
func describe(err error) string {
	var cmd *commandError
	var blocked *failure.BlockedError
	if !errors.As(err, &cmd) || !errors.As(err, &blocked) {
		return strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	lines := make([]string, len(blocked.Lines))
	for i, l := range blocked.Lines {
		lines[i] = cmd.what + ": " + l.String()
	}
	return strings.Join(lines, "\n")
}
