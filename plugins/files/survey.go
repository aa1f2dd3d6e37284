package files

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// survey is everything that is known about the files of one tree: the records
// that a dump will emit and the findings that a check reports.
type survey struct {
	sess   *sdk.Session
	access *openfile.Access
	mounts mountTable
	report openfile.Report
	// items are parallel to sess.Resources.
	items []item
	pipes []*pipe
	// terminals are set when they were looked at.
	terminals *terminalSurvey
	// frozen tells that nothing can change any more.
	frozen bool

	mu     sync.Mutex
	ghosts map[fileKey]*ghost

	namesOnce sync.Once
	names     []string
}

// item is one open file description. Without a message it cannot be carried,
// and a finding says so.
type item struct {
	res  *sdk.Resource
	kind uint32
	msg  proto.Message
}

// file is the description that the item is about.
func (it *item) file() *sdk.File { return it.res.File }

// newSurvey looks at every file. known are files that were looked for before in
// processes outside the tree; it may be nil. frozen tells that the tree is.
func newSurvey(ctx context.Context, sess *sdk.Session, known *outsiders, frozen bool) (*survey, error) {
	s := &survey{sess: sess, frozen: frozen, access: openfile.NewAccess(sess.Tree), items: make([]item, len(sess.Resources))}
	for i := range sess.Resources {
		s.items[i].res = &sess.Resources[i]
	}
	err := openfile.Each(ctx, len(s.items), func(i int) error {
		it := &s.items[i]
		if err := s.examine(it); err != nil && !s.gone(err) {
			return fmt.Errorf("examine %s of task %d: %w", openfile.Subject(it.res), it.res.Task, err)
		}
		return nil
	})
	if err == nil {
		err = s.examineShared(known)
	}
	if err == nil {
		err = s.examineLocks()
	}
	if err == nil {
		err = s.examineWatchers()
	}
	if err == nil {
		err = s.examineTerminals(ctx, known)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	s.noteUnused(carryOption)
	s.noteUnused(digestOption)
	s.noteExternalUnused()
	return s, nil
}

func (s *survey) close() { s.access.Close() }

// gone tells whether an error says that a task has ended or a file was closed,
// which a tree that runs may do any time.
func (s *survey) gone(err error) bool {
	return !s.frozen && (openfile.Gone(err) || errors.Is(err, unix.ENOENT))
}

// examine finds out what one description is and how it can be carried. Pipes
// and terminals are left to examineShared and examineTerminals: their ends are
// looked at together. What watches others is left to examineWatchers.
func (s *survey) examine(it *item) error {
	f := it.file()
	if f == nil {
		return fmt.Errorf("resource of kind %v has no file: %w", it.res.Kind, sdk.ErrCorrupt)
	}
	if len(f.Refs) == 0 && needsTask(f) {
		s.block(it, f.Link+": is on its way through a socket (SCM_RIGHTS), and no task has it open", "let the program receive it first")
		return nil
	}
	if f.Type != sdk.TypeFIFO && s.isExternal(f.Link) {
		return s.examineExternal(it)
	}
	if f.Flags&unix.O_PATH != 0 {
		return s.examineNamed(it)
	}
	switch f.Type {
	case sdk.TypeSocket:
		s.block(it, f.Link+": sockets are not carried by this plugin", "")
		return nil
	case sdk.TypeRegular, sdk.TypeDirectory, sdk.TypeSymlink:
		if namespaceName(f.Link) != "" {
			return s.examineNamespace(it)
		}
		return s.examineNamed(it)
	case sdk.TypeChar:
		if isTerminal(f.Rdev) {
			return nil
		}
		return s.examineDevice(it)
	case sdk.TypeFIFO:
		return nil
	}
	switch anonName(f.Link) {
	case anonEventfd:
		return s.examineEventfd(it)
	case anonEpoll:
		return s.examineEpoll(it)
	case anonSignalfd:
		return s.examineSignalfd(it)
	case anonTimerfd:
		return s.examineTimerfd(it)
	case anonPidfd:
		return s.examinePidfd(it)
	case anonInotify, anonFanotify:
		return nil
	}
	s.block(it, f.Link+": this kind of file is not carried", "")
	return nil
}

// needsTask tells whether a file is read, or made again, through a task that has it
// open.
func needsTask(f *sdk.File) bool {
	switch anonName(f.Link) {
	case anonEpoll, anonPidfd, anonInotify, anonFanotify:
		return true
	}
	return f.Type == sdk.TypeChar && isTerminal(f.Rdev)
}

// anonName returns the name of an anonymous inode with its brackets, or "".
func anonName(link string) string {
	name, ok := strings.CutPrefix(link, "anon_inode:")
	if !ok {
		return ""
	}
	return name
}

// describe reads what every open file description has.
func (s *survey) describe(it *item) (*filespb.Description, error) {
	f := it.file()
	d := &filespb.Description{Flags: f.Flags}
	if f.Flags&unix.O_PATH != 0 {
		return d, nil // has no owner: fcntl(2) refuses
	}
	fd, err := s.access.Dup(it.res)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	o, err := s.access.ReadOwner(it.res, fd, &s.report)
	if err != nil || o == nil {
		return d, err
	}
	if f.Type == sdk.TypeDirectory && o.ID != 0 {
		// Nothing but fcntl(F_NOTIFY) has a use for the owner of a directory, and
		// sets one (fcntl_dirnotify in fs/notify/dnotify).
		s.block(it, f.Link+": signals of F_NOTIFY, of which the kernel does not tell what for", "use inotify(7)")
	}
	d.Owner = &filespb.Owner{
		Type: int32(o.Type), Task: uint32(o.ID), Signal: int32(o.Signal), Uid: o.UID, Euid: o.EUID,
	}
	return d, nil
}

// block reports that the description cannot be carried.
func (s *survey) block(it *item, text, help string) { s.report.Block(it.res, text, help) }
