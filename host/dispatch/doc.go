// Package dispatch finds, verifies, starts, watches and calls plugins, and
// decides which plugin takes which resource.
//
//	dirs     where plugins are looked for            (dirs.go)
//	trust    who may change a plugin                 (trust.go)
//	start    processes, handshake, first call        (start.go, process.go, runner.go)
//	session  one checkpoint or restore of a plugin   (session.go, phases.go)
//	claims   resources to plugins                    (match.go, glob.go)
//	order    which plugin waits for which            (order.go, set.go)
//
// A plugin is a process of its own that may crash, hang or lie. Every call has
// a deadline, every error names the plugin and the phase, and whatever happens
// to the host, no plugin outlives it: a plugin has a pipe whose end of file
// ends it, and the kernel kills it with the thread that started it, which
// lives as long as the host.
package dispatch
