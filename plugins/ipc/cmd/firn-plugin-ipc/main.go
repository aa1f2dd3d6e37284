// Command firn-plugin-ipc serves the plugin ipc. The host starts it.
package main

import (
	"github.com/firn-cr/firn/plugins/ipc"
	"github.com/firn-cr/firn/sdk"
)

func main() { sdk.Serve(ipc.New()) }
