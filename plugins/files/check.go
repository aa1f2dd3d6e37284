package files

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/files/filespb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// Check implements [sdk.Checker].
func (p *plugin) Check(ctx context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = &outsiders{}
	}
	s, err := newSurvey(ctx, req.Session, p.known, req.Frozen)
	if err != nil {
		return nil, err
	}
	if p.frozen != nil {
		p.frozen.close()
		p.frozen = nil
	}
	if req.Frozen {
		p.frozen = s
	} else {
		s.close()
	}
	return s.report.Findings(), nil
}

// CheckImage implements [sdk.ImageChecker].
func (p *plugin) CheckImage(ctx context.Context, req *sdk.RestoreRequest) ([]sdk.Finding, error) {
	im, err := readImage(req.Records)
	if err != nil {
		return nil, err
	}
	rules, err := readPolicies(req.Session)
	if err != nil {
		return nil, err
	}
	c := &imageCheck{files: map[uint64]*sdk.Resource{}}
	for i := range req.Resources {
		c.files[req.Resources[i].Object] = &req.Resources[i]
	}
	if c.inherited, err = inherited(req.Session); err != nil {
		return nil, err
	}
	if err := c.checkInherited(req.Session, im); err != nil {
		return nil, err
	}
	err = openfile.Each(ctx, len(im.named), func(i int) error {
		c.checkNamed(rules, im.named[i], req.Enabled(newPIDNamespace))
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, object := range im.ghostOrder {
		c.add(object)(checkGhost(im.ghosts[object].msg))
	}
	c.checkWatched(im)
	for _, d := range im.devices {
		if _, err := devicePath(d.msg); err != nil {
			c.add(d.object)(sdk.LevelBlock, err.Error(), "")
		}
	}
	for _, s := range im.pipes {
		c.checkFIFO(rules, s)
	}
	im.terminals.check(c, req)
	return c.report.Findings(), nil
}

// imageCheck collects findings about the records of an image.
type imageCheck struct {
	files     map[uint64]*sdk.Resource
	inherited map[uint64]int
	report    openfile.Report
}

// add returns a function that reports what was found about an object, unless
// there is nothing to say.
func (c *imageCheck) add(object uint64) func(level sdk.Level, text, help string) {
	return func(level sdk.Level, text, help string) {
		if level == sdk.LevelOK {
			return
		}
		r := c.files[object]
		if r == nil {
			r = &sdk.Resource{Object: object}
		}
		c.report.Add(r, level, text, help)
	}
}

// checkNamed looks at a file that is opened by its path.
func (c *imageCheck) checkNamed(rules policies, n record[*filespb.Named], newNumbers bool) {
	if _, ok := c.inherited[n.object]; ok {
		return
	}
	c.add(n.object)(rules.checkNamed(n.msg))
	c.add(n.object)(checkLocks(n.msg))
	if n.msg.GetProcess() != 0 && newNumbers {
		c.add(n.object)(sdk.LevelNote, fmt.Sprintf("%s of task %d in /proc: is that of the host, with the numbers of the host",
			n.msg.GetPath(), n.msg.GetProcess()), "")
	}
}

// checkWatched looks at what is watched.
func (c *imageCheck) checkWatched(im *image) {
	for _, n := range im.inotifies {
		for _, w := range n.msg.GetWatches() {
			c.add(n.object)(checkWatched(w.GetOn()))
		}
	}
	for _, g := range im.fanotifies {
		for _, m := range g.msg.GetMarks() {
			c.add(g.object)(checkWatched(m.GetOn()))
		}
	}
}

// checkFIFO looks at a FIFO that is opened by its path.
func (c *imageCheck) checkFIFO(rules policies, s *pipeSet) {
	if len(s.pipe.GetPath()) == 0 || s.pipe.GetDeleted() || len(s.ends) == 0 {
		return
	}
	if _, ok := c.inherited[s.ends[0].object]; ok {
		return
	}
	// Only path and type count for a FIFO.
	fifo := &filespb.Named{Path: s.pipe.GetPath(), Identity: &filespb.Identity{Mode: unix.S_IFIFO}}
	c.add(s.ends[0].object)(rules.checkNamed(fifo))
}
