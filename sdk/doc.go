// Package sdk is the API for authors of Firn plugins.
//
// A plugin saves and rebuilds one kernel subsystem of a process tree. It is a
// program of its own: its main function calls [Serve] with a value that
// implements [Plugin] and as many of the optional interfaces as it needs. The
// host (the firn command) starts it, asks what it claims, gives it the
// resources that match, and calls it once per phase for the whole tree.
//
// # Phases of a checkpoint
//
//	Describe        always     what the plugin is and what it claims
//	Checker         no freeze  what would block; repeated while frozen, exactly
//	Preparer        no freeze  warm up, estimate; the tree still runs
//	Dumper          frozen     read the resources, emit records
//	Thawer          running    work that may be done after the thaw
//	Aborter         either     the checkpoint failed: undo, forget
//
// # Phases of a restore
//
//	ImageChecker        nothing exists   is everything here that the records need?
//	NamespaceRestorer   tasks            enter or create namespaces
//	ObjectRestorer      (own process)    open files and sockets; the host installs them
//	MemoryRestorer      one thread each  build the address spaces
//	FileLinker          fds installed    what refers to files by number, such as epoll
//	TaskRestorer        all threads      attributes of tasks
//	Sealer              all threads      what takes rights away: credentials, seccomp
//	Resumer             running          after the tree runs again
//	Aborter             either           the restore failed: undo, forget
//
// During a checkpoint the tree must not be changed in any way that outlives
// the checkpoint. Work that only the task itself can do is written as a tape
// (package tape) and run by [Host.RunTapes].
//
// # Records
//
// What a plugin saves are records: a kind (a number of the plugin's own), the
// object they belong to and a payload, by default a protobuf message. Records
// travel through package hbuf. Bulk payloads (memory pages) are page aligned
// in the image and are not copied on the way back: a restored task reads them
// from the image itself.
package sdk
