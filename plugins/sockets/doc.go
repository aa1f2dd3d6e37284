// Package sockets is the plugin for sockets: TCP with its connections, MPTCP
// listeners, UDP, and unix sockets, connected ones within the tree included, with
// what is queued in both directions.
//
// What cannot be carried is refused by name before anything is written:
// connections that wait to be accepted, descriptors in flight.
//
//	tcp          listeners, and sockets without a connection
//	connection   TCP connections: what a checkpoint holds (connection.go), how they
//	             are rebuilt (connection_restore.go) and go live (live.go)
//	repair       what TCP_REPAIR tells (repair.go), to a process of its own (reader.go)
//	netlock      keeps packets away (netlock.go); segment.go sends some
//	unix, queue  unix sockets and their queues
//	options      what getsockopt(2) and setsockopt(2) know
//
// A socket is described by what getsockopt(2) says of it where that differs
// from a new socket: what the program never set follows the defaults of the
// machine on which it is restored. Unix sockets are paired through sock_diag(7).
// Queues are read with MSG_PEEK and stay as they are.
//
// # Limits
//
// The kernel does not tell some things about a socket, and they are lost: the
// programs of SO_ATTACH_REUSEPORT_CBPF and _EBPF, keys of TCP_MD5SIG, messages
// of unix sockets without a byte that somebody (an earlier checkpoint) has
// peeked at. What SO_PEERCRED says of a restored connection of unix sockets is the
// plugin; of connections to a restored listener it is the listener, as before.
package sockets
