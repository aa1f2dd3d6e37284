package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/firn-cr/firn/host/integration/harness"
)

// bench runs the cases.
type bench struct {
	options
	work     string
	programs *harness.Programs
}

// load is a program that is checkpointed.
type load struct {
	name  string
	args  []string
	bytes int64 // of memory that it filled
}

var loads = []load{
	{"sleep", []string{"sleep"}, 0},
	{"64 MiB", []string{"memory", "64"}, 64 << 20},
	{"1 GiB", []string{"memory", "1024"}, 1 << 30},
	{"50 processes", []string{"processes", "50"}, 0},
	{"100 processes", []string{"processes", "100"}, 0},
	{"500 processes", []string{"processes", "500"}, 0},
	{"1000 threads", []string{"threads", "1000"}, 0},
	{"100 files", []string{"files", "100"}, 0},
	{"1000 files", []string{"files", "1000"}, 0},
	{"10000 files", []string{"files", "10000"}, 0},
	{"network namespace", []string{"network"}, 0},
}

// modes are compared by the time that the tree stands still.
var modes = []load{
	{"64 MiB", []string{"memory", "64"}, 64 << 20},
	{"1 GiB", []string{"memory", "1024"}, 1 << 30},
	{"1000 processes", []string{"processes", "1000"}, 0},
}

// samples are the figures of one case, in milliseconds unless said otherwise.
type samples struct {
	name                            string
	noSync, synced, frozen, restore series
	skeleton, rebuild               series
	modes                           [len(modeFlags)]modeSamples
	image                           series // MiB
	limits                          limits
}

// modeSamples are the figures of one mode: how long the tree stood still, by firn's
// account and by its own, and how long the command took.
type modeSamples struct{ frozen, gap, whole series }

func (b *bench) all() (*report, error) {
	r := &report{runs: b.runs}
	for _, l := range loads {
		if !b.only.MatchString(l.name) {
			continue
		}
		fmt.Fprintln(os.Stderr, "bench: whole:", l.name)
		s, err := b.whole(l)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		r.whole = append(r.whole, s)
	}
	for _, l := range modes {
		if !b.only.MatchString(l.name) {
			continue
		}
		fmt.Fprintln(os.Stderr, "bench: modes:", l.name)
		s, err := b.compareModes(l)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		r.modes = append(r.modes, s)
	}
	return r, nil
}

// start starts a load and waits until it is ready.
func (b *bench) start(l load) (*harness.Subject, string, error) {
	path, err := b.programs.CSubject("load")
	if err != nil {
		return nil, "", err
	}
	dir, err := os.MkdirTemp(b.work, "load-")
	if err != nil {
		return nil, "", err
	}
	s, err := harness.Start(harness.Spec{Path: path, Args: l.args, Dir: dir})
	if err != nil {
		return nil, "", err
	}
	if _, err := s.WaitLine("ready"); err != nil {
		_ = s.Sweep()
		return nil, "", err
	}
	return s, filepath.Join(b.work, "image.firn"), nil
}

// firn runs firn, which must succeed, on a program with so many bytes, and
// decodes its result.
func (b *bench) firn(bytes int64, to any, args ...string) (float64, error) {
	if err := warm(2*bytes + spare); err != nil {
		return 0, err
	}
	res, err := harness.Firn{Path: b.programs.Firn, Timeout: 10 * time.Minute}.Run(append(args, "--json")...)
	if err != nil {
		return 0, err
	}
	if res.Status != harness.StatusDone {
		return 0, fmt.Errorf("%s", res)
	}
	return milliseconds(res.Took), res.Decode(to)
}

// whole measures checkpoints that end the tree, with and without fsync, and
// the restores between them.
func (b *bench) whole(l load) (s samples, err error) {
	s.name = l.name
	subject, image, err := b.start(l)
	if err != nil {
		return s, err
	}
	defer func() { err = joinSweep(err, subject) }()
	for i := range b.runs + 1 {
		for _, sync := range []bool{false, true} {
			var c harness.Checkpoint
			var r harness.Restore
			args := []string{"checkpoint", strconv.Itoa(subject.PID), "-o", image}
			if !sync {
				args = append(args, "--no-sync")
			}
			// Freeing the image before is not what is measured.
			if err := os.RemoveAll(image); err != nil {
				return s, err
			}
			took, err := b.firn(l.bytes, &c, args...)
			if err != nil {
				return s, err
			}
			back, err := b.firn(l.bytes, &r, "restore", "-d", image)
			if err != nil {
				return s, err
			}
			if i == 0 {
				continue // the first round warms caches
			}
			s.restore.add(back)
			s.skeleton.add(r.SkeletonMS)
			s.rebuild.add(r.RebuildMS + r.MemoryMS)
			if sync {
				s.synced.add(took)
				continue
			}
			s.noSync.add(took)
			s.frozen.add(c.FrozenMS)
			s.image.add(float64(c.BytesImage) / (1 << 20))
		}
		if l.bytes > 0 {
			if err := s.limits.measure(b.work, l.bytes); err != nil {
				return s, err
			}
		}
	}
	return s, os.Remove(image)
}

// modeFlags are the modes that are compared; all leave the tree running.
var modeFlags = [...]string{"--leave-running", "--deferred", "--live"}

// compareModes measures the time that the tree stands still in direct, deferred and
// live mode, as firn reports it and as the program itself sees it.
func (b *bench) compareModes(l load) (s samples, err error) {
	s.name = l.name
	subject, image, err := b.start(l)
	if err != nil {
		return s, err
	}
	defer func() { err = joinSweep(err, subject) }()
	if err := subject.Ask("measure"); err != nil {
		return s, err
	}
	for i := range 2*b.runs + 1 {
		for m, flag := range modeFlags {
			var c harness.Checkpoint
			args := []string{"checkpoint", strconv.Itoa(subject.PID), "-o", image, "--leave-running", flag, "--no-sync"}
			seen, err := gaps(subject)
			if err != nil {
				return s, err
			}
			if err := os.RemoveAll(image); err != nil {
				return s, err
			}
			took, err := b.firn(l.bytes, &c, args...)
			if err != nil {
				return s, err
			}
			all, err := gaps(subject)
			if err != nil {
				return s, err
			}
			if i > 0 {
				s.modes[m].gap.add(slices.Max(append(all[len(seen):], 0)))
				s.modes[m].frozen.add(c.FrozenMS)
				s.modes[m].whole.add(took)
			}
			s.image.add(float64(c.BytesImage) / (1 << 20))
		}
		if err := s.limits.measure(b.work, max(l.bytes, int64(s.image.median()*(1<<20)))); err != nil {
			return s, err
		}
	}
	return s, os.Remove(image)
}

// gaps are the times that a load stood still, as it saw them itself.
func gaps(s *harness.Subject) ([]float64, error) {
	lines, err := s.Log()
	if err != nil {
		return nil, err
	}
	var all []float64
	for _, line := range lines {
		var ns float64
		if _, err := fmt.Sscanf(line, "gap %f", &ns); err == nil {
			all = append(all, ns/1e6)
		}
	}
	return all, nil
}

func joinSweep(err error, s *harness.Subject) error {
	if swept := s.Sweep(); err == nil {
		return swept
	}
	return err
}
