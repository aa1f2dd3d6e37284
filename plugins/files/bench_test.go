package files

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/plugins/internal/fdtest"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
	"github.com/firn-cr/firn/sdk/sdktest"
)

const benchFiles = 5000

// manyFiles opens files and describes them.
func manyFiles(b *testing.B) []sdk.Resource {
	b.Helper()
	dir := b.TempDir()
	first := filepath.Join(dir, "0")
	var out []sdk.Resource
	for i := range benchFiles {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
			b.Fatal(err)
		}
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { unix.Close(fd) })
		if path == first {
			out = append(out, fdtest.Resource(b, fd))
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			b.Fatal(err)
		}
		f := *out[0].File
		f.Link, f.Ino, f.Refs = path, st.Ino, []sdk.FDRef{{Task: out[0].Task, FD: fd}}
		out = append(out, sdk.Resource{Kind: sdk.KindFile, Object: fdtest.Object(fd), Task: out[0].Task, File: &f})
	}
	return out
}

// BenchmarkSurvey is what a frozen tree waits for, per file.
func BenchmarkSurvey(b *testing.B) {
	sess := &sdk.Session{Tree: sdktest.Tree(os.Getpid()), Resources: manyFiles(b)}
	b.ReportAllocs()
	for b.Loop() {
		s, err := newSurvey(b.Context(), sess, nil, true)
		if err != nil {
			b.Fatal(err)
		}
		if f := s.report.Findings(); len(f) != 0 {
			b.Fatal(f[0])
		}
		s.close()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchFiles, "ns/file")
}

// BenchmarkOpen is what a restore does, per file.
func BenchmarkOpen(b *testing.B) {
	sess := &sdk.Session{Tree: sdktest.Tree(os.Getpid()), Resources: manyFiles(b)}
	s, err := newSurvey(b.Context(), sess, nil, true)
	if err != nil {
		b.Fatal(err)
	}
	defer s.close()
	b.ReportAllocs()
	fds := make([]int, len(s.items))
	for b.Loop() {
		r := &restore{req: &sdk.RestoreRequest{Session: sess}}
		err := openfile.Each(b.Context(), len(s.items), func(i int) (err error) {
			fds[i], err = r.openNamed(s.items[i].msg.(*filespb.Named))
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchFiles, "ns/file")
}
