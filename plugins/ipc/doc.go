// Package ipc is the plugin for IPC namespaces: System V shared memory,
// message queues and semaphores, POSIX message queues, and the limits of them.
//
// What a namespace has is read, and made again, by a thread of the plugin that
// enters it and ends there (ipc_namespaces(7)). Nothing of it is changed by a
// checkpoint but for segments that no process has attached: the only way to
// their content is to attach them for a moment, which they remember.
//
// The attachments of segments are mappings, and so the business of the plugin
// mm. It attaches them by their ids, which is why segments are made in the
// phase of the namespaces, and those that were removed already are removed
// again in the phase of the tasks.
package ipc
