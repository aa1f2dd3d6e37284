package network

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/firn-cr/firn/plugins/network/networkpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/namespace"
)

// externalOption names, at the checkpoint, what is outside of the tree and known
// to be: net[INODE] is a namespace that the restorer brings, veth[DEVICE] the
// other end of a pair. At the restore it may say what takes its place.
const externalOption = "external"

// space is a namespace of the tree that is looked at.
type space struct {
	res   *sdk.Resource
	first *sdk.Process
	// provided tells that the restorer brings it.
	provided bool
	*conns
	*contents
}

// survey is everything that is known about the network namespaces of a tree.
type survey struct {
	sess   *sdk.Session
	spaces []*space
	// own is the namespace of this process, in which ends of veth pairs may be.
	own      *conns
	findings []sdk.Finding
}

// isOf tells whether the namespaces are those of a session.
func (s *survey) isOf(sess *sdk.Session) bool {
	return slices.EqualFunc(s.sess.Resources, sess.Resources, func(a, b sdk.Resource) bool {
		return a.Object == b.Object && a.Namespace != nil && b.Namespace != nil && a.Namespace.Ino == b.Namespace.Ino
	})
}

// newSurvey looks at all namespaces, with their settings or without.
func (p *plugin) newSurvey(sess *sdk.Session, settings bool) (_ *survey, err error) {
	s := &survey{sess: sess}
	defer func() { err = errors.Join(err, s.close()) }()
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open namespace: %w", err)
	}
	if s.own, err = connect(ns); err != nil {
		return nil, err
	}
	for i := range sess.Resources {
		r := &sess.Resources[i]
		members := namespace.Members(sess, r)
		if len(members) == 0 {
			continue
		}
		sp := &space{res: r, first: members[0]}
		s.spaces = append(s.spaces, sp)
		sp.provided = slices.Contains(sess.OptionList(externalOption), fmt.Sprintf("net[%d]", r.Namespace.Ino))
		if err := p.look(sp, settings); err != nil {
			return nil, fmt.Errorf("network namespace of task %d: %w", members[0].ID, err)
		}
	}
	return s, s.resolvePeers()
}

func (p *plugin) look(sp *space, settings bool) error {
	ns, err := namespace.Open(sp.first.PID, "net")
	if err != nil {
		return err
	}
	if sp.conns, err = connect(ns); err != nil || sp.provided {
		return err
	}
	fresh, err := p.freshSettings() // also if not needed yet: a frozen tree would have to wait
	if err != nil {
		return err
	}
	if !settings {
		fresh = nil
	}
	sp.contents, err = sp.read(fresh)
	return err
}

func (s *survey) close() error {
	var errs []error
	if s.own != nil {
		errs = append(errs, s.own.close())
	}
	for _, sp := range s.spaces {
		if sp.conns != nil {
			errs = append(errs, sp.conns.close())
		}
	}
	return errors.Join(errs...)
}

func (s *survey) add(sp *space, level sdk.Level, text, help string) {
	s.findings = append(s.findings, sdk.Finding{
		Level: level, Task: sp.first.ID, Object: sp.res.Object, Subject: subject, Text: text, Help: help,
	})
}

// resolvePeers finds the other ends of veth pairs.
func (s *survey) resolvePeers() error {
	for _, sp := range s.spaces {
		if sp.provided {
			continue
		}
		for _, l := range sp.links {
			if l.GetKind() != kindVeth || l.refusal != "" {
				continue
			}
			if err := s.resolvePeer(sp, l); err != nil {
				return fmt.Errorf("device %s: %w", l.GetName(), err)
			}
		}
	}
	return nil
}

func (s *survey) resolvePeer(sp *space, l *link) error {
	l.Peer = &networkpb.Peer{Namespace: sp.res.Object, Index: l.GetLower()}
	l.Lower = 0
	if !l.elsewhere {
		return nil
	}
	for _, o := range s.spaces {
		if id, err := sp.idOf(o.ns); err != nil || id != int32(l.lowerID) {
			if err != nil {
				return err
			}
			continue
		}
		if o.provided {
			s.add(sp, sdk.LevelBlock, fmt.Sprintf("device %s: its other end is in a namespace that the restorer brings", l.GetName()), "")
		}
		l.Peer.Namespace = o.res.Object
		return nil
	}
	id, err := sp.idOf(s.own.ns)
	if err != nil {
		return err
	}
	if id != int32(l.lowerID) {
		s.add(sp, sdk.LevelBlock, fmt.Sprintf("device %s: its other end is in a namespace that is neither the tree's nor firn's", l.GetName()),
			fmt.Sprintf("run firn there, or --%s 'net[%d]': leave the namespace to the restorer", externalOption, sp.res.Namespace.Ino))
		return nil
	}
	return s.resolveOutside(sp, l)
}

// resolveOutside notes what the other end is like that is where firn runs.
func (s *survey) resolveOutside(sp *space, l *link) error {
	links, err := readLinks(s.own.route)
	if err != nil {
		return err
	}
	l.Peer.Namespace = 0
	end := byIndex(links, l.Peer.GetIndex())
	if end == nil {
		return fmt.Errorf("its other end is not there: %w", sdk.ErrChanged)
	}
	l.Peer.Outside = end.Link
	if bridge := byIndex(links, end.GetMaster()); bridge != nil {
		l.Peer.Bridge = bridge.GetName()
	}
	end.Lower, end.Master = 0, 0
	addresses, err := tableOf(networkpb.Table_TABLE_ADDRESS).read(s.own.route)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		if order.Uint32(a.GetHeader()[4:]) == end.GetIndex() {
			l.Peer.Addresses = append(l.Peer.Addresses, a)
		}
	}
	key := fmt.Sprintf("veth[%s]", l.GetName())
	if !slices.Contains(s.sess.OptionList(externalOption), key) {
		s.add(sp, sdk.LevelFlag, fmt.Sprintf("device %s: its other end %s is outside of the tree", l.GetName(), end.GetName()),
			fmt.Sprintf("--%s '%s': the restore makes it anew; or --%s 'net[%d]': leave the namespace to the restorer",
				externalOption, key, externalOption, sp.res.Namespace.Ino))
	}
	return nil
}

// idOf is the number by which the kernel names another namespace in this one; -1
// if it has none (RTM_GETNSID).
func (c *conns) idOf(other *os.File) (int32, error) {
	const getNSID, attrID, attrFD = 90, 1, 3 // RTM_GETNSID, NETNSA_NSID, NETNSA_FD
	list, err := ask(c.route, getNSID, make([]byte, 4), number(attrFD, uint32(other.Fd())))
	if err != nil {
		return -1, fmt.Errorf("number of a namespace: %w", err)
	}
	return int32(findNumber(list, attrID)), nil
}
