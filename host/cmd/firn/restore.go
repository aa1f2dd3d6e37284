package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/internal/ui"
	"github.com/firn-cr/firn/host/restore"
)

const restoreHelp = `Restore creates the process tree of IMAGE again, under its old process ids, and
lets it go on. It waits for the root process and passes on its exit status;
with -d it returns as soon as the tree runs.

Nothing is created before the whole image has been verified. When anything
fails before the tree runs, every task that was created is ended.

With --new-pid-namespace the tree sees its old process ids in a PID namespace of
its own, where they are always free; the host sees others, and those are what
restore prints. The namespace ends with the root process, and everybody in it.
The tree gets a mount namespace of its own as well, with the mounts of the caller
and its own /proc.`

func newRestore(g *global) *cobra.Command {
	cfg := restore.Config{}
	var detach bool
	var pidfile string
	cmd := &cobra.Command{
		Use:     "restore IMAGE",
		Short:   "Bring a process tree back from an image",
		Long:    restoreHelp,
		Example: "  firn restore app.firn\n  firn restore -d --pidfile app.pid app.firn",
		Args:    oneArg("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			cfg.Image = args[0]
			if cfg.Log, err = g.log(); err != nil {
				return err
			}
			ownMounts, err := restore.OwnMounts(&cfg)
			if err != nil {
				return &commandError{"restore " + cfg.Image, err}
			}
			if cfg.Options, err = pluginOptions(cmd); err != nil {
				return err
			}
			cfg.PluginDirs = dispatch.PluginDirs()
			if ownMounts {
				if err := restore.EnterMountNamespace(); err != nil {
					return &commandError{"restore " + cfg.Image, err}
				}
			}
			progress := ui.NewProgress(os.Stderr)
			cfg.Progress = progress.Show
			tree, res, err := restore.Run(cmd.Context(), cfg)
			progress.Done()
			if err != nil {
				return &commandError{"restore " + cfg.Image, err}
			}
			if err := printRestore(g, &res, detach); err != nil {
				return err
			}
			if pidfile != "" {
				if err := os.WriteFile(pidfile, []byte(strconv.Itoa(res.RootPID)+"\n"), 0o644); err != nil {
					return &commandError{"restore " + cfg.Image, fmt.Errorf("the tree runs, but its pidfile was not written: %w", err)}
				}
			}
			if detach {
				return nil
			}
			return passOn(cmd.Context(), tree)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&detach, "detach", "d", false, "return when the tree runs")
	f.StringVar(&pidfile, "pidfile", "", "write the root's process id into this file")
	f.BoolVarP(&cfg.LeaveStopped, "leave-stopped", "s", false, "leave the tree stopped (SIGSTOP)")
	f.BoolVar(&cfg.NewPIDNamespace, "new-pid-namespace", false, "restore into a new PID namespace: the process ids may be in use")
	f.StringArray("plugin-option", nil, "an option `NAME=VALUE` for plugins; may be repeated")
	f.Bool("host-clocks", false, "do not continue CLOCK_MONOTONIC and CLOCK_BOOTTIME: let the tree see those of this machine")
	f.DurationVar(&cfg.Timeout, "timeout", 5*time.Minute, "give up, and end what was created, after this time")
	return cmd
}

func printRestore(g *global, res *restore.Result, detach bool) error {
	for _, n := range res.Notes {
		fmt.Fprintln(os.Stderr, "firn: note: "+n)
	}
	if g.json {
		return ui.JSON(os.Stdout, res)
	}
	if !detach {
		return nil // stdout belongs to the program
	}
	_, err := fmt.Printf("%d: %s in %s, %s of memory, in %s\n", res.RootPID,
		ui.Count(res.Tasks, "process", "processes"), ui.Count(res.Threads, "thread", "threads"),
		ui.Size(res.BytesMemory), ui.Millis(res.TotalMS))
	return err
}
