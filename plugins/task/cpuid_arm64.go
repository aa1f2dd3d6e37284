package task

import "github.com/firn-cr/firn/plugins/task/taskpb"

// askCPUID has nothing to ask: the instruction is x86's.
func askCPUID(*inquiry) {}

// setCPUID has nothing to set.
func setCPUID(*script, *taskpb.Thread) {}
