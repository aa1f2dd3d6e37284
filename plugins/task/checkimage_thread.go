package task

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/openfile"
)

// niceLimit is what RLIMIT_NICE counts down from: nice 19 is 1.
const niceLimit = 20

func (c *imageCheck) checkDirectories(t *savedThread, fs *taskpb.FileSystem) {
	for _, d := range []struct {
		name string
		path []byte
	}{{"current directory", fs.GetCwd()}, {"root directory", fs.GetRoot()}} {
		if fs.GetDeletedCwd() != nil && d.name == "current directory" {
			if err := openfile.WritableDirectory(filepath.Dir(string(d.path))); err != nil {
				c.find(sdk.LevelBlock, t.ID, d.name, fmt.Sprintf("%s was deleted and cannot be made: %v", d.path, err), "")
			}
			continue
		}
		var st unix.Stat_t
		err := unix.Stat(string(d.path), &st)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			err = unix.ENOTDIR
		}
		if err != nil {
			c.find(sdk.LevelBlock, t.ID, d.name, fmt.Sprintf("%s: %v", d.path, err), "create it")
		}
	}
	if string(fs.GetRoot()) != "/" {
		c.need(t.ID, unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT", "root directory", string(fs.GetRoot()))
	}
}

// checkCredentials asks for the rights that setCredentials will use.
func (c *imageCheck) checkCredentials(t *savedThread) {
	have, want := c.rights, t.rec.GetCredentials()
	if !slices.Equal(have.GetUids(), want.GetUids()) {
		c.need(t.ID, unix.CAP_SETUID, "CAP_SETUID", "user ids", fmt.Sprint(want.GetUids()))
	}
	if !slices.Equal(have.GetGids(), want.GetGids()) {
		c.need(t.ID, unix.CAP_SETGID, "CAP_SETGID", "group ids", fmt.Sprint(want.GetGids()))
	}
	if !sameGroups(have.GetGroups(), want.GetGroups()) {
		c.need(t.ID, unix.CAP_SETGID, "CAP_SETGID", "groups", fmt.Sprint(want.GetGroups()))
	}
	if c.p.users != nil { // what is below are rights in there, which everybody has first
		c.need(t.ID, unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "user namespace", "its own")
		return
	}
	if have.GetCapBounding()&^want.GetCapBounding() != 0 {
		c.need(t.ID, unix.CAP_SETPCAP, "CAP_SETPCAP", "capabilities", "a smaller bounding set")
	}
	if (have.GetSecurebits()^want.GetSecurebits())&^secbitKeepCaps != 0 {
		c.need(t.ID, unix.CAP_SETPCAP, "CAP_SETPCAP", "securebits", fmt.Sprintf("%#x", want.GetSecurebits()))
	}
	held := want.GetCapPermitted() | want.GetCapEffective() | want.GetCapInheritable() | want.GetCapAmbient()
	if lost := held &^ have.GetCapPermitted(); lost != 0 {
		c.find(sdk.LevelBlock, t.ID, "capabilities", "the restorer lacks "+capabilityNames(lost), "run firn with them")
	}
	if lost := want.GetCapBounding() &^ have.GetCapBounding(); lost != 0 {
		c.find(sdk.LevelNote, t.ID, "bounding set", "will lack "+capabilityNames(lost)+", as the restorer's does", "")
	}
	if have.GetNoNewPrivs() && !want.GetNoNewPrivs() {
		c.find(sdk.LevelNote, t.ID, "no_new_privs", "will be set, as the restorer's is", "")
	}
}

// capabilityNames lists the capabilities of a set by number, as the kernel's
// header does: new ones need no table here.
func capabilityNames(set uint64) string {
	var names []string
	eachCapability(set, func(n int) {
		switch n {
		case unix.CAP_SYS_RESOURCE:
			names = append(names, "CAP_SYS_RESOURCE")
		case unix.CAP_SYS_ADMIN:
			names = append(names, "CAP_SYS_ADMIN")
		default:
			names = append(names, fmt.Sprintf("capability %d", n))
		}
	})
	return strings.Join(names, ", ")
}

func (c *imageCheck) checkScheduling(t *savedThread) {
	s := t.rec.GetScheduling()
	if missing, lost := affinityFinding(s, c.online); lost {
		c.find(sdk.LevelBlock, t.ID, "CPU affinity", "none of the CPUs "+cpuList(s.GetAffinity())+" is here", "")
	} else if len(missing) > 0 {
		c.find(sdk.LevelNote, t.ID, "CPU affinity", "CPUs "+cpuList(missing)+" are not here", "")
	}
	switch {
	case s.GetPolicy() == schedFIFO || s.GetPolicy() == schedRR:
		if uint64(s.GetPriority()) > c.limits[unix.RLIMIT_RTPRIO].Soft {
			c.need(t.ID, unix.CAP_SYS_NICE, "CAP_SYS_NICE", "scheduling policy", "a real-time priority")
		}
	case s.GetPolicy() == schedDeadline:
		c.need(t.ID, unix.CAP_SYS_NICE, "CAP_SYS_NICE", "scheduling policy", "a deadline")
	case fair(s.GetPolicy()) && s.GetNice() < c.nice:
		if int64(niceLimit-s.GetNice()) > int64(min(c.limits[unix.RLIMIT_NICE].Soft, 2*niceLimit)) {
			c.need(t.ID, unix.CAP_SYS_NICE, "CAP_SYS_NICE", "nice value", fmt.Sprint(s.GetNice()))
		}
	}
	if s.GetFlags()&(schedUtilClampMin|schedUtilClampMax) != 0 && !c.utilClamp {
		c.find(sdk.LevelBlock, t.ID, "utilization clamp", "this kernel has none", "")
	}
}

func (c *imageCheck) checkThread(t *savedThread) {
	if t.rec.GetIoFlusher() {
		c.need(t.ID, unix.CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE", "I/O flusher", "PR_SET_IO_FLUSHER")
	}
	for _, s := range t.rec.GetSpeculation() {
		if !slices.ContainsFunc(c.speculation, func(o specControl) bool { return o.which == s.GetWhich() }) {
			c.find(sdk.LevelBlock, t.ID, fmt.Sprintf("speculation control %d", s.GetWhich()), "cannot be set on this machine", "")
		}
	}
}
