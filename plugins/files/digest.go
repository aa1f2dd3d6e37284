package files

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
)

// digestOption names regular files that a restore knows by their content: then
// neither inode nor time of modification matter.
const digestOption = "file-digest"

// digestChunk is how much is read between looks at the deadline.
const digestChunk = 16 << 20

// digestFiles computes the digests that were asked for, while the tree stands
// still: the content is the one that the offsets belong to.
func (s *survey) digestFiles(ctx context.Context) error {
	paths := map[string][]*filespb.Identity{}
	for i := range s.items {
		n, ok := s.items[i].msg.(*filespb.Named)
		if !ok || n.GetIdentity().GetMode()&unix.S_IFMT != unix.S_IFREG || n.GetDescription().GetFlags()&unix.O_PATH != 0 {
			continue
		}
		if s.listed(digestOption, string(n.GetPath())) {
			path := presentName(n)
			paths[path] = append(paths[path], n.Identity)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for path, ids := range paths {
		g.Go(func() error {
			sum, err := digest(ctx, path, ids[0].GetSize())
			if err != nil {
				return fmt.Errorf("digest of %s: %w", path, err)
			}
			for _, id := range ids {
				id.Digest = sum
			}
			return nil
		})
	}
	return g.Wait()
}

// digest is the SHA-256 of the first size bytes of a file. A file that is shorter
// is an error. Reading leaves no trace: not even the time of access changes where
// the reader may prevent it (open(2), O_NOATIME).
func digest(ctx context.Context, path string, size int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOATIME, 0)
	if err != nil {
		f, err = os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum := sha256.New()
	for left := size; left > 0; {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		n, err := io.CopyN(sum, f, min(left, digestChunk))
		if left -= n; err != nil {
			return nil, fmt.Errorf("read all but %d bytes of %d: %w", left, size, err)
		}
	}
	return sum.Sum(nil), nil
}

// compareContent compares a file by its content. What is not the same is said as
// [policy.compare] does, and what has only grown is told by its beginning.
func (p policy) compareContent(path string, was, is *filespb.Identity) (level sdk.Level, text, help string) {
	if is.GetSize() >= was.GetSize() {
		sum, err := digest(context.Background(), path, was.GetSize())
		if err != nil {
			return sdk.LevelBlock, fmt.Sprintf("%s: cannot be compared: %v", path, err), "make it readable"
		}
		if bytes.Equal(sum, was.GetDigest()) {
			if is.GetSize() == was.GetSize() {
				return sdk.LevelOK, "", ""
			}
			return p.judge(path, acceptAppended, fmt.Sprintf("%s: has grown from %d to %d bytes", path, was.GetSize(), is.GetSize()), "")
		}
	}
	least := acceptSame
	if is.GetSize() < was.GetSize() || !sameFile(was, is) {
		least = acceptAny
	}
	return p.judge(path, least, fmt.Sprintf("%s: has another content than at the checkpoint (%d bytes, had %d; modified %s)",
		path, is.GetSize(), was.GetSize(), stamp(is.GetMtime())), "")
}
