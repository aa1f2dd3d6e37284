// Command firn-plugin-sockets serves the plugin sockets. The host starts it.
package main

import (
	"github.com/firn-cr/firn/plugins/sockets"
	"github.com/firn-cr/firn/sdk"
)

func main() {
	sockets.Main()
	sdk.Serve(sockets.New())
}
