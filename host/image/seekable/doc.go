// Package seekable writes and reads files in the Zstandard seekable format: a
// sequence of independent frames, and a table of their sizes at the end in a
// skippable frame, by which any part can be found.
//
// The format is that of the zstd project (contrib/seekable_format); zstd(1)
// decompresses such a file as any other. Every frame has the checksum of its
// content.
package seekable
