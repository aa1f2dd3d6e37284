package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/firn-cr/firn/host/checkpoint"
	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/serve"
)

const serveHelp = `Serve keeps plugins started and verified, so that checkpoint and check need not
start them: a checkpoint of a small tree takes a fraction of the time. These
commands find it by themselves and do their work alone when it does not run.

It listens on /run/firn/serve.sock, for an ordinary user on
$XDG_RUNTIME_DIR/firn/serve.sock; FIRN_SERVE=PATH says otherwise, to it and to the
commands, and FIRN_SERVE=off keeps a command from using it. It serves its own user
only, and only commands that have the same rights, limits and namespaces.

Every command is run by a process of its own, which ends with it. SIGTERM or
Ctrl-C ends serve when the commands that it runs have ended. A plugin or firn
that was replaced is noticed; plugins that were added are started when they are
needed.`

func newServe(g *global) *cobra.Command {
	var workers int
	cmd := &cobra.Command{
		Use:     "serve",
		Short:   "Keep plugins started, so that checkpoints take less time",
		Long:    serveHelp,
		Example: "  firn serve &\n  firn checkpoint 4711 -o app.firn",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := g.log()
			if err != nil {
				return err
			}
			socket := serve.Socket()
			if socket == "" {
				return usagef("serve: no place for the socket: set FIRN_SERVE to its path")
			}
			if workers < 1 {
				return usagef("serve: --workers %d: want 1 or more", workers)
			}
			err = serve.Supervise(cmd.Context(), serve.Config{
				Socket: socket, Workers: workers, Log: log,
				Command: []string{os.Args[0], "--log-level", g.logLevel, workCommand},
				Ready:   func() { fmt.Fprintln(os.Stderr, "firn: serving on "+socket) },
			})
			if err != nil {
				return &commandError{"serve", err}
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&workers, "workers", 2, "how many commands can begin at the same moment")
	return cmd
}

// workCommand is what serve runs.
const workCommand = "serve-worker"

func newServeWorker(g *global) *cobra.Command {
	return &cobra.Command{
		Use:    workCommand,
		Short:  "Be a process that serve keeps ready",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := g.log()
			if err != nil {
				return err
			}
			return work(cmd.Context(), log)
		},
	}
}

// afterTime is what a worker leaves to the command that it has answered before it
// ends its plugins, which takes the processors for some milliseconds.
const afterTime = 20 * time.Millisecond

// work is a worker, from its start to the end of its one command.
func work(ctx context.Context, log hclog.Logger) (err error) {
	worker := serve.NewWorker()
	plugins, err := checkpoint.WarmPlugins(ctx, dispatch.PluginDirs(), log)
	if err != nil {
		return err
	}
	defer func() {
		time.Sleep(afterTime)
		err = errors.Join(err, plugins.Close())
	}()
	rehearse(ctx, plugins, log)
	ready := time.Now()
	return worker.Work(func(ctx context.Context, args []string) (int, error) {
		g := &global{warm: plugins, logger: log, idle: time.Since(ready)}
		status := execute(ctx, g, args)
		return status, g.declined
	})
}
