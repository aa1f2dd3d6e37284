// Package task is the plugin for what a task has besides memory and files:
// signal actions, alternate stacks and pending signals, timers, credentials,
// resource limits, scheduling, names, the file system context, the many
// switches of prctl(2), and the monotonic clocks (package clocks).
//
// What belongs to a process is in one record, what belongs to a thread in one
// record per thread, and the clocks of the tree are in one more. Each concept
// has a file of its own, with the question that reads it, the record it becomes
// and the script that sets it again side by side.
//
// # Dump
//
// Most is read from outside: /proc/PID, get_robust_list(2), sched_getattr(2).
// The rest is asked in one tape per thread (type inquiry), all tapes of the
// tree in one call to the host. These tapes only read.
//
// # Restore
//
// Each thread gets one tape per step (type script), and a step is one call to
// the host for the whole tree. NamespaceRestorer is the clocks' phase: the tree
// enters a time namespace. In TaskRestorer:
//
//   - cgroups, OOM score, core dump filter (from outside, through /proc)
//   - everything that takes away no rights and starts no clock, POSIX timers
//     (created, not armed) and pending signals included
//
// In Sealer, one step after the other, because each takes away what the one
// before needs:
//
//   - scheduling
//   - seccomp, which the host has suspended: filters without no_new_privs need
//     CAP_SYS_ADMIN
//   - limits and credentials
//   - what a change of credentials clears (dumpable, parent death signal), and
//     the timers are armed
package task
