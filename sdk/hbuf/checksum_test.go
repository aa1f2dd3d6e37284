package hbuf

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"testing"
)

func TestChecksum(t *testing.T) {
	b := make([]byte, 3*touchFrom)
	for i := range b {
		b[i] = byte(i * 13)
	}
	for _, n := range []int{0, 1, 63, 64, touchFrom - 1, touchFrom, touchFrom + 1, touchFrom + touchStep - 1, touchFrom + touchStep, len(b)} {
		if got, want := Checksum(b[:n]), crc32.Checksum(b[:n], castagnoli); got != want {
			t.Errorf("checksum of %d bytes: %#x, want %#x", n, got, want)
		}
	}
}

func BenchmarkChecksum(b *testing.B) {
	src := bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 64<<20/8)
	for _, n := range []int{128, 4 << 10, 1 << 20, 4 << 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for i := range b.N {
				at := i * n % (len(src) - n + 1)
				Checksum(src[at : at+n])
			}
		})
		b.Run(fmt.Sprint("plain", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for i := range b.N {
				at := i * n % (len(src) - n + 1)
				crc32.Checksum(src[at:at+n], castagnoli)
			}
		})
	}
}
