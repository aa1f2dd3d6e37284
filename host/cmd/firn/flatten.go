package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/firn-cr/firn/host/image"
	"github.com/firn-cr/firn/host/internal/ui"
)

func newFlatten(g *global) *cobra.Command {
	var out, compress string
	var dedup, noSync bool
	cmd := &cobra.Command{
		Use:     "flatten IMAGE -o OUT",
		Short:   "Make one image of an image and those that it is based on",
		Long:    "Flatten writes what IMAGE and its parents contain into an image that needs none of\nthem. With --compress none it also decompresses.",
		Example: "  firn flatten tuesday.firn -o whole.firn --compress zstd",
		Args:    oneArg("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usagef("flatten %s: no output: pass -o OUT", args[0])
			}
			level, err := image.ParseCompression(compress)
			if err != nil {
				return usagef("flatten %s: --compress: %v", args[0], err)
			}
			p := image.Packing{Level: level, Dedup: dedup}
			if err := flatten(cmd.Context(), g, args[0], out, p, image.CommitOptions{Sync: !noSync}); err != nil {
				return &commandError{"flatten " + args[0], err}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "the image to write")
	cmd.Flags().StringVar(&compress, "compress", "none", "compress it: `zstd[:LEVEL]`")
	cmd.Flags().BoolVar(&dedup, "dedup", false, "store equal pages once")
	cmd.Flags().BoolVar(&noSync, "no-sync", false, "do not wait until it is on the disk")
	return cmd
}

func flatten(ctx context.Context, g *global, path, out string, p image.Packing, opts image.CommitOptions) (err error) {
	img, err := image.Glance(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	if err := img.Verify(ctx); err != nil {
		return err
	}
	size, err := img.Flatten(ctx, out, p, opts)
	if err != nil {
		return err
	}
	if g.json {
		return ui.JSON(os.Stdout, struct {
			Image string `json:"image"`
			Bytes uint64 `json:"bytes_image"`
		}{out, size})
	}
	_, err = fmt.Printf("%s: %s\n", out, ui.Size(int64(size)))
	return err
}
