// Command firn-plugin-mm saves and rebuilds the address spaces of processes.
// It is started by firn.
package main

import (
	"github.com/firn-cr/firn/plugins/mm"
	"github.com/firn-cr/firn/sdk"
)

func main() { sdk.Serve(mm.New()) }
