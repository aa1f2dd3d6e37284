package sockets

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPeekRights: what was written with descriptors is told apart from what came
// before, to the byte, and peeking leaves everything as it is.
func TestPeekRights(t *testing.T) {
	a, b := pair(t, unix.SOCK_STREAM)
	defer unix.Close(a)
	defer unix.Close(b)
	pass := func(text string, fds ...int) {
		if err := unix.Sendmsg(a, []byte(text), unix.UnixRights(fds...), nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	pass("first", a)
	pass("again", b, a)
	mustSend(t, a, "plain")
	mustSend(t, a, "more")
	pass("x", a)
	mustSend(t, a, "end")
	for range 2 {
		got, err := peekQueue(b, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		var counts []int
		for _, m := range got {
			texts, counts = append(texts, string(m.data)), append(counts, len(m.rights))
			closeAll(m.rights)
		}
		if !slices.Equal(texts, []string{"first", "again", "plainmore", "x", "end"}) || !slices.Equal(counts, []int{1, 2, 0, 1, 0}) {
			t.Errorf("peeked %q with %v descriptors", texts, counts)
		}
	}
}
