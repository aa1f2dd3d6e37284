// Command firn-plugin-uts serves the plugin uts. The host starts it.
package main

import (
	"github.com/firn-cr/firn/plugins/uts"
	"github.com/firn-cr/firn/sdk"
)

func main() { sdk.Serve(uts.New()) }
