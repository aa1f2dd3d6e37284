// Package integration has the whole-program tests: they start real programs
// and programs that verify themselves, checkpoint them, end them, restore them
// and let them prove that nothing was lost, doubled or changed.
//
// The subjects are below subjects/, the machinery that starts them and runs
// firn is package harness, the benchmarks are the program in bench/.
package integration
