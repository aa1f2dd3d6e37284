package namespace

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
)

// JoinOption is the flag by which the caller of a restore names a namespace that
// the tree enters instead of one of its own: NAME:PATH, where NAME is that of
// /proc/PID/ns and PATH a file like those.
const JoinOption = "join-ns"

// Joined returns the path of the namespace that takes the place of one of the
// tree's: of the one in which the first process lives or, if that is the
// restorer's, of the only one of its name.
func Joined(s *sdk.Session, r *sdk.Resource) (path string, ok bool) {
	if r.Kind != sdk.KindNamespace || r.Namespace == nil {
		return "", false
	}
	for _, v := range s.OptionList(JoinOption) {
		if name, p, found := strings.Cut(v, ":"); found && name == r.Namespace.Name {
			path, ok = p, true
		}
	}
	if !ok || slices.Contains(r.Namespace.Tasks, s.Tree.Root) {
		return path, ok
	}
	for _, o := range slices.Concat(s.Resources, s.Attended) {
		if o.Kind == sdk.KindNamespace && o.Namespace != nil && o.Namespace.Name == r.Namespace.Name && o.Object != r.Object {
			return "", false
		}
	}
	return path, true
}

// OpenPath opens a namespace by a file and makes sure that it is of a kind: flag is
// the CLONE_NEW* of it, name what the kernel calls it. The caller closes it.
func OpenPath(path, name string, flag int) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", JoinOption, err)
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != flag {
		f.Close()
		return nil, fmt.Errorf("--%s: %s is no %s namespace", JoinOption, path, name)
	}
	return f, nil
}
