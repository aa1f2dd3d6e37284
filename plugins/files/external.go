package files

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

const (
	// externalOption names files that stay outside of the image.
	externalOption = "external"
	// inheritOption maps files to descriptors of the restorer.
	inheritOption = "inherit-fd"
	// inheritSameOption names descriptors of the root process that get the
	// restorer's of the same number.
	inheritSameOption = "inherit"
)

// isExternal tells whether a file is to stay outside of the image.
func (s *survey) isExternal(link string) bool {
	return slices.Contains(s.sess.OptionList(externalOption), link)
}

// examineExternal notes only what the description has of its own.
func (s *survey) examineExternal(it *item) error {
	d, err := s.describe(it)
	if err != nil {
		return err
	}
	it.kind, it.msg = kindExternal, &filespb.External{Description: d, Key: []byte(it.file().Link)}
	s.report.Note(it.res, fmt.Sprintf("%s: is not in the image; pass --%s fd[N]:%s to the restore", it.file().Link, inheritOption, it.file().Link))
	return nil
}

// noteExternalUnused tells of files that were named but are not open. What is no
// file is named as KIND[...].
func (s *survey) noteExternalUnused() {
	for _, key := range s.sess.OptionList(externalOption) {
		if kind, _, other := strings.Cut(key, "["); other && !strings.ContainsAny(kind, ":/") {
			continue
		}
		if !slices.ContainsFunc(s.items, func(it item) bool { return it.file() != nil && it.file().Link == key }) {
			s.report.Note(&sdk.Resource{Task: s.sess.Tree.Root}, fmt.Sprintf("--%s %s: no such file is open", externalOption, key))
		}
	}
}

// outside reports that a pipe is also open outside of the tree, unless it is to
// stay there.
func (s *survey) outside(p *pipe, text string) error {
	if !s.isExternal(p.name()) {
		s.report.Add(p.ends[0].res, sdk.LevelFlag, text,
			fmt.Sprintf("--%s '%s': leave it outside; the restore gets it by --%s 'fd[N]:%s'", externalOption, p.name(), inheritOption, p.name()))
		return nil
	}
	for _, e := range p.ends {
		if err := s.examineExternal(e); err != nil {
			return err
		}
	}
	return nil
}

// inheritance has the descriptors of the restorer that take the place of files,
// by what /proc/PID/fd showed at the checkpoint.
type inheritance map[string]int

// readInheritance reads values of the form fd[N]:KEY. A key that is a path may
// lack the first slash.
func readInheritance(sess *sdk.Session) (inheritance, error) {
	out := inheritance{}
	for _, v := range sess.OptionList(inheritOption) {
		rest, ok1 := strings.CutPrefix(v, "fd[")
		num, key, ok2 := strings.Cut(rest, "]:")
		fd, err := strconv.ParseUint(num, 10, 31)
		if !ok1 || !ok2 || err != nil || key == "" {
			return nil, fmt.Errorf("--%s %q: want fd[NUMBER]:KEY, where KEY is pipe:[INODE] or a path", inheritOption, v)
		}
		out[strings.TrimPrefix(key, "/")] = int(fd)
	}
	return out, nil
}

// of returns the descriptor for a file.
func (h inheritance) of(link string) (fd int, ok bool) {
	fd, ok = h[strings.TrimPrefix(link, "/")]
	return fd, ok
}

// inherited are the descriptors of the restorer that take the place of files of
// the image, by object.
func inherited(sess *sdk.Session) (map[uint64]int, error) {
	h, err := readInheritance(sess)
	if err != nil {
		return nil, err
	}
	same := sess.OptionList(inheritSameOption)
	out := map[uint64]int{}
	for i := range sess.Resources {
		r := &sess.Resources[i]
		if r.File == nil {
			continue
		}
		if fd, ok := h.of(r.File.Link); ok {
			out[r.Object] = fd
		}
		for _, ref := range r.File.Refs {
			if ref.Task == sess.Tree.Root && slices.Contains(same, strconv.Itoa(ref.FD)) {
				out[r.Object] = ref.FD
			}
		}
	}
	return out, nil
}

// openExternal is for files that were not handed over.
func openExternal(e *filespb.External) (int, error) {
	return -1, fmt.Errorf("%s is not in the image: pass --%s fd[N]:%s: %w", e.GetKey(), inheritOption, e.GetKey(), sdk.ErrUnsupported)
}

// checkInherited tells of files that nobody handed over, and of descriptors
// that nothing takes.
func (c *imageCheck) checkInherited(sess *sdk.Session, im *image) error {
	h, err := readInheritance(sess)
	if err != nil {
		return err
	}
	for _, e := range im.externals {
		if _, ok := c.inherited[e.object]; !ok {
			c.add(e.object)(sdk.LevelBlock, fmt.Sprintf("%s: is not in the image", e.msg.GetKey()),
				fmt.Sprintf("pass --%s 'fd[N]:%s', or --%s N for descriptor N of the root process", inheritOption, e.msg.GetKey(), inheritSameOption))
		}
	}
	for _, s := range im.pipes {
		if len(s.ends) == 0 || len(s.data) == 0 {
			continue
		}
		if fd, ok := c.inherited[s.ends[0].object]; ok {
			c.add(s.ends[0].object)(sdk.LevelNote, fmt.Sprintf("descriptor %d of the restorer takes its place: what was in the pipe is not restored", fd), "")
		}
	}
	for key, fd := range h {
		used := slices.ContainsFunc(sess.Resources, func(r sdk.Resource) bool {
			return r.File != nil && strings.TrimPrefix(r.File.Link, "/") == key
		})
		if !used {
			c.report.Note(&sdk.Resource{Task: sess.Tree.Root}, fmt.Sprintf("--%s fd[%d]:%s: no file of the image", inheritOption, fd, key))
		}
	}
	return nil
}

// openInherited takes a descriptor of the restorer. A pipe is opened again, with
// the direction and the flags of the old description. Anything else is handed
// over as it is: the tree shares it with the caller.
func openInherited(fd int, flags uint32) (int, error) {
	got, err := openfile.OfHost(fd)
	if err != nil {
		return -1, fmt.Errorf("descriptor %d of the restorer: %w", fd, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(got, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
		return got, nil
	}
	defer unix.Close(got)
	end, err := reopenFD(got, flags)
	if err != nil {
		return -1, fmt.Errorf("descriptor %d of the restorer: open pipe: %w", fd, err)
	}
	if err := openfile.SetFlags(end, flags); err != nil {
		unix.Close(end)
		return -1, fmt.Errorf("descriptor %d of the restorer: %w", fd, err)
	}
	return end, nil
}
