// Package uts is the plugin for UTS namespaces: the host name and the NIS
// domain name of tasks that do not share those of the machine.
//
// A name is read by a thread of the plugin that enters the namespace and ends
// there. A restore makes the namespace in the first process that lived in it,
// which sets the names; the others join it through a pidfd of the first.
package uts
