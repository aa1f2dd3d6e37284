package sdk

import (
	"context"

	"google.golang.org/protobuf/proto"
)

// APIVersion is the version of the protocol between host and plugin. A host
// refuses a plugin that speaks none of its versions.
const APIVersion = 1

// Plugin is what every plugin implements. Everything else is an optional
// interface of this package.
type Plugin interface {
	// Describe tells what the plugin is. It is called before any session, has
	// no side effects and always returns the same.
	Describe() Description
}

// Description is what a plugin tells about itself.
type Description struct {
	// Name is the name of the subsystem; the binary is firn-plugin-NAME. Lower
	// case letters, digits and dashes. The name "firn" belongs to the host.
	Name string
	// Version is the plugin's own version (semantic).
	Version string
	// Summary is one line for "firn plugin list".
	Summary string
	// Claims are the resources that the plugin saves and rebuilds.
	Claims []Claim
	// Attends are resources whose tasks the plugin wants to be called for
	// although it does not own the resource.
	Attends []Claim
	// After names plugins whose phase must have ended before the same phase of
	// this plugin starts. Plugins without an order run at the same time.
	After []string
	// Records are the record types that the plugin writes and reads.
	Records []RecordType
	// Capabilities are the rights that the plugin needs, by their kernel names
	// ("CAP_SYS_ADMIN"). A plugin that did not come with firn gets these, of those
	// that firn has, and no others. For duplicates of files of root's programs, as in
	// [FileDumper], it needs CAP_SYS_PTRACE.
	Capabilities []string
}

// RecordType declares one kind of record.
type RecordType struct {
	// Kind identifies the type within the plugin. Never reuse a number.
	Kind uint32
	// Version is written into every record of this kind. A plugin reads its
	// older versions; the host refuses a newer one than the plugin declares.
	Version uint16
	// Message is an empty message of the payload's type. Its descriptor goes
	// into the image so that "firn show" prints it without the plugin. Nil
	// means that the payload is opaque.
	Message proto.Message
	// Name is shown for opaque payloads; otherwise the message's name is used.
	Name string
	// Optional records may be skipped (with a notice) by a restore whose
	// plugin does not know the kind. Others make the restore fail.
	Optional bool
}

// Quiescer asks programs of the tree to come to rest before they are frozen, as
// only they can do it: to finish a transaction, to take no more writes, to let a
// child end. The tree runs; what is in it may change by this. It is called before a
// checkpoint looks for what is in the way, but not for "firn check". An error makes
// the checkpoint fail, and leaves the tree running.
//
// What was asked is undone in [Thawer] if the tree runs on, in [Resumer] after a
// restore, and in [Aborter] after a failure of anybody, this call's own included. A
// plugin can be killed at any time: ask for nothing that does not end by itself.
type Quiescer interface {
	Quiesce(ctx context.Context, req *QuiesceRequest) error
}

// Checker reports what would keep the resources from being saved. It has no
// side effects. It is called before the freeze, and again while the tree is
// frozen and before anything is written; the answer of the second call counts.
type Checker interface {
	Check(ctx context.Context, req *CheckRequest) ([]Finding, error)
}

// Holder is for plugins with resources that hold open file descriptions, as tasks
// do with their descriptors: a socket holds those that were sent through it and not
// received yet, a mapping holds its file. Whoever claims these files saves and
// rebuilds them, also if no task has them open.
//
// Held is called after each Check of a plugin, unless that is a preview, with the
// same request. It returns everything that the resources hold of what the plugin
// does not carry itself, each with a descriptor of the plugin's process, which
// belongs to the SDK from then on and is open until the tree runs again. The
// descriptor may be a duplicate of the description or, where only its inode
// matters, one that was opened for the purpose. In Dump, [Session.Held] has the
// objects by which they are known; the plugin's own records remember these. In a
// restore [RestoreRequest.Fetch] has the files.
type Holder interface {
	Held(ctx context.Context, req *CheckRequest) ([]HeldFile, error)
}

// HeldFile is an open file description that a resource holds.
type HeldFile struct {
	// Holder is the object of the resource.
	Holder uint64
	// FD is a descriptor of the plugin's process.
	FD int
	// Subject names the place in reports: "fd 7, in its queue".
	Subject string
	// Object is the object of the description. The host sets it.
	Object uint64
	// PID is the process that has FD, in a restore.
	PID int
}

// Preparer does what need not be done while the tree stands still. The tree
// runs; what is seen may have changed when Dump is called.
type Preparer interface {
	Prepare(ctx context.Context, req *PrepareRequest) (*PrepareResponse, error)
}

// Dumper emits the records of all resources that the plugin owns. Every task
// of the tree is frozen and traced by the host.
type Dumper interface {
	Dump(ctx context.Context, req *DumpRequest) error
}

// FileDumper is the simple form of [Dumper] for plugins that claim files: it
// is called once for every open file description. A plugin that implements
// both gets Dump only.
type FileDumper interface {
	DumpFile(ctx context.Context, f *FileDump) error
}

// Thawer is called after the tree runs again, or, with Frozen set, before it is
// ended. Records may still be emitted.
type Thawer interface {
	Thawed(ctx context.Context, req *DumpRequest) error
}

// Ender is called when the tree has been ended, after the image was safe: none of
// its tasks is left. What it does cannot be undone by anybody; an error is
// reported, but the checkpoint has succeeded. It is not called for a tree that
// runs on.
type Ender interface {
	Ended(ctx context.Context, req *EndRequest) error
}

// ImageChecker reports what keeps the records from being rebuilt on this
// machine. Nothing was created yet, and nothing may be created by it.
type ImageChecker interface {
	CheckImage(ctx context.Context, req *RestoreRequest) ([]Finding, error)
}

// NamespaceRestorer puts the tasks into their namespaces. Every process of the
// tree exists with its main thread, and runs in the restorer's namespaces.
type NamespaceRestorer interface {
	RestoreNamespaces(ctx context.Context, req *RestoreRequest) error
}

// ObjectRestorer opens every object of the plugin in the plugin's own process
// and hands them to [RestoreRequest.Provide]; the host installs them in the
// tasks that hold them.
type ObjectRestorer interface {
	RestoreObjects(ctx context.Context, req *RestoreRequest) error
}

// FileRestorer is the simple form of [ObjectRestorer]: it is called once for
// each object and returns a file descriptor of the plugin's process, which the
// SDK closes once it is installed.
type FileRestorer interface {
	RestoreFile(ctx context.Context, f *FileRestore) (fd int, err error)
}

// MemoryRestorer builds the address spaces. Every process has one thread,
// which lives in the host's seed program: nothing in its address space is of
// value outside [Process.Reserved].
type MemoryRestorer interface {
	RestoreMemory(ctx context.Context, req *RestoreRequest) error
}

// IdentityRestorer is called before processes enter their user namespaces, if any
// do ([Process.UserNamespace]). They have their memory and files, one thread, and
// the restorer's rights for the last time: it sets what they could not set later,
// above all users and groups that have no number inside, and does not take the
// rights away (prctl(2), PR_SET_KEEPCAPS). Whoever enters a namespace has all
// capabilities there and none outside.
type IdentityRestorer interface {
	RestoreIdentity(ctx context.Context, req *RestoreRequest) error
}

// FileLinker completes objects that refer to others by number, after every
// file is installed in every task.
type FileLinker interface {
	LinkFiles(ctx context.Context, req *RestoreRequest) error
}

// TaskRestorer sets attributes of tasks. All threads exist, with signals
// blocked.
type TaskRestorer interface {
	RestoreTasks(ctx context.Context, req *RestoreRequest) error
}

// Sealer sets what takes rights away (credentials, capabilities, seccomp,
// limits). It is the last phase before the registers.
type Sealer interface {
	Seal(ctx context.Context, req *RestoreRequest) error
}

// Resumer is called when the restored tree runs.
type Resumer interface {
	Resumed(ctx context.Context, req *RestoreRequest) error
}

// Aborter is called once when a checkpoint or restore fails in any phase after
// the session was opened. It releases what the plugin holds.
type Aborter interface {
	Abort(ctx context.Context) error
}
