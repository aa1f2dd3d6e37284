package procfs

import (
	"bytes"
	"encoding/hex"
	"math"
	"strings"
)

// FileHandle is what name_to_handle_at(2) gives and open_by_handle_at(2) takes.
type FileHandle struct {
	Type   int32
	Handle []byte
}

// InotifyWatch is one watch of an inotify(7) instance.
type InotifyWatch struct {
	// WD is the number that inotify_add_watch(2) returned.
	WD int32
	// Ino is the inode, Dev the device of its superblock as makedev(3), which
	// is not st_dev on btrfs.
	Ino, Dev uint64
	// Mask are the events; since Linux 5.19 with IN_ONESHOT and IN_EXCL_UNLINK.
	Mask uint32
	// Handle is empty where the file system has none.
	Handle FileHandle
}

// FanotifyInfo is the state of a fanotify(7) group.
type FanotifyInfo struct {
	// Flags and EventFlags are the arguments of fanotify_init(2).
	Flags, EventFlags uint32
	Marks             []FanotifyMark
}

// FanotifyObject is what a mark is on.
type FanotifyObject string

// The objects of marks, as fdinfo calls them.
const (
	FanotifyInode      FanotifyObject = "ino"
	FanotifyMount      FanotifyObject = "mnt_id"
	FanotifyFilesystem FanotifyObject = "sdev"
	FanotifyMountNS    FanotifyObject = "mnt_ns"
)

// FanotifyMark is one mark of a fanotify(7) group.
type FanotifyMark struct {
	Object FanotifyObject
	// MountID is set for mounts.
	MountID int
	// Ino, Dev and Handle are as for [InotifyWatch]; of a file system only Dev
	// is set.
	Ino, Dev uint64
	Handle   FileHandle
	// Flags are FAN_MARK_IGNORED_SURV_MODIFY, FAN_MARK_EVICTABLE and
	// FAN_MARK_IGNORE.
	Flags uint32
	// Mask are the events, Ignored those that are not reported.
	Mask, Ignored uint32
}

func (p *fdinfoParser) inotify(val []byte) bool {
	f, ok := notifyFields("wd:" + string(val))
	if !ok || f["wd"] > math.MaxInt32 {
		return false
	}
	w := InotifyWatch{WD: int32(f["wd"]), Ino: f["ino"], Dev: kernelDev(f["sdev"]), Mask: uint32(f["mask"])}
	w.Handle, ok = notifyHandle(val)
	p.info.Inotify = append(p.info.Inotify, w)
	return ok
}

// fanotify takes a line that starts with "fanotify OBJECT:", or with
// "fanotify flags:" for the group itself.
func (p *fdinfoParser) fanotify(object string, val []byte) bool {
	f, ok := notifyFields(object + ":" + string(val))
	if !ok {
		return false
	}
	if p.info.Fanotify == nil {
		p.info.Fanotify = &FanotifyInfo{}
	}
	g := p.info.Fanotify
	if object == "flags" {
		g.Flags, g.EventFlags = uint32(f["flags"]), uint32(f["event-flags"])
		return true
	}
	m := FanotifyMark{
		Object: FanotifyObject(object), MountID: int(f["mnt_id"]), Ino: f["ino"], Dev: kernelDev(f["sdev"]),
		Flags: uint32(f["mflags"]), Mask: uint32(f["mask"]), Ignored: uint32(f["ignored_mask"]),
	}
	m.Handle, ok = notifyHandle(val)
	g.Marks = append(g.Marks, m)
	return ok && f["mnt_id"] <= math.MaxInt32
}

// notifyFields reads "wd:2 ino:986537 sdev:fe00000 mask:80000002 ...": all of
// it is hexadecimal. Everything but ino has 32 bits.
func notifyFields(text string) (map[string]uint64, bool) {
	out := map[string]uint64{}
	for field := range strings.FieldsSeq(text) {
		key, val, ok := strings.Cut(field, ":")
		if !ok {
			return nil, false
		}
		if key == "f_handle" {
			continue
		}
		v, ok := parseUint([]byte(val), 16)
		if !ok || key != "ino" && v > math.MaxUint32 {
			return nil, false
		}
		out[key] = v
	}
	return out, true
}

// notifyHandle reads "... fhandle-bytes:8 fhandle-type:1 f_handle:37659800a0e4f68d".
func notifyHandle(line []byte) (h FileHandle, ok bool) {
	_, rest, found := bytes.Cut(line, []byte("fhandle-bytes:"))
	if !found {
		return h, true
	}
	f := fields{rest: rest}
	size := f.hex(' ')
	rest, ok1 := bytes.CutPrefix(f.rest, []byte("fhandle-type:"))
	f.rest = rest
	kind := f.hex(' ')
	rest, ok2 := bytes.CutPrefix(f.rest, []byte("f_handle:"))
	if f.bad || !ok1 || !ok2 || kind > math.MaxInt32 {
		return h, false
	}
	b := make([]byte, hex.DecodedLen(len(rest)))
	if _, err := hex.Decode(b, rest); err != nil || uint64(len(b)) != size {
		return h, false
	}
	if len(b) == 0 {
		b = nil
	}
	return FileHandle{Type: int32(kind), Handle: b}, true
}
