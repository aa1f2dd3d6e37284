// Package files is the plugin for files: regular files, directories, pipes,
// FIFOs, terminals, the devices that have no state, and the anonymous files that
// stand for something else (eventfd, epoll, signalfd, timerfd, inotify, fanotify,
// pidfds, namespaces).
//
// What was deleted is carried with its content, made and deleted again; if it has
// another name, that one is used.
//
// A file that has a name is opened again by that name, after it was checked
// that the name still leads to the file of the checkpoint. What has no name is
// made anew in the plugin's process and filled: pipes with their content and
// packet boundaries, eventfds with their count. An epoll instance is made
// empty and filled when all files are installed, by the task itself, because
// the kernel knows its members by file and number. inotify and fanotify get
// their watches as the last thing before the program goes on: until then they
// would report what the restore does.
//
// Both ends of a pseudo-terminal are made together, with what waits in both
// directions, before the leader of its session takes it as controlling
// terminal. A terminal whose other side is outside of the tree is left behind
// (--shell-job); the tree gets that of the restorer.
//
// Whether a file can be carried is known before anything is written: the
// survey looks at every description once, in [sdk.Checker] and again while the
// tree is frozen, and the dump uses what the second one found.
package files
