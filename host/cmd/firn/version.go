package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/firn-cr/firn/host/image"
	"github.com/firn-cr/firn/host/internal/ui"
	"github.com/firn-cr/firn/sdk"
)

func newVersion(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the versions of firn, the image format and the plugin API",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Image   int    `json:"image_format"`
				API     int    `json:"plugin_api"`
				Go      string `json:"go"`
				Arch    string `json:"arch"`
			}{version, image.FormatVersion, sdk.APIVersion, runtime.Version(), runtime.GOARCH}
			if g.json {
				return ui.JSON(os.Stdout, v)
			}
			_, err := fmt.Printf("firn %s, image format %d, plugin API %d, %s %s\n", v.Version, v.Image, v.API, v.Go, v.Arch)
			return err
		},
	}
}
