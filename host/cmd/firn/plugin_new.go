package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/scaffold"
)

func newPluginNew() *cobra.Command {
	p := scaffold.Plugin{}
	var dir string
	cmd := &cobra.Command{
		Use:   "new NAME",
		Short: "Write the module of a new plugin, which builds and passes its tests",
		Long: `New writes a Go module for a plugin NAME into the directory firn-plugin-NAME: what
it claims, how it saves and opens a file, tests, a README and a Makefile. It is a
whole plugin for files that can be opened again by their path; make of it what
you need.`,
		Example: "  firn plugin new widget --path '/dev/widget*'\n  cd firn-plugin-widget && make test install",
		Args:    oneArg("name of the plugin"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p.Name = args[0]
			if dir == "" {
				dir = dispatch.Prefix + p.Name
			}
			if p.Path == "" {
				p.Path = "/dev/" + p.Name
			}
			if p.Module == "" {
				p.Module = "example.com/" + dispatch.Prefix + p.Name
			}
			if err := p.Check(); err != nil {
				return usagef("plugin new: %v", err)
			}
			if err := writePlugin(cmd, &p, dir); err != nil {
				return &commandError{"plugin new " + p.Name, err}
			}
			_, err := fmt.Printf("%s: a plugin for %s; make test, make install\n", dir, p.Path)
			return err
		},
	}
	cmd.Flags().StringVar(&p.Path, "path", "", "`PATTERN` of the paths of the files that it claims (default /dev/NAME)")
	cmd.Flags().StringVar(&p.Module, "module", "", "module path (default example.com/firn-plugin-NAME)")
	cmd.Flags().StringVar(&dir, "dir", "", "the directory to write (default firn-plugin-NAME)")
	cmd.Flags().StringVar(&p.SDK, "sdk", "", "a checkout of firn from which the SDK is taken (default: the one around firn or this directory)")
	return cmd
}

// writePlugin writes the module and completes its go.mod, if there is a go
// command.
func writePlugin(cmd *cobra.Command, p *scaffold.Plugin, dir string) error {
	// The first release of the series that firn was built with.
	series := strings.Split(strings.TrimPrefix(runtime.Version(), "go"), ".")
	p.Go = strings.Join(append(series[:min(2, len(series))], "0"), ".")
	if p.SDK == "" {
		p.SDK = sdkNearby()
	}
	if p.SDK != "" {
		abs, err := filepath.Abs(p.SDK)
		if err != nil {
			return err
		}
		if p.SDK = abs; scaffold.FindSDK(abs) != abs {
			return usagef("%s is no checkout of firn", abs)
		}
	}
	if err := p.Write(dir); err != nil {
		return err
	}
	tool, err := exec.LookPath("go")
	if err != nil || p.SDK == "" {
		fmt.Fprintln(os.Stderr, "firn: note: run go get github.com/firn-cr/firn@latest && go mod tidy in "+dir)
		return nil
	}
	tidy := exec.CommandContext(cmd.Context(), tool, "mod", "tidy")
	tidy.Dir = dir
	if out, err := tidy.CombinedOutput(); err != nil {
		return fmt.Errorf("the module is written, but go mod tidy: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// sdkNearby is a checkout of firn around the program or the current directory.
func sdkNearby() string {
	var from []string
	if exe, err := os.Executable(); err == nil {
		from = append(from, filepath.Dir(exe))
	}
	if dir, err := os.Getwd(); err == nil {
		from = append(from, dir)
	}
	for _, dir := range from {
		if found := scaffold.FindSDK(dir); found != "" {
			return found
		}
	}
	return ""
}
