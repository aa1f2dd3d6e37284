// Package uring is the plugin for io_uring(7): rings with nothing in flight and
// nothing registered, which is how a program that waits for work has them.
//
// The kernel counts what goes through a ring in variables of its own, which start
// at 0, and compares them with those in the memory that it shares with the program.
// So a restore makes a ring and sends as many empty requests (IORING_OP_NOP) through
// it as the old one has had, at about a tenth of a microsecond each. Then the
// memory is put back as it was, and mapped where it was.
//
// The kernel tells neither the flags that io_uring_setup(2) was given nor what is
// registered. What matters of it is found out by calls that must fail, and by how
// they do; of IORING_SETUP_SUBMIT_ALL and what only makes a ring faster
// (COOP_TASKRUN) nothing can be known.
package uring
