// Package probe finds out what this kernel can do and which rights this process
// has, without changing anything.
//
// A probe has three answers: yes, no, and could not tell. The question is
// whether Firn can use a feature here and now: a feature that is refused
// (EPERM) is a no with that detail. Answers are cached for the life of the
// process.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"golang.org/x/sys/unix"
)

// Answer of a probe.
type Answer int

// The answers. The zero Answer is that nobody knows.
const (
	Unknown Answer = iota
	Yes
	No
)

// String returns the answer in words.
func (a Answer) String() string {
	switch a {
	case Yes:
		return "yes"
	case No:
		return "no"
	}
	return "could not tell"
}

// MarshalText encodes the answer in words.
func (a Answer) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// Result of one probe.
type Result struct {
	// Name of the feature: a [Feature], or a capability as in CAP_SYS_PTRACE.
	Name string `json:"name"`
	// Answer tells whether Firn can use it here.
	Answer Answer `json:"answer"`
	// Detail is the reason of a no, or more about a yes.
	Detail string `json:"detail,omitempty"`
	// NeededFor says what does not work without it.
	NeededFor string `json:"needed_for"`
	// Required: without it there is no checkpoint and no restore at all.
	Required bool `json:"required"`
}

// Feature is a feature of the kernel that can be asked for by name.
type Feature string

// entry is a feature, how to find out, and the answer once known.
type entry struct {
	feature   Feature
	neededFor string
	required  bool
	run       func() (detail string, err error)

	once   sync.Once
	result Result
}

func (e *entry) ask() Result {
	e.once.Do(func() {
		detail, err := e.run()
		e.result = Result{Name: string(e.feature), Answer: answer(err), Detail: detail, NeededFor: e.neededFor, Required: e.required}
		if err != nil {
			e.result.Detail = err.Error()
		}
	})
	return e.result
}

// lacks is a no that is not an errno.
type lacks string

// Error implements error.
func (l lacks) Error() string { return string(l) }

// answer turns the error of a probe into its answer: some errors say that the
// kernel does not know or does not allow it, others say nothing.
func answer(err error) Answer {
	if err == nil {
		return Yes
	}
	if _, ok := errors.AsType[lacks](err); ok {
		return No
	}
	for _, no := range []error{
		unix.ENOSYS, unix.EINVAL, unix.E2BIG, unix.ENOTTY, unix.EOPNOTSUPP,
		unix.ENOPROTOOPT, unix.EPERM, unix.EACCES, unix.EIO, fs.ErrNotExist,
	} {
		if errors.Is(err, no) {
			return No
		}
	}
	return Unknown
}

// Have tells whether Firn can use a feature.
func Have(f Feature) Result {
	for _, e := range entries() {
		if e.feature == f {
			return e.ask()
		}
	}
	return Result{Name: string(f), Detail: "no such probe"}
}

// All runs every probe: features first, then capabilities. What the context
// leaves no time for is not known.
func All(ctx context.Context) []Result {
	var all []Result
	for _, e := range entries() {
		if err := ctx.Err(); err != nil {
			all = append(all, Result{Name: string(e.feature), Detail: fmt.Sprintf("not asked: %v", err), NeededFor: e.neededFor, Required: e.required})
			continue
		}
		all = append(all, e.ask())
	}
	return append(all, Capabilities()...)
}

// Missing returns the results whose answer is no.
func Missing(all []Result) []Result {
	var no []Result
	for _, r := range all {
		if r.Answer == No {
			no = append(no, r)
		}
	}
	return no
}
