package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/firn-cr/firn/host/checkpoint"
	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/host/internal/ui"
)

func newCheck(g *global) *cobra.Command {
	var freeze, why bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "check [PID | IMAGE]",
		Short: "Report what would keep a tree from being checkpointed, or what this kernel can do",
		Long: `Check PID lists the resources of a running tree, which plugin takes each of them,
and what blocks. It changes nothing and freezes nothing; with --freeze the tree
is stopped for a moment and the answer is exact.

Check IMAGE verifies an image. Check alone reports what this kernel can do and
which rights are missing.

Exit status: 0 the tree can be checkpointed; 3 something blocks.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return checkKernel(cmd.Context(), g, os.Stdout)
			}
			if _, err := strconv.Atoi(args[0]); err != nil {
				if _, serr := os.Stat(args[0]); serr == nil {
					return verify(cmd.Context(), g, args[0])
				}
			}
			pid, err := parsePID(args[0])
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return checkTree(ctx, cmd, g, pid, freeze, why)
		},
	}
	cmd.Flags().BoolVar(&freeze, "freeze", false, "stop the tree for a moment, for an exact answer")
	cmd.Flags().BoolVar(&why, "why", false, "show by which claim or rule a plugin takes a resource, and which others would")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "give up after this time")
	addPluginFlags(cmd.Flags())
	return cmd
}

func checkTree(ctx context.Context, cmd *cobra.Command, g *global, pid int, freeze, why bool) error {
	log, err := g.log()
	if err != nil {
		return err
	}
	options, err := pluginOptions(cmd)
	if err != nil {
		return err
	}
	cfg := checkpoint.Config{PID: pid, Log: log, PluginDirs: dispatch.PluginDirs(), Warm: g.warm, Options: options}
	if cfg.Selection, err = selection(cmd); err != nil {
		return err
	}
	report, err := checkpoint.Check(ctx, cfg, freeze)
	if err != nil {
		return &commandError{fmt.Sprintf("check %d", pid), err}
	}
	if g.json {
		err = ui.JSON(os.Stdout, report)
	} else {
		err = printReport(os.Stdout, report, why)
	}
	if err == nil && report.Verdict != "yes" {
		return &exitError{int(failure.Blocked)}
	}
	return err
}

func printReport(w io.Writer, r *checkpoint.Report, why bool) error {
	fmt.Fprintf(w, "Tree %s, %s\tVerdict: %s\n", ui.Count(r.Tasks, "process", "processes"), ui.Count(r.Threads, "thread", "threads"), r.Summary())
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	columns := []string{"RESOURCE", "WHERE", "PLUGIN", "RESULT"}
	if why {
		columns = slices.Insert(columns, 3, "WHY")
	}
	fmt.Fprintln(t, strings.Join(columns, "\t"))
	for _, row := range r.Resources {
		plugin := row.Plugin
		if plugin == "" {
			plugin = "-"
		}
		columns := []string{row.Resource, row.Where, plugin, row.Result}
		if why {
			columns = slices.Insert(columns, 3, row.Why)
		}
		fmt.Fprintln(t, strings.Join(columns, "\t"))
	}
	return t.Flush()
}
