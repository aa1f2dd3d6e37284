// Command firn-plugin-net serves the plugin net. The host starts it.
package main

import (
	"github.com/firn-cr/firn/plugins/network"
	"github.com/firn-cr/firn/sdk"
)

func main() { sdk.Serve(network.New()) }
