package files

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
)

// changedOption says what becomes of regular files that have changed since the
// checkpoint.
const changedOption = "changed-files"

// policy is what a restore does about a regular file that has changed. How it
// has changed is told by inode, size and time of modification, or by its content
// where the checkpoint took a digest of it.
type policy string

const (
	// refuseChanged accepts the file of the checkpoint only, or a copy that kept
	// size and time.
	refuseChanged policy = "refuse"
	// acceptAppended accepts the same file as well if it has grown.
	acceptAppended policy = "append"
	// acceptSame accepts the same file unless it is shorter. It is the default.
	acceptSame policy = "same"
	// acceptAny accepts every regular file.
	acceptAny policy = "accept"
)

// policies are the rules of --changed-files. The last one that matches counts.
type policies []struct {
	pattern string
	policy  policy
}

// readPolicies reads values of the form POLICY or PATTERN=POLICY.
func readPolicies(sess *sdk.Session) (out policies, err error) {
	for _, v := range sess.OptionList(changedOption) {
		pattern, name := "", v
		if i := strings.LastIndexByte(v, '='); i >= 0 {
			pattern, name = v[:i], v[i+1:]
		}
		switch p := policy(name); p {
		case refuseChanged, acceptAppended, acceptSame, acceptAny:
			out = append(out, struct {
				pattern string
				policy  policy
			}{pattern, p})
		default:
			return nil, fmt.Errorf("--%s %q: want refuse, append, same or accept, or PATTERN=POLICY", changedOption, v)
		}
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("--%s %q: %w", changedOption, v, err)
		}
	}
	return out, nil
}

// of returns the policy for a path.
func (p policies) of(name string) policy {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i].pattern == "" || matchPath(p[i].pattern, name) {
			return p[i].policy
		}
	}
	return acceptSame
}

// matchPath tells whether a path is meant by a pattern of the command line:
// the path itself, a pattern of path.Match, or with a slash at the end all that
// is below a directory.
func matchPath(pattern, name string) bool {
	if strings.HasSuffix(pattern, "/") {
		return strings.HasPrefix(name, pattern)
	}
	ok, err := path.Match(pattern, name)
	return ok && err == nil || pattern == name
}

// compare compares the regular file that a path leads to with the one of the
// checkpoint. The level is [sdk.LevelOK] if there is nothing to say.
//
// A different file with the same size and time is the same for every policy: a
// copy on another machine that keeps times looks like that.
func (p policy) compare(path string, was, is *filespb.Identity) (level sdk.Level, text, help string) {
	if len(was.GetDigest()) > 0 {
		return p.compareContent(path, was, is)
	}
	if is.Size == was.GetSize() && is.Mtime == was.GetMtime() {
		return sdk.LevelOK, "", ""
	}
	var least policy // the strictest one that accepts the change
	switch {
	case is.Size < was.GetSize():
		least, text = acceptAny, fmt.Sprintf("%s: has %d bytes, had %d", path, is.Size, was.GetSize())
		help = "put back the file of the checkpoint"
	case !sameFile(was, is):
		least, text = acceptAny, fmt.Sprintf("%s: is another file than at the checkpoint (inode %d, was %d; modified %s, was %s)",
			path, is.Ino, was.GetIno(), stamp(is.Mtime), stamp(was.GetMtime()))
		help = "put back the file of the checkpoint, or a copy that keeps its times (cp -p)"
	case is.Size > was.GetSize():
		least, text = acceptAppended, fmt.Sprintf("%s: has grown from %d to %d bytes", path, was.GetSize(), is.Size)
	default:
		least, text = acceptSame, fmt.Sprintf("%s: was modified at %s", path, stamp(is.Mtime))
	}
	return p.judge(path, least, text, help)
}

// sameFile tells whether two files are one, by what identifies it on this machine.
func sameFile(was, is *filespb.Identity) bool {
	return is.GetIno() == was.GetIno() && (is.GetDev() == was.GetDev() || is.GetBtime() != 0 && is.GetBtime() == was.GetBtime())
}

// judge says what a change means that least, and more lenient ones, accept.
func (p policy) judge(path string, least policy, text, help string) (sdk.Level, string, string) {
	if p.accepts(least) {
		return sdk.LevelNote, text, ""
	}
	if help == "" {
		help = "put back the file of the checkpoint"
	}
	return sdk.LevelBlock, text, fmt.Sprintf("%s, or pass --%s %s=%s", help, changedOption, path, least)
}

// accepts tells whether the policy is at least as lenient as another.
func (p policy) accepts(other policy) bool {
	rank := map[policy]int{refuseChanged: 0, acceptAppended: 1, acceptSame: 2, acceptAny: 3}
	return rank[p] >= rank[other]
}

// shorter tells whether a file may be shorter than it was.
func (p policy) shorter(st *unix.Stat_t, was *filespb.Identity) bool {
	return p == acceptAny || st.Size >= was.GetSize()
}
