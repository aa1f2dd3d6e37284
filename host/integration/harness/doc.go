// Package harness starts subjects (programs that verify themselves) and runs
// firn on them. The whole-program tests and the benchmarks use it.
//
// The calling process becomes a child subreaper and reaps every process that
// comes to it, so that PIDs are free again as soon as a tree ended, whatever
// the machine's init does. Therefore every child must be started by this
// package.
//
// Every process of a subject carries a mark in its environment, which a
// restore brings back as well. Sweeping kills exactly those, by their PIDs.
package harness
