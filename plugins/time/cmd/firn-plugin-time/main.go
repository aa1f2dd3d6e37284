// Command firn-plugin-time serves the plugin time. The host starts it.
package main

import (
	"github.com/firn-cr/firn/plugins/time"
	"github.com/firn-cr/firn/sdk"
)

func main() { sdk.Serve(time.New()) }
