// Package mm is the plugin that saves and rebuilds address spaces: mappings
// with their flags, the memory behind them, and what the kernel knows about a
// process's memory (brk, arguments, environment, auxiliary vector, executable).
//
// # Checkpoint
//
// While the tree is frozen each process's smaps are read once and every
// mapping is classified (vma.go). What cannot be carried is a finding of Check
// that names the mapping; Dump saves what Check has accepted. Of the memory
// are saved:
//
//   - private pages that are not the file's own, present or on swap, unless
//     they are anonymous and all zero (scan.go, pages.go);
//   - the content of shared anonymous memory, once per object (shared.go);
//   - of files only their identity (file.go): the content is the file's.
//
// Pages are copied with process_vm_readv(2), except those that several
// processes map: that call pins pages, which would break their sharing, so
// they are read from /proc/PID/mem.
//
// # Image
//
// Pages of one process are packed into bulk records of at most a mebibyte. A
// small record with the same object lists the ranges of addresses whose pages
// the bulk record holds, one after the other (runs.go). The page data of a
// process are therefore page aligned in the image, and a few preadv(2) put
// them back.
//
// # Restore
//
// Each process gets tapes that it runs itself, in this order (restore.go):
// everything but the host's range is unmapped; the vdso is mapped at its old
// place; mappings are made, writable where something has to be put in; the
// pages are read from the image; protection, advice, guards and locks follow;
// at last the kernel's notes about the process's memory are set, with the
// executable, which takes that the seed's own is unmapped.
//
// Large private memory is not read by the task: the plugin copies it into the
// process through a userfaultfd of the process's own, in several lanes
// (lanes.go). That takes less than half the time of a task that reads into
// fresh pages, and unlike huge pages, which would be as fast, it neither changes
// what the memory is made of nor depends on the kernel having large blocks at hand.
package mm
