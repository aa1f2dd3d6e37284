// Package openfile has what plugins that claim files need besides their own
// subject: duplicates of descriptors of the tree, what every open file
// description has (status flags and an owner for signals), and a report that
// many goroutines can write.
package openfile
