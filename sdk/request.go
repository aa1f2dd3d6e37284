package sdk

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/sdk/hbuf"
	"github.com/firn-cr/firn/sdk/tape"
)

// Session is what every phase of one checkpoint or restore has.
type Session struct {
	// Tree is the whole process tree.
	Tree *Tree
	// Resources are those that this plugin owns.
	Resources []Resource
	// Attended are resources of others that this plugin attends.
	Attended []Resource
	// Held is what the plugin, a [Holder], holds: set in Dump and Thawed. Of one
	// description there may be several.
	Held []HeldFile
	// Options are the flags of the command line that plugins may look at, by
	// the name of the flag without dashes ("tcp-established"). The values of one
	// that was given several times are separated by newlines.
	Options map[string]string
	// Deferred tells that the host keeps what is emitted in memory and writes it
	// after the thaw. Otherwise it writes meanwhile, and needs a processor for
	// that.
	Deferred bool
	// Host does what only the tracer can do.
	Host Host
	// Log goes to the host's log under the plugin's name.
	Log hclog.Logger
}

// Option returns the value of a flag and whether it was given.
func (s *Session) Option(name string) (string, bool) {
	v, ok := s.Options[name]
	return v, ok
}

// OptionList returns the values of a flag that may be given several times.
func (s *Session) OptionList(name string) []string {
	v, ok := s.Options[name]
	if !ok {
		return nil
	}
	return strings.Split(v, "\n")
}

// Enabled tells whether a boolean flag was given.
func (s *Session) Enabled(name string) bool { return s.Options[name] == "true" }

// QuiesceRequest is the argument of [Quiescer].
type QuiesceRequest struct {
	*Session
}

// CheckRequest is the argument of [Checker].
type CheckRequest struct {
	*Session
	// Frozen is true in the second call.
	Frozen bool
	// Again tells that the check of the frozen tree goes on: [Holder]s have found
	// files that are the plugin's. Nothing else has changed; the answer replaces the
	// one before.
	Again bool
	// Preview is true in the first call if a second one is sure to follow: what
	// takes long to find out may be left to that one, and rare blockers with it.
	// Without it the report is all that its reader gets ("firn check").
	Preview bool
}

// Level says what a [Finding] means.
type Level uint8

// The levels of findings, from harmless to final.
const (
	LevelOK    Level = iota // will be carried; shown by "firn check"
	LevelNote               // will be carried, with a difference worth telling
	LevelFlag               // needs a flag that was not given: blocks
	LevelBlock              // cannot be carried
)

// Finding is one line of a report.
type Finding struct {
	Level Level
	// Task is the process or thread; 0 if the finding is about the machine.
	Task TaskID
	// Object is the resource's object, if the finding is about one.
	Object uint64
	// Subject is what: "fd 9", "timer 3", "mapping 7f00-7f10".
	Subject string
	// Text is why: "established TCP connection 10.0.0.2:44->10.0.0.9:5432".
	Text string
	// Help is the flag or step that helps: "pass --tcp-established". For
	// LevelFlag it starts with the flag.
	Help string
}

// PrepareRequest is the argument of [Preparer].
type PrepareRequest struct {
	*Session
}

// PrepareResponse is the estimate of what Dump will emit.
type PrepareResponse struct {
	// RecordBytes and BulkBytes are what Dump is expected to emit, in bytes.
	RecordBytes, BulkBytes int64
}

// DumpRequest is the argument of [Dumper] and [Thawer].
type DumpRequest struct {
	*Session
	// Records takes the plugin's records. Safe for concurrent use.
	Records Emitter
	// Frozen tells that the tree stands still. In [Thawer] it does if it is going
	// to be ended, or left stopped, once the image is safe.
	Frozen bool
}

// EndRequest is the argument of [Ender].
type EndRequest struct {
	*Session
}

// Emitter takes records. Every error ends the session: return it.
type Emitter interface {
	// Emit writes one record. The kind's version is taken from the plugin's
	// Description; a kind that it does not declare is an error.
	Emit(ctx context.Context, kind uint32, object uint64, m proto.Message) error
	// EmitRaw writes one record with an opaque payload, which is copied.
	EmitRaw(ctx context.Context, kind uint32, object uint64, payload []byte) error
	// Bulk reserves a page-aligned buffer of up to hbuf.MaxBulk bytes. Fill
	// its Payload, Trim it, Commit it with kind and object, or Put it.
	Bulk(ctx context.Context, size int) (*hbuf.Buf, error)
}

// RestoreRequest is the argument of every phase of a restore.
type RestoreRequest struct {
	*Session
	// Records gives the plugin's own records, in the order of emission.
	Records Records
	// ImageFD is the number of a descriptor that refers to the image, the same
	// in every task of the tree (from NamespaceRestorer to Sealer). Bulk
	// offsets are file offsets of it.
	ImageFD int
	// PluginFD is the number of a pidfd of the plugin's own process, the same
	// in every task of the tree, for pidfd_getfd(2) by a tape.
	PluginFD int
	// Provide hands over the descriptor of an object in the plugin's process.
	// Only in ObjectRestorer. The plugin keeps the descriptor open until the
	// session ends; the SDK closes it then.
	Provide func(object uint64, fd int) error
	// fetch is where [RestoreRequest.Fetch] finds objects.
	fetch map[uint64]HeldFile
}

// Fetch returns a descriptor of an object that a resource of the plugin holds
// ([Holder]), whoever rebuilt it: close-on-exec, the caller's. It works from
// MemoryRestorer on; in ObjectRestorer the objects do not exist yet. It needs
// CAP_SYS_PTRACE.
func (r *RestoreRequest) Fetch(object uint64) (int, error) {
	h, ok := r.fetch[object]
	if !ok {
		return -1, fmt.Errorf("object %d is not held by the plugin, or not there yet: %w", object, ErrUnsupported)
	}
	p := pidfds{}
	defer p.close()
	fd, err := p.get(h.PID, h.FD)
	if err != nil {
		return -1, fmt.Errorf("fetch object %d: %w", object, err)
	}
	return fd, nil
}

// Records gives access to the records of a plugin in an image. It may be used
// any number of times and concurrently.
type Records interface {
	// All yields every record in the order of emission. An error ends it.
	All() iter.Seq2[Record, error]
	// Object yields the records of one object in the order of emission.
	Object(object uint64) iter.Seq2[Record, error]
	// ReadBulk reads a bulk payload into b, starting at off within it.
	ReadBulk(r Record, b []byte, off int64) error
}

// Record is one record of an image.
type Record struct {
	Kind    uint32
	Version uint16
	Object  uint64
	// Payload is nil for bulk records.
	Payload []byte
	// Bulk tells that the payload stays in the image at BulkOffset (page
	// aligned) with BulkLen bytes.
	Bulk       bool
	BulkOffset int64
	BulkLen    int64
}

// Decode unmarshals a protobuf payload.
func (r Record) Decode(m proto.Message) error {
	if err := proto.Unmarshal(r.Payload, m); err != nil {
		return &CorruptError{What: "record", Kind: r.Kind, Object: r.Object, Err: err}
	}
	return nil
}

// FileDump is the argument of [FileDumper].
type FileDump struct {
	*DumpRequest
	Resource Resource
	// FD is a duplicate of the description in the plugin's process. It shares
	// the offset and flags with the tree: do not change them. The SDK closes it.
	FD int
}

// FileRestore is the argument of [FileRestorer].
type FileRestore struct {
	*RestoreRequest
	Resource Resource
	// Own are the records of the object.
	Own []Record
}

// Host is what the host does for a plugin during a session.
type Host interface {
	// RunTapes runs each tape in its task, all at the same time, and waits for
	// all of them. Tapes for threads of one process may run concurrently;
	// several tapes for one thread run in the order given. The error is about
	// the call as a whole; each Outcome has its own.
	RunTapes(ctx context.Context, runs []tape.Run) ([]tape.Outcome, error)
	// Trace returns, for each thread, what only its tracer can read. Only while
	// the tree is frozen.
	Trace(ctx context.Context, tids []int) ([]TraceInfo, error)
	// Snapshot copies the address spaces of frozen processes, given by their PIDs,
	// as fork(2) does: the memory of the processes that it returns is that of this
	// moment, and stays it until the session ends, also when the tree runs again.
	// They never run. Shared mappings, and what madvise(2) has excluded by
	// MADV_DONTFORK or MADV_WIPEONFORK, are not copied. Read them through
	// /proc/PID/mem: process_vm_readv(2) would copy every page that is still
	// shared. One answer per process, in order; only while the tree is frozen.
	Snapshot(ctx context.Context, pids []int) ([]Snapshot, error)
	// Progress tells how far a long phase is, in bytes or objects of total.
	Progress(done, total int64)
}

// Snapshot is a copy of an address space.
type Snapshot struct {
	// PID is the process that has it.
	PID int
	// Err is why there is none: the process may have as many as it is allowed,
	// or the machine no memory for its page tables.
	Err error
}

// TraceInfo is what only the tracer of a thread can read.
type TraceInfo struct {
	TID int
	// SigMask is the set of blocked signals, bit n-1 for signal n.
	SigMask uint64
	// Pending and SharedPending are the queued signals of the thread and of its
	// process, in order: siginfo_t as the kernel gives it (128 bytes).
	Pending, SharedPending [][]byte
	// Rseq is nil if the thread has no restartable sequences registered (or the
	// kernel, before 5.13, cannot tell).
	Rseq *Rseq
	// StackPointer and InstructionPointer as at the freeze.
	StackPointer, InstructionPointer uint64
	// SeccompFilters are the thread's filters, the oldest first: a filter is
	// asked about a system call together with all before it.
	SeccompFilters []SeccompFilter
}

// SeccompFilter is one filter as PTRACE_SECCOMP_GET_FILTER (since Linux 4.4)
// and PTRACE_SECCOMP_GET_METADATA (since 4.16) give it.
type SeccompFilter struct {
	// Program is an array of struct sock_filter, 8 bytes each. It is shared by
	// the threads that have the same: do not change it.
	Program []byte
	// Flags are those of seccomp(2) that the kernel reports, which is
	// SECCOMP_FILTER_FLAG_LOG alone.
	Flags uint64
}

// Rseq is the registration of rseq(2).
type Rseq struct {
	Addr             uint64
	Size             uint32
	Signature, Flags uint32
}
