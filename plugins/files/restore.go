package files

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
	"github.com/firn-cr/firn/sdk/openfile"
)

const fifoMode = unix.S_IFIFO

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

// restore is one restore of the files of a tree.
type restore struct {
	req *sdk.RestoreRequest
	mu  sync.Mutex
	// made are the descriptors of this process by object. They stay open until
	// the session ends.
	made   map[uint64]int
	ghosts map[uint64]*ghostSet
}

// provide hands an object to the host.
func (r *restore) provide(object uint64, fd int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made[object] = fd
	return r.req.Provide(object, fd)
}

// RestoreObjects implements [sdk.ObjectRestorer].
func (p *plugin) RestoreObjects(ctx context.Context, req *sdk.RestoreRequest) error {
	im, err := readImage(req.Records)
	if err != nil {
		return err
	}
	r := &restore{req: req, made: map[uint64]int{}, ghosts: im.ghosts}
	defer p.keep(r)
	defer r.closeGhosts()
	for _, object := range im.ghostOrder {
		if err := makeGhost(im.ghosts[object], req.Records); err != nil {
			return fmt.Errorf("restore %s (deleted): %w", im.ghosts[object].msg.GetPath(), err)
		}
	}
	for _, s := range im.pipes {
		if err := r.pipe(s); err != nil {
			return err
		}
	}
	if err := r.restoreTerminals(ctx, &im.terminals); err != nil {
		return err
	}
	if err := each(ctx, r, "open", im.devices, openDevice); err != nil {
		return err
	}
	if err := each(ctx, r, "make", im.eventfds, makeEventfd); err != nil {
		return err
	}
	if err := each(ctx, r, "make", im.signalfds, makeSignalfd); err != nil {
		return err
	}
	if err := each(ctx, r, "make", im.timerfds, makeTimerfd); err != nil {
		return err
	}
	if err := each(ctx, r, "make", im.epolls, makeEpoll); err != nil {
		return err
	}
	return each(ctx, r, "open", im.named, r.openNamed)
}

// keep remembers the descriptors for LinkFiles.
func (p *plugin) keep(r *restore) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made = r.made
}

// closeGhosts closes the descriptors through which ghosts were opened.
func (r *restore) closeGhosts() {
	for _, g := range r.ghosts {
		if g.fd >= 0 {
			unix.Close(g.fd)
			g.fd = -1
		}
	}
}

// each makes the objects of one kind, on all processors.
func each[M message](ctx context.Context, r *restore, verb string, recs []record[M], open func(M) (int, error)) error {
	return openfile.Each(ctx, len(recs), func(i int) error {
		fd, err := open(recs[i].msg)
		if err != nil {
			return fmt.Errorf("%s object %d: %w", verb, recs[i].object, err)
		}
		return r.provide(recs[i].object, fd)
	})
}

func (r *restore) pipe(s *pipeSet) error {
	build, name := restorePipe, fmt.Sprintf("pipe %d", s.pipe.GetId())
	if len(s.pipe.GetPath()) > 0 {
		build, name = restoreFIFO, string(s.pipe.GetPath())
	}
	fds, err := build(s)
	if err != nil {
		return fmt.Errorf("restore %s: %w", name, err)
	}
	for object, fd := range fds {
		if err := r.provide(object, fd); err != nil {
			return err
		}
	}
	return nil
}
