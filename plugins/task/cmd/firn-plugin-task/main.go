// Command firn-plugin-task serves the plugin task. The host starts it.
package main

import (
	"github.com/firn-cr/firn/plugins/task"
	"github.com/firn-cr/firn/sdk"
)

func main() { sdk.Serve(task.New()) }
