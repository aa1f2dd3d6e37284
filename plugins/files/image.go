package files

import (
	"fmt"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/openfile"
)

// image is what the records of an image say, by kind.
type image struct {
	named     []record[*filespb.Named]
	devices   []record[*filespb.Device]
	eventfds  []record[*filespb.Eventfd]
	signalfds []record[*filespb.Signalfd]
	timerfds  []record[*filespb.Timerfd]
	epolls    []record[*filespb.Epoll]
	pipes     []*pipeSet
	terminals terminalSet

	inotifies  []record[*filespb.Inotify]
	fanotifies []record[*filespb.Fanotify]
	pidfds     []record[*filespb.Pidfd]
	namespaces []record[*filespb.Namespace]
	externals  []record[*filespb.External]
	// ghosts are by object; ghostOrder is the order of their records.
	ghosts     map[uint64]*ghostSet
	ghostOrder []uint64
	// states are set when all tasks exist.
	states []openfile.State
}

// message is a record of one description.
type message interface {
	proto.Message
	GetDescription() *filespb.Description
}

// record is a record that was decoded.
type record[M message] struct {
	object uint64
	msg    M
}

func readImage(records sdk.Records) (*image, error) {
	im := &image{ghosts: map[uint64]*ghostSet{}}
	pipes := map[uint64]*pipeSet{}
	for r, err := range records.All() {
		if err == nil {
			err = im.add(r, pipes)
		}
		if err != nil {
			return nil, err
		}
	}
	return im, nil
}

func (im *image) add(r sdk.Record, pipes map[uint64]*pipeSet) error {
	switch r.Kind {
	case kindNamed:
		return decode(im, r, &filespb.Named{}, &im.named)
	case kindDevice:
		return decode(im, r, &filespb.Device{}, &im.devices)
	case kindEventfd:
		return decode(im, r, &filespb.Eventfd{}, &im.eventfds)
	case kindSignalfd:
		return decode(im, r, &filespb.Signalfd{}, &im.signalfds)
	case kindTimerfd:
		return decode(im, r, &filespb.Timerfd{}, &im.timerfds)
	case kindEpoll:
		return decode(im, r, &filespb.Epoll{}, &im.epolls)
	case kindInotify:
		return decode(im, r, &filespb.Inotify{}, &im.inotifies)
	case kindFanotify:
		return decode(im, r, &filespb.Fanotify{}, &im.fanotifies)
	case kindPidfd:
		return decode(im, r, &filespb.Pidfd{}, &im.pidfds)
	case kindNamespace:
		return decode(im, r, &filespb.Namespace{}, &im.namespaces)
	case kindExternal:
		return decode(im, r, &filespb.External{}, &im.externals)
	case kindGhost, kindContent:
		return im.addGhost(r)
	case kindPty, kindTtyEnd, kindTerminal:
		return im.addTerminal(r)
	case kindPipe, kindPipeData, kindPipeEnd:
		return im.addPipe(r, pipes)
	}
	return fmt.Errorf("record kind %d: %w", r.Kind, sdk.ErrVersion)
}

func decode[M message](im *image, r sdk.Record, m M, list *[]record[M]) error {
	if err := r.Decode(m); err != nil {
		return err
	}
	*list = append(*list, record[M]{object: r.Object, msg: m})
	im.state(r.Object, m.GetDescription())
	return nil
}

// state notes what has to be set later.
func (im *image) state(object uint64, d *filespb.Description) {
	o := d.GetOwner()
	if o == nil && d.GetFlags()&unix.O_ASYNC == 0 {
		return
	}
	s := openfile.State{Object: object, Flags: d.GetFlags()}
	if o != nil {
		s.Owner = &kern.FileOwner{
			Type: kern.OwnerType(o.GetType()), ID: int(o.GetTask()), Signal: int(o.GetSignal()), UID: o.GetUid(), EUID: o.GetEuid(),
		}
	}
	im.states = append(im.states, s)
}

func (im *image) addPipe(r sdk.Record, pipes map[uint64]*pipeSet) error {
	var id uint64
	switch r.Kind {
	case kindPipe:
		m := &filespb.Pipe{}
		if err := r.Decode(m); err != nil {
			return err
		}
		if pipes[m.GetId()] != nil {
			return &sdk.CorruptError{What: "record", Kind: r.Kind, Object: r.Object, Err: fmt.Errorf("second pipe %d", m.GetId())}
		}
		s := &pipeSet{pipe: m}
		pipes[m.GetId()] = s
		im.pipes = append(im.pipes, s)
		return nil
	case kindPipeData:
		m := &filespb.PipeData{}
		if err := r.Decode(m); err != nil {
			return err
		}
		if id = m.GetPipe(); pipes[id] != nil {
			pipes[id].data = append(pipes[id].data, m)
		}
	case kindPipeEnd:
		m := &filespb.PipeEnd{}
		if err := r.Decode(m); err != nil {
			return err
		}
		if id = m.GetPipe(); pipes[id] != nil {
			pipes[id].ends = append(pipes[id].ends, pipeEnd{r.Object, m.GetDescription().GetFlags()})
			im.state(r.Object, m.GetDescription())
		}
	}
	if pipes[id] == nil {
		return &sdk.CorruptError{What: "record", Kind: r.Kind, Object: r.Object, Err: fmt.Errorf("no pipe %d", id)}
	}
	return nil
}
