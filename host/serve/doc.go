// Package serve keeps hosts warm: processes that have started and verified their
// plugins before anybody asks for a checkpoint.
//
//	message     what travels over the socket            (message.go)
//	client      a command that asks a warm host          (client.go)
//	peer        who may ask                              (peer.go)
//	worker      a warm host: one command, then it ends   (worker.go)
//	supervisor  keeps some workers ready                 (supervisor.go)
//
// A worker is a process like the one that it stands for. It takes over the
// arguments, the environment, the directory, the umask and the standard files of
// the command, runs it and ends: no state goes from one command to the next, and
// what is true of a command when it is killed is true of a worker. It does
// nothing for whom it has rights that the peer has not; such a command does its
// work itself, as it does when nobody serves.
package serve
