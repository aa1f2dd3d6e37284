// Package task stops tasks, looks into them and has them make system calls.
//
// One locked OS thread, the [Tracer], owns ptrace(2): the kernel accepts
// requests for a tracee only from the thread that attached to it. Everybody
// else sends it functions.
//
// # The crash rule
//
// When the host dies, at whatever moment, every task of a checkpointed tree
// goes on unharmed. The kernel detaches the tracees of a dead tracer and lets
// them run from the registers that they have at that moment. So every set of
// registers that this package gives to a live task leads, with nobody's help,
// back to where the task was: injected code ends in rt_sigreturn(2) from a
// frame that holds the original context, extended state and signal mask
// included. The order of ptrace requests follows from it: registers first and
// the signal mask second on the way in, the other way round on the way out.
package task
