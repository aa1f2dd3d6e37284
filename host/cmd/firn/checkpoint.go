package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/firn-cr/firn/host/checkpoint"
	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/image"
	"github.com/firn-cr/firn/host/internal/ui"
)

func newCheckpoint(g *global) *cobra.Command {
	cfg := checkpoint.Config{Version: version}
	var limit ui.Bytes
	var compress string
	cmd := &cobra.Command{
		Use:     "checkpoint PID -o IMAGE",
		Aliases: []string{"dump"},
		Short:   "Save a running process tree into an image",
		Long: `Checkpoint saves the process PID, all its threads and descendants into IMAGE.

By default the tree is ended once the image is safe on disk. Whatever fails, the
tree goes on as if nothing had happened and no part of an image is left.`,
		Example: "  firn checkpoint 4711 -o app.firn\n  firn checkpoint 4711 -o app.firn --leave-running --json",
		Args:    oneArg("PID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			pid, err := parsePID(args[0])
			if err != nil {
				return err
			}
			if cfg.Image == "" {
				return usagef("checkpoint %d: no image: pass -o IMAGE", pid)
			}
			if cfg.LeaveRunning && cfg.LeaveStopped {
				return usagef("checkpoint %d: --leave-running and --leave-stopped exclude each other", pid)
			}
			if cfg.Compression, err = image.ParseCompression(compress); err != nil {
				return usagef("checkpoint %d: --compress: %v", pid, err)
			}
			if cfg.Log, err = g.log(); err != nil {
				return err
			}
			if cfg.Live {
				if cfg.LeaveStopped {
					return usagef("checkpoint %d: --live and --leave-stopped exclude each other", pid)
				}
				cfg.LeaveRunning = true
			}
			cfg.PID, cfg.MemoryLimit, cfg.Stdout = pid, int64(limit), os.Stdout
			if cfg.Options, err = pluginOptions(cmd); err != nil {
				return err
			}
			if cfg.Live {
				cfg.Options["leave-running"] = "true"
			}
			if cfg.Selection, err = selection(cmd); err != nil {
				return err
			}
			cfg.PluginDirs, cfg.Warm = dispatch.PluginDirs(), g.warm
			progress := ui.NewProgress(os.Stderr)
			cfg.Progress = progress.Show
			res, err := checkpoint.Run(cmd.Context(), cfg)
			progress.Done()
			if err != nil {
				return &commandError{fmt.Sprintf("checkpoint %d", pid), err}
			}
			return printCheckpoint(g, resultWriter(cfg.Image), &res)
		},
	}
	addCheckpointFlags(cmd.Flags(), &cfg, &limit, &compress)
	return cmd
}

func addCheckpointFlags(f *pflag.FlagSet, cfg *checkpoint.Config, limit *ui.Bytes, compress *string) {
	f.StringVarP(&cfg.Image, "output", "o", "", "the image to write; - is stdout")
	f.BoolVarP(&cfg.LeaveRunning, "leave-running", "R", false, "let the tree go on after the checkpoint")
	f.BoolVarP(&cfg.LeaveStopped, "leave-stopped", "s", false, "leave the tree stopped (SIGSTOP) after the checkpoint")
	f.BoolVar(&cfg.Live, "live", false, "copy memory while the tree runs again: it stands still for everything else only; implies --leave-running")
	f.BoolVar(&cfg.Deferred, "deferred", false, "keep what is saved in memory and write it after the thaw: shorter frozen time")
	f.Var(limit, "memory-limit", "memory that --deferred, --compress, --parent and --dedup may use (default 10% of RAM)")
	f.StringVar(&cfg.Parent, "parent", "", "leave out what the image `BASE` has: the new image needs it")
	f.BoolVar(&cfg.Dedup, "dedup", false, "store equal pages once")
	f.StringVar(compress, "compress", "none", "compress the image: `zstd[:LEVEL]`, with a level from 1 to 22 (default 3)")
	f.BoolVar(&cfg.NoSync, "no-sync", false, "do not wait until the image is on the disk")
	f.DurationVar(&cfg.Timeout, "timeout", 5*time.Minute, "roll everything back when the checkpoint takes longer")
	addPluginFlags(f)
}

// resultWriter keeps the report out of an image that goes to stdout.
func resultWriter(image string) io.Writer {
	if image == "-" {
		return os.Stderr
	}
	return os.Stdout
}

func printCheckpoint(g *global, w io.Writer, res *checkpoint.Result) error {
	if g.json {
		return ui.JSON(w, res)
	}
	for _, n := range res.Notes {
		fmt.Fprintln(os.Stderr, "firn: note: "+n)
	}
	_, err := fmt.Fprintf(w, "%s: %s in %s, %s of memory, image %s; frozen %s, whole %s\n",
		res.Image, ui.Count(res.Tasks, "process", "processes"), ui.Count(res.Threads, "thread", "threads"),
		ui.Size(res.BytesMemory), ui.Size(res.BytesImage), ui.Millis(res.FrozenMS), ui.Millis(res.TotalMS))
	return err
}
