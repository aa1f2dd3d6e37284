package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/firn-cr/firn/host/dispatch"
	"github.com/firn-cr/firn/host/internal/ui"
)

func newPlugin(g *global) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plugin",
		Short: "Show, add, remove, check and begin plugins",
		Args:  noCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "list",
			Short: "List the plugins that firn finds",
			Args:  cobra.NoArgs,
			RunE:  func(cmd *cobra.Command, _ []string) error { return listPlugins(cmd.Context(), g) },
		},
		&cobra.Command{
			Use:   "describe NAME",
			Short: "Show what a plugin claims and which records it writes",
			Args:  oneArg("name of the plugin"),
			RunE:  func(cmd *cobra.Command, args []string) error { return describePlugin(cmd.Context(), g, args[0]) },
		},
		newPluginAdd(g), newPluginRemove(g), newPluginVerify(g), newPluginNew(),
	)
	return cmd
}

// pluginInfo is the JSON form of a plugin.
type pluginInfo struct {
	Name    string       `json:"name"`
	Version string       `json:"version"`
	Summary string       `json:"summary"`
	Path    string       `json:"path"`
	API     uint32       `json:"api_version"`
	Claims  []string     `json:"claims"`
	After   []string     `json:"after,omitempty"`
	Caps    []string     `json:"capabilities,omitempty"`
	Phases  []string     `json:"phases"`
	Records []recordInfo `json:"records"`
}

type recordInfo struct {
	Kind     uint32 `json:"kind"`
	Version  uint16 `json:"version"`
	Message  string `json:"message,omitempty"`
	Optional bool   `json:"optional"`
}

// loadPlugins starts every plugin that is found and asks what it is.
func loadPlugins(ctx context.Context, g *global) (infos []pluginInfo, err error) {
	log, err := g.log()
	if err != nil {
		return nil, err
	}
	bins, refused := dispatch.Discover(dispatch.PluginDirs())
	if len(bins) == 0 {
		return nil, refused
	}
	set, err := dispatch.Start(ctx, bins, dispatch.Options{Log: log})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	for _, p := range set.Plugins() {
		infos = append(infos, infoOf(p))
	}
	return infos, refused
}

func infoOf(p *dispatch.Plugin) pluginInfo {
	d := p.Description()
	info := pluginInfo{
		Name: d.Name, Version: d.Version, Summary: d.Summary, Path: p.Path(), API: p.Info().APIVersion,
		After: d.After, Caps: d.Capabilities,
	}
	for _, c := range d.Claims {
		info.Claims = append(info.Claims, dispatch.ClaimText(c))
	}
	for _, ph := range p.Info().Phases {
		info.Phases = append(info.Phases, ph.String())
	}
	for _, r := range d.Records {
		info.Records = append(info.Records, recordInfo{r.Kind, r.Version, p.Info().Messages[r.Kind], r.Optional})
	}
	return info
}

func listPlugins(ctx context.Context, g *global) error {
	infos, err := loadPlugins(ctx, g)
	if len(infos) == 0 && err != nil {
		return &commandError{"plugin list", err}
	}
	if g.json {
		err = errors.Join(err, ui.JSON(os.Stdout, infos))
	} else {
		t := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
		fmt.Fprintln(t, "NAME\tVERSION\tPATH\tSUMMARY")
		for _, i := range infos {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", i.Name, i.Version, i.Path, i.Summary)
		}
		for _, k := range dispatch.Kept(dispatch.PluginDirs()) {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", k.Name, k.Version, k.Path, "kept for the images that it has written")
		}
		err = errors.Join(err, t.Flush())
	}
	if err != nil {
		return &commandError{"plugin list", err}
	}
	return nil
}

func describePlugin(ctx context.Context, g *global, name string) error {
	infos, err := loadPlugins(ctx, g)
	for _, i := range infos {
		if i.Name == name {
			return printPlugin(g, i)
		}
	}
	return &commandError{"plugin describe", errors.Join(fmt.Errorf("no plugin %s in %v", name, dispatch.PluginDirs()), err)}
}

func printPlugin(g *global, i pluginInfo) error {
	if g.json {
		return ui.JSON(os.Stdout, i)
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "%s %s\t%s\n%s\n", i.Name, i.Version, i.Summary, i.Path)
	for _, c := range i.Claims {
		fmt.Fprintf(t, "claims\t%s\n", c)
	}
	for _, p := range i.Phases {
		fmt.Fprintf(t, "phase\t%s\n", p)
	}
	for _, r := range i.Records {
		fmt.Fprintf(t, "record %d\tversion %d\t%s\n", r.Kind, r.Version, r.Message)
	}
	return t.Flush()
}
