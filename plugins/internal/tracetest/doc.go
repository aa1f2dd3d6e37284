// Package tracetest is a small host for kernel tests of plugins, which must
// not import the real one.
//
// [New] gives a [Host] that implements sdk.Host over ptrace(2): it starts
// processes of any number of threads that do nothing, and runs tapes in them
// one call at a time, against the real kernel. It takes no care to leave the
// tasks as they were, for they never run again. It is for amd64 only.
package tracetest
