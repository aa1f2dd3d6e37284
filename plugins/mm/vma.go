package mm

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk/namespace"
	"github.com/firn-cr/firn/sdk/procfs"
)

// vma is one mapping with what becomes of it.
type vma struct {
	procfs.Smap
	// kind is KIND_UNSPECIFIED for the kernel's own mappings (vdso is set),
	// for [vsyscall], which is everywhere, and for what cannot be carried.
	kind mmpb.Kind
	vdso bool
	// blocked says why the mapping cannot be carried.
	blocked string
	// file is set for KIND_FILE.
	file *file
	// object identifies the memory of KIND_SHARED.
	object objectKey
}

// objectKey identifies a shared memory object while it lives. Of a System V
// segment the inode is the id, which is unique in its IPC namespace only; ns is
// 0 for everything else.
type objectKey struct{ dev, ino, ns uint64 }

// segment tells whether the object is a System V segment.
func (k objectKey) segment() bool { return k.ns != 0 }

// subject names the mapping in a report.
func (v *vma) subject() string { return fmt.Sprintf("mapping %x-%x", v.Start, v.End) }

// Names that the kernel gives to mappings.
const (
	nameVsyscall   = "[vsyscall]"
	nameVdso       = "[vdso]"
	nameZero       = "/dev/zero"
	prefixAnon     = "[anon:"
	prefixAnonShm  = "[anon_shmem:"
	prefixVvar     = "[vvar"
	prefixStack    = "[stack"
	nameHeap       = "[heap]"
	prefixAnonFile = "anon_inode:"
	prefixSocket   = "socket:["
	prefixSegment  = "/SYSV"
)

// deadNames are deleted files that the kernel made for a purpose.
var deadNames = []struct{ prefix, what string }{
	{"/[aio]", "ring of asynchronous I/O (io_setup)"},
	{"/secretmem", "secret memory (memfd_secret)"},
	{"/anon_hugepage", "shared memory in huge pages"},
}

// refusedFlags are VmFlags of mappings that cannot be carried, in the order in
// which they are looked at.
var refusedFlags = []struct {
	flag procfs.VMFlags
	what string
}{
	{procfs.VMShadowStack, "shadow stack"},
	{procfs.VMHugeTLB, "memory in huge pages (hugetlb)"},
	{procfs.VMUffdMissing | procfs.VMUffdWP | procfs.VMUffdMinor, "registered with userfaultfd"},
	{procfs.VMMTE, "tagged memory"},
	{procfs.VMSync, "synchronous mapping (MAP_SYNC)"},
	{procfs.VMNonLinear, "non-linear mapping"},
}

// classify decides what becomes of a mapping of a live process.
func (p *plugin) classify(pid int, m procfs.Smap) vma {
	v := vma{Smap: m}
	switch {
	case m.Path == nameVsyscall:
	case isVdso(m.Path):
		v.vdso = true
	default:
		v.blocked = refusal(&m)
		if v.blocked == "" {
			p.classifySource(pid, &v)
		}
	}
	return v
}

// refusal looks at what rules a mapping out, whatever it maps.
func refusal(m *procfs.Smap) string {
	for _, r := range refusedFlags {
		if m.Flags&r.flag != 0 {
			return r.what
		}
	}
	if m.KernelPageSize > pageSize {
		return "memory in huge pages (hugetlb)"
	}
	if m.ProtectionKey != 0 {
		return fmt.Sprintf("protected by memory protection key %d", m.ProtectionKey)
	}
	if m.Deleted() {
		for _, d := range deadNames {
			if strings.HasPrefix(m.Path, d.prefix) {
				return d.what
			}
		}
	}
	if name, ok := strings.CutPrefix(m.Path, prefixAnonFile); ok {
		return "memory of " + strings.Trim(name, "[]")
	}
	if strings.HasPrefix(m.Path, prefixSocket) {
		return "memory of a socket"
	}
	return ""
}

// classifySource finds out what is mapped.
func (p *plugin) classifySource(pid int, v *vma) {
	m := &v.Smap
	switch {
	case isShared(m):
		v.kind, v.object = mmpb.Kind_KIND_SHARED, objectKey{dev: m.Dev, ino: m.Ino}
	case isSegment(m):
		classifySegment(pid, v)
	case strings.HasPrefix(m.Path, "/"):
		v.file, v.blocked = p.files.mapped(pid, m)
		if v.blocked != "" {
			return
		}
		v.kind = mmpb.Kind_KIND_FILE
		if v.file.zero {
			v.kind = mmpb.Kind_KIND_ZERO
		}
	case m.Flags&(procfs.VMPFNMap|procfs.VMIO) != 0:
		v.blocked = "memory of a device"
	case m.Ino == 0 && !m.Shared() && isAnonName(m.Path):
		v.kind = mmpb.Kind_KIND_ANONYMOUS
	case m.Path == "":
		v.blocked = "mapping without a name"
	default:
		v.blocked = "special mapping " + m.Path
	}
}

// isShared tells whether a mapping is shared anonymous memory: a deleted
// /dev/zero on the kernel's own tmpfs, or one that was given a name.
func isShared(m *procfs.Smap) bool {
	return m.Ino != 0 && m.Shared() && unix.Major(m.Dev) == 0 &&
		(m.Path == nameZero+" (deleted)" || strings.HasPrefix(m.Path, prefixAnonShm))
}

// isSegment tells whether a mapping is an attached System V segment.
func isSegment(m *procfs.Smap) bool {
	return m.Deleted() && m.Shared() && unix.Major(m.Dev) == 0 && strings.HasPrefix(m.Path, prefixSegment)
}

// classifySegment takes segments of IPC namespaces that the tree has of its
// own: whoever claims these makes sure that all who use a segment are in the
// tree, and makes it again. Those of the machine go on without the tree.
func classifySegment(pid int, v *vma) {
	ns, err := namespace.Inode(pid, "ipc")
	if err == nil {
		var own uint64
		if own, err = ownIPC(); err == nil && own == ns {
			v.blocked = "System V shared memory of the machine (start the tree with unshare --ipc)"
			return
		}
	}
	if err != nil {
		v.blocked = fmt.Sprintf("System V shared memory: %v", err)
		return
	}
	v.kind, v.object = mmpb.Kind_KIND_SHARED, objectKey{v.Dev, v.Ino, ns}
}

// ownIPC is the plugin's own IPC namespace.
var ownIPC = sync.OnceValues(func() (uint64, error) { return namespace.Inode(os.Getpid(), "ipc") })

func isAnonName(path string) bool {
	return path == "" || path == nameHeap || strings.HasPrefix(path, prefixStack) || strings.HasPrefix(path, prefixAnon)
}

// anonName is the name that PR_SET_VMA_ANON_NAME gave to the mapping.
func anonName(path string) string {
	for _, prefix := range []string{prefixAnon, prefixAnonShm} {
		if name, ok := strings.CutPrefix(path, prefix); ok {
			return strings.TrimSuffix(name, "]")
		}
	}
	return ""
}

// protBTI is PROT_BTI of arm64.
const protBTI = 0x10

// prot is the protection as mmap(2) takes it.
func prot(m *procfs.Smap) uint32 {
	var p uint32
	if m.Readable() {
		p |= unix.PROT_READ
	}
	if m.Writable() {
		p |= unix.PROT_WRITE
	}
	if m.Executable() {
		p |= unix.PROT_EXEC
	}
	if m.Flags.Has(procfs.VMBTI) {
		p |= protBTI
	}
	return p
}

// record makes the image's form of the mapping. source is the number of the
// file or object.
func (v *vma) record(source uint32) *mmpb.Mapping {
	return &mmpb.Mapping{
		Start: v.Start, End: v.End, Kind: v.kind, Prot: prot(&v.Smap), Flags: flagBits(&v.Smap),
		Name: anonName(v.Path), Source: source, Offset: v.sourceOffset(),
	}
}

// sourceOffset is the offset in the file or object; anonymous memory has none
// that means anything.
func (v *vma) sourceOffset() uint64 {
	if v.kind == mmpb.Kind_KIND_FILE || v.kind == mmpb.Kind_KIND_SHARED {
		return v.Offset
	}
	return 0
}

// isVdso tells the kernel's mappings of code and data for user space.
func isVdso(path string) bool { return path == nameVdso || strings.HasPrefix(path, prefixVvar) }
