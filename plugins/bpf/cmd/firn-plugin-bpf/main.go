// Command firn-plugin-bpf serves the plugin bpf. The host starts it.
package main

import (
	"github.com/firn-cr/firn/plugins/bpf"
	"github.com/firn-cr/firn/sdk"
)

func main() { sdk.Serve(bpf.New()) }
