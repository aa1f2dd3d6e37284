// Package clocks lets the monotonic clocks of a tree go on.
//
// CLOCK_MONOTONIC and CLOCK_BOOTTIME count from the boot of the machine.
// Programs keep deadlines in them, so they must neither jump nor go backwards
// when a tree is restored later or elsewhere. Both clocks are saved as the tree
// sees them, whether in a time namespace of its own or in the host's, and the
// tree is restored into a time namespace (time_namespaces(7), since Linux 5.6)
// whose offsets make them go on from there. CLOCK_REALTIME is the machine's and
// is not touched.
//
// The flag --host-clocks restores a tree with the clocks of the machine as they
// are.
package clocks
