package sdk

// Kind is the kind of a resource.
type Kind uint8

// The kinds of resources that the host enumerates.
const (
	KindTask      Kind = 1 // a process; its threads are part of it
	KindFile      Kind = 2 // an open file description
	KindVMA       Kind = 3 // a range of an address space
	KindNamespace Kind = 4 // a namespace that differs from the host's own
)

// String returns the name that reports and errors use.
func (k Kind) String() string {
	switch k {
	case KindTask:
		return "task"
	case KindFile:
		return "file"
	case KindVMA:
		return "vma"
	case KindNamespace:
		return "namespace"
	}
	return "unknown"
}

// FileType is what stat(2) says of an open file.
type FileType string

// File types. TypeAnon stands for anon_inode files, whose mode has no type.
const (
	TypeRegular   FileType = "reg"
	TypeDirectory FileType = "dir"
	TypeSymlink   FileType = "lnk"
	TypeChar      FileType = "chr"
	TypeBlock     FileType = "blk"
	TypeFIFO      FileType = "fifo"
	TypeSocket    FileType = "sock"
	TypeAnon      FileType = "anon"
)

// Any matches every value of a number in a [Claim].
const Any = -1

// Claim says which resources a plugin takes. Every field that is set must
// match. The claim with more specific fields wins; an exact tie between two
// plugins is an error that names both.
type Claim struct {
	Kind Kind
	// Type restricts files.
	Type FileType
	// Anon is the name of an anonymous inode, a file's or that of a mapping, as the
	// kernel writes it, which is with brackets for most: "[eventpoll]".
	Anon string
	// Device restricts character and block devices and mappings of them.
	Device *Device
	// Socket restricts sockets.
	Socket *Socket
	// Path is a glob over the path of a file or mapping (path.Match per
	// component; "**" matches any number of components).
	Path string
	// FS is the name of the file system's type as in /proc/filesystems.
	FS string
	// Namespace is the name under /proc/PID/ns: "uts".
	Namespace string
}

// Device matches a device number. Minor may be [Any].
type Device struct{ Major, Minor int }

// Socket matches a socket by the values of socket(2). Type and Protocol may be
// [Any].
type Socket struct{ Family, Type, Protocol int }
