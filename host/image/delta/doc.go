// Package delta writes and reads files that leave out what is there already: in
// another file, their parent, or further in front in themselves.
//
// The content is looked at in pages. A page whose SHA-256 is that of a page of the
// parent, or, if wanted, of an earlier page, is not stored; a table at the end says
// where every part of the content is. What the content means does not matter.
package delta
