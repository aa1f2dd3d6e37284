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

func newVerify(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "verify IMAGE",
		Short: "Check every checksum and reference of an image",
		Args:  oneArg("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := verify(cmd.Context(), g, args[0]); err != nil {
				return &commandError{"verify", err}
			}
			return nil
		},
	}
}

func verify(ctx context.Context, g *global, path string) (err error) {
	img, err := image.Glance(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	if err := img.Verify(ctx); err != nil {
		return err
	}
	if err := verifyParents(ctx, img); err != nil {
		return err
	}
	if _, err := img.HostRecords(); err != nil {
		return err
	}
	t := img.Totals()
	if g.json {
		return ui.JSON(os.Stdout, struct {
			Image   string `json:"image"`
			OK      bool   `json:"ok"`
			Bytes   int64  `json:"bytes_image"`
			Records int64  `json:"records"`
			Memory  int64  `json:"bytes_bulk"`
		}{path, true, img.Size(), int64(t.Records), int64(t.BulkBytes)})
	}
	_, err = fmt.Printf("%s: ok, %s, %s, %s of bulk data\n", path,
		ui.Size(img.Size()), ui.Count(int(t.Records), "record", "records"), ui.Size(int64(t.BulkBytes)))
	return err
}

// verifyParents verifies the images that an image is based on, also what it needs
// nothing of.
func verifyParents(ctx context.Context, img *image.Image) error {
	for path := img.Parent(); path != ""; {
		parent, err := image.Glance(path)
		if err != nil {
			return err
		}
		path = parent.Parent()
		if err := errors.Join(parent.Verify(ctx), parent.Close()); err != nil {
			return err
		}
	}
	return nil
}
