package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/firn-cr/firn/host/failure"
	"github.com/firn-cr/firn/host/internal/ui"
	"github.com/firn-cr/firn/host/probe"
)

// checkKernel reports what this machine can do. It fails if something is
// missing without which nothing can be checkpointed.
func checkKernel(ctx context.Context, g *global, w io.Writer) error {
	results := probe.All(ctx)
	missing := 0
	for _, r := range results {
		if r.Required && r.Answer == probe.No {
			missing++
		}
	}
	if g.json {
		if err := ui.JSON(w, results); err != nil {
			return err
		}
	} else if err := printKernel(w, results); err != nil {
		return err
	}
	if missing > 0 {
		return &exitError{int(failure.Rights)}
	}
	return nil
}

func printKernel(w io.Writer, results []probe.Result) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "FEATURE\tANSWER\tNEEDED FOR\tDETAIL")
	for _, r := range results {
		answer := r.Answer.String()
		if r.Required && r.Answer == probe.No {
			answer = "MISSING"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", r.Name, answer, r.NeededFor, r.Detail)
	}
	return t.Flush()
}
