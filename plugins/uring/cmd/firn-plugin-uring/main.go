// Command firn-plugin-uring serves the plugin uring. The host starts it.
package main

import (
	"github.com/firn-cr/firn/plugins/uring"
	"github.com/firn-cr/firn/sdk"
)

func main() { sdk.Serve(uring.New()) }
