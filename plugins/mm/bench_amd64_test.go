package mm

import (
	"testing"
)

// BenchmarkRestore builds the address space of a process of a gibibyte from an
// image in memory. The seed's calls are made by ptrace, which costs some
// milliseconds that the host's tapes do not.
func BenchmarkRestore(b *testing.B) {
	needTracing(b)
	l := startSubject(b, "big")
	d := dumpSubjects(b, l.pid)
	b.SetBytes(int64(bigSize()))
	for b.Loop() {
		s := restoreInto(b, d.Image, l.pid)[0]
		s.end()
	}
}
