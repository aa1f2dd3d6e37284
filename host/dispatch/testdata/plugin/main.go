// Command plugin is a plugin that does nothing, for the benchmark of the
// start.
package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/firn-cr/firn/sdk"
)

type idle struct{}

// Describe implements sdk.Plugin.
func (idle) Describe() sdk.Description {
	return sdk.Description{
		Name:    strings.TrimPrefix(filepath.Base(os.Args[0]), "firn-plugin-"),
		Version: "1.0.0", Summary: "does nothing",
		Claims: []sdk.Claim{{Kind: sdk.KindTask}},
	}
}

func main() { sdk.Serve(idle{}) }
