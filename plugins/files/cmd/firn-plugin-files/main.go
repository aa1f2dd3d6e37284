// Command firn-plugin-files serves the plugin files. The host starts it.
package main

import (
	"github.com/firn-cr/firn/plugins/files"
	"github.com/firn-cr/firn/sdk"
)

func main() { sdk.Serve(files.New()) }
