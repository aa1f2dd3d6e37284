// Package image reads and writes images: the one file that holds a checkpoint.
//
// An image is a file header, a sequence of blocks without gaps, an index block
// and a trailer. docs/image-format.md draws every byte. A [Writer] appends
// blocks front to back, to a file by positioned writes from several goroutines
// or to a pipe; each plugin has one [Stream]. An [Image] reads one.
//
// Every byte of the file is covered by a checksum or must be zero, so that
// [Image.Verify] finds any damage. An image is not trusted: no content of a
// file makes this package panic, hang or use memory out of proportion to the
// size of the file.
package image
