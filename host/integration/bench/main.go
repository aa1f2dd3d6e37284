// Command bench measures whole checkpoints and restores, the time that the
// tree stands still in direct and in deferred mode, and, in the same run, what
// the machine itself can do: the figures mean something only side by side.
//
// Runs are interleaved (A B A B) and medians are reported. The result is
// Markdown; with -update it replaces the figures in docs/performance.md.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/firn-cr/firn/host/integration/harness"
)

// options are the flags.
type options struct {
	runs   int
	only   *regexp.Regexp
	dir    string
	update string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseFlags() (options, error) {
	var o options
	flag.IntVar(&o.runs, "runs", 5, "how often every measurement is repeated")
	flag.StringVar(&o.dir, "dir", "", "where images go (default: a temporary directory)")
	flag.StringVar(&o.update, "update", "", "replace the figures in this Markdown file")
	only := flag.String("only", ".", "measure the cases that match this regular expression")
	flag.Parse()
	if o.runs < 1 {
		return o, errors.New("-runs must be at least 1")
	}
	var err error
	o.only, err = regexp.Compile(*only)
	return o, err
}

func run() (err error) {
	o, err := parseFlags()
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(o.dir, "firn-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if err := harness.Adopt(); err != nil {
		return err
	}
	programs, err := harness.Build(work)
	if err != nil {
		return err
	}
	b := &bench{options: o, work: work, programs: programs}
	report, err := b.all()
	if err != nil {
		return err
	}
	text := report.markdown()
	fmt.Print(text)
	if o.update != "" {
		return replace(filepath.Clean(o.update), text)
	}
	return nil
}
