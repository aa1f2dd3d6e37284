// Package bpf is the plugin for open files of BPF maps (bpf(2)): hash tables,
// arrays, tables of prefixes. A restore makes the maps anew, with what was in
// them. Maps that a loaded program uses are refused: the program would go on with
// the old one.
package bpf
