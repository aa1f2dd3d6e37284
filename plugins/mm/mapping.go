package mm

import (
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk/tape"
)

// builder makes the script that builds one address space.
type builder struct {
	*script
	img *image
	sp  *spaceImage
	pid int
	// loads are the pages that the task reads, in the order of their addresses.
	loads []load
	// lanes is what the plugin puts into the task; nil if nothing.
	lanes *lanes
	// filled has, for each mapping, how many bytes are put into it.
	filled []uint64
	// scratchAt and freeFD are an address and a descriptor that are free.
	scratchAt uint64
	freeFD    int
	// ran is how many tapes were run.
	ran int
	// objects are the descriptors, in the plugin, of shared memory.
	objects map[uint32]int
	// held are those of files without a name, by the file.
	held map[uint32]heldImage
	// outcomes are those of the tapes that were run.
	outcomes []tape.Outcome
	// imageFD and pluginFD are descriptors of the task.
	imageFD, pluginFD int
	open              openFile
}

// openFile is the file that the last mapping came from: the segments of a
// library are neighbors and are mapped from one descriptor.
type openFile struct {
	id    uint32
	flags int
	fd    tape.Result
	valid bool
}

// ensure makes room like room, and closes the open file if that starts another
// tape, where its descriptor is not known.
func (b *builder) ensure(calls, data int) {
	if b.full(calls+1, data) {
		b.closeFile()
		b.split()
	}
}

func (b *builder) closeFile() {
	if b.open.valid {
		b.tape.Call(unix.SYS_CLOSE, b.open.fd.Arg())
		b.open.valid = false
	}
}

// openAt opens a file once for all of its mappings that follow each other.
func (b *builder) openAt(id uint32, path string, flags int) tape.Arg {
	if o := &b.open; !o.valid || o.id != id || o.flags != flags {
		b.closeFile()
		name := b.tape.String(path)
		fd := b.tape.Call(unix.SYS_OPENAT, tape.Imm(unix.AT_FDCWD), name.Arg(), tape.Imm(flags|unix.O_CLOEXEC))
		b.open = openFile{id: id, flags: flags, fd: fd, valid: true}
	}
	return b.open.fd.Arg()
}

// mapAll emits the calls that make every mapping.
func (b *builder) mapAll() {
	for i, m := range b.sp.mappings {
		b.ensure(8, maxPath+maxName)
		b.mark(m, b.img.pathOf(m))
		b.mapOne(m, initialProt(m, b.filled[i] > 0))
	}
	b.ensure(1, 0)
	b.closeFile()
}

// pathOf is the file that a mapping shows; empty if none.
func (img *image) pathOf(m *mmpb.Mapping) string {
	if m.Kind == mmpb.Kind_KIND_FILE {
		return img.files[m.Source].Path
	}
	return ""
}

// initialProt is the protection that a mapping gets at first. Memory that was
// writable once is accounted for, and stays so when it is made read-only: such
// a range (the relocated part of a program, say) has to go the same way, or it
// has other flags and becomes one with its neighbors.
func initialProt(m *mmpb.Mapping, filled bool) uint32 {
	accounted := has(m, mmpb.Flag_FLAG_ACCOUNT) && !has(m, mmpb.Flag_FLAG_SHARED)
	if filled || accounted {
		return m.Prot | unix.PROT_WRITE
	}
	return m.Prot
}

// mapOne emits mmap(2) and what has to follow it before the memory is filled.
func (b *builder) mapOne(m *mmpb.Mapping, prot uint32) {
	fd, flags, offset := tape.Imm(-1), mmapFlags(m), tape.Imm(m.Offset)
	var object tape.Result
	fetched := false
	switch m.Kind {
	case mmpb.Kind_KIND_FILE:
		mode, write := unix.O_RDONLY, has(m, mmpb.Flag_FLAG_SHARED) && has(m, mmpb.Flag_FLAG_MAY_WRITE)
		if write {
			mode = unix.O_RDWR
		}
		if h, ok := b.held[m.Source]; ok {
			object, fetched = b.fetch(h.fd(write)), true
			fd = object.Arg()
			break
		}
		fd = b.openAt(m.Source, b.img.files[m.Source].Path, mode)
	case mmpb.Kind_KIND_ZERO:
		fd, offset = b.openAt(0, nameZero, unix.O_RDONLY), tape.Imm(0)
	case mmpb.Kind_KIND_SHARED:
		if s := b.img.shared[m.Source]; s.record.Segment != nil {
			b.attach(m, s, prot)
			b.advise(m, adviceBefore)
			return
		}
		if b.img.shared[m.Source].whole == m {
			flags |= unix.MAP_ANONYMOUS
			break
		}
		object, fetched = b.fetch(b.objects[m.Source]), true
		fd = object.Arg()
	}
	addr, length := tape.Imm(m.Start), tape.Imm(m.End-m.Start)
	b.tape.Call(unix.SYS_MMAP, addr, length, tape.Imm(prot), tape.Imm(flags), fd, offset)
	if fetched {
		b.tape.Call(unix.SYS_CLOSE, object.Arg())
	}
	if m.Name != "" {
		// Without CONFIG_ANON_VMA_NAME there are no names; nothing depends on them.
		b.tape.Try(unix.SYS_PRCTL, tape.Imm(unix.PR_SET_VMA), tape.Imm(unix.PR_SET_VMA_ANON_NAME), addr, length, b.tape.String(m.Name).Arg())
	}
	b.advise(m, adviceBefore)
}

// fetch emits the call that takes a descriptor out of the plugin.
func (b *builder) fetch(fd int) tape.Result {
	return b.tape.Call(unix.SYS_PIDFD_GETFD, tape.Imm(b.pluginFD), tape.Imm(fd), tape.Imm(0))
}

func (b *builder) advise(m *mmpb.Mapping, list []advice) {
	for _, a := range list {
		if !has(m, a.flag) {
			continue
		}
		add := b.tape.Try
		if a.must {
			add = b.tape.Call
		}
		add(unix.SYS_MADVISE, tape.Imm(m.Start), tape.Imm(m.End-m.Start), tape.Imm(a.call))
	}
}

// finishAll emits what comes after the memory has been filled: guards, the
// final protection, advice, locks, which forbid guards, and at last seals, which
// forbid everything.
func (b *builder) finishAll() {
	for _, g := range b.sp.guards {
		b.room(1, 0)
		b.tape.Call(unix.SYS_MADVISE, tape.Imm(g.start), tape.Imm(g.len()), tape.Imm(madvGuardInstall))
	}
	for i, m := range b.sp.mappings {
		b.room(3+len(adviceAfter), 0)
		b.mark(m, b.img.pathOf(m))
		if initialProt(m, b.filled[i] > 0) != m.Prot {
			b.tape.Call(unix.SYS_MPROTECT, tape.Imm(m.Start), tape.Imm(m.End-m.Start), tape.Imm(m.Prot))
		}
		b.advise(m, adviceAfter)
		b.lock(m)
		if has(m, mmpb.Flag_FLAG_SEALED) {
			b.tape.Call(unix.SYS_MSEAL, tape.Imm(m.Start), tape.Imm(m.End-m.Start), tape.Imm(0)) // since Linux 6.10
		}
	}
}

// lock emits mlock2(2).
func (b *builder) lock(m *mmpb.Mapping) {
	if !has(m, mmpb.Flag_FLAG_LOCKED) {
		return
	}
	flags := 0
	if has(m, mmpb.Flag_FLAG_LOCK_ON_FAULT) {
		flags = unix.MLOCK_ONFAULT
	}
	b.tape.Call(unix.SYS_MLOCK2, tape.Imm(m.Start), tape.Imm(m.End-m.Start), tape.Imm(flags))
}
