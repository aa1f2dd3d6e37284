// Package network is the plugin for network namespaces: their devices,
// addresses, rules, routes, neighbors, nftables, tracked connections and
// settings. Sockets are another plugin's.
//
// What the kernel tells by netlink(7) it also takes by netlink: an entry of a
// table is kept as it was read, without what is not a setting (counters, states,
// handles). A restore makes the devices under their old numbers, so that every
// other entry still means the same. Then it compares each table with the image,
// removes what the kernel has made of its own accord and should not be there,
// adds what is missing, and reads everything once more: a namespace that is not
// what it was fails the restore.
//
// The other end of a veth pair is in the tree, or outside where firn runs. That
// one is made anew, and gets its addresses and its place in a bridge when the tree
// is complete: no packet comes before the sockets are there.
package network
