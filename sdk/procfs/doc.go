// Package procfs parses the files of /proc that a checkpoint reads. Every
// parser is a pure function over the file's bytes, answers what it does not
// understand with an error that is [ErrFormat], and never panics; the small
// readers beside them open the file of a process and parse it.
package procfs
