package task

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/tape"
)

// capVersion3 is _LINUX_CAPABILITY_VERSION_3: two words of 32 bits a set.
const capVersion3 = 0x20080522

// maxGroups is NGROUPS_MAX.
const maxGroups = 65536

// secbitKeepCaps is the bit of the securebits that PR_SET_KEEPCAPS sets.
const secbitKeepCaps = 1 << 4

// credentialsOf makes the record from what /proc says; the securebits are only
// the task's to tell.
func credentialsOf(st *procfs.TaskStatus) *taskpb.Credentials {
	return &taskpb.Credentials{
		Uids: slices.Clone(st.UID[:]), Gids: slices.Clone(st.GID[:]), Groups: st.Groups,
		CapInheritable: st.CapInh, CapPermitted: st.CapPrm, CapEffective: st.CapEff,
		CapBounding: st.CapBnd, CapAmbient: st.CapAmb, NoNewPrivs: st.NoNewPrivs,
	}
}

// askSecurebits asks for the securebits, of which keepcaps is one.
func askSecurebits(q *inquiry) {
	q.prctl(unix.PR_GET_SECUREBITS, nil, func(of *asked, v uint64) { of.thread.Credentials.Securebits = uint32(v) })
}

// validCredentials checks what the record must have for setCredentials.
func validCredentials(c *taskpb.Credentials) error {
	if len(c.GetUids()) != 4 || len(c.GetGids()) != 4 || len(c.GetGroups()) > maxGroups {
		return fmt.Errorf("credentials: %d uids, %d gids, %d groups: %w",
			len(c.GetUids()), len(c.GetGids()), len(c.GetGroups()), sdk.ErrCorrupt)
	}
	return nil
}

// setCredentials turns the credentials that a thread has into those of the
// record. Only what differs is set, so that a restorer without rights can
// restore what has none. The order matters (capabilities(7)):
//
//   - groups need CAP_SETGID, users CAP_SETUID, and a change of the users from
//     0 would drop capabilities: keepcaps saves the permitted set, and the
//     effective one is raised again
//   - the inheritable set may only grow within the bounding set, so it comes
//     before that; ambient capabilities must be permitted and inheritable
//   - the bounding set and securebits need CAP_SETPCAP, so the last two sets
//     come at the very end
//
// A thread in a user namespace names users and groups as they are called there.
func setCredentials(s *script, have, want *taskpb.Credentials, ns *sdk.UserNamespace) {
	setIDs(s, have, want, ns)
	full := have.GetCapPermitted()
	inheritable := want.GetCapInheritable()
	if have.GetCapInheritable() != inheritable {
		setCapabilities(s, full, full, inheritable)
	}
	setAmbient(s, have, want)
	eachCapability(have.GetCapBounding()&^want.GetCapBounding(), func(c int) {
		s.do(fmt.Sprintf("bounding set without capability %d", c), unix.SYS_PRCTL,
			tape.Imm(unix.PR_CAPBSET_DROP), tape.Imm(c))
	})
	setSecurebits(s, have, want)
	if want.GetNoNewPrivs() && !have.GetNoNewPrivs() {
		s.do("no_new_privs", unix.SYS_PRCTL, tape.Imm(unix.PR_SET_NO_NEW_PRIVS), tape.Imm(1))
	}
	setCapabilities(s, want.GetCapEffective(), want.GetCapPermitted(), inheritable)
}

// setIDs sets users and groups and keeps the capabilities.
func setIDs(s *script, have, want *taskpb.Credentials, ns *sdk.UserNamespace) {
	uids, gids, groups := want.GetUids(), want.GetGids(), want.GetGroups()
	if ns != nil {
		uids, gids, groups = inside(ns.UIDs, uids), inside(ns.GIDs, gids), inside(ns.GIDs, groups)
	}
	if !sameGroups(have.GetGroups(), want.GetGroups()) {
		var list []byte
		for _, g := range groups {
			list = binary.LittleEndian.AppendUint32(list, g)
		}
		s.do("supplementary groups", unix.SYS_SETGROUPS, tape.Imm(len(groups)), s.Bytes(list).Arg())
	}
	if !slices.Equal(have.GetGids(), want.GetGids()) {
		s.do("group ids", unix.SYS_SETRESGID, tape.Imm(gids[procfs.IDReal]),
			tape.Imm(gids[procfs.IDEffective]), tape.Imm(gids[procfs.IDSaved]))
		s.do("file system group id", unix.SYS_SETFSGID, tape.Imm(gids[procfs.IDFileSystem]))
	}
	if !slices.Equal(have.GetUids(), want.GetUids()) {
		full := have.GetCapPermitted()
		setUsers(s, uids, func() { setCapabilities(s, full, full, have.GetCapInheritable()) })
	}
}

// setUsers sets the four users; raise makes the effective set whole again
// after each call that may have cleared it.
func setUsers(s *script, uids []uint32, raise func()) {
	s.do("keepcaps", unix.SYS_PRCTL, tape.Imm(unix.PR_SET_KEEPCAPS), tape.Imm(1))
	s.do("user ids", unix.SYS_SETRESUID, tape.Imm(uids[procfs.IDReal]),
		tape.Imm(uids[procfs.IDEffective]), tape.Imm(uids[procfs.IDSaved]))
	raise()
	s.do("file system user id", unix.SYS_SETFSUID, tape.Imm(uids[procfs.IDFileSystem]))
	raise()
}

// sameGroups compares the groups as sets: the kernel keeps them sorted.
func sameGroups(a, b []uint32) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// setCapabilities sets three sets of the thread with capset(2).
//
//	header: 0 version   4 pid (0: the caller)
//	data:   0 effective 4 permitted 8 inheritable, the lower 32 bits of each;
//	        12 to 23 the upper ones
func setCapabilities(s *script, effective, permitted, inheritable uint64) {
	le := binary.LittleEndian
	header := le.AppendUint32(le.AppendUint32(nil, capVersion3), 0)
	var data []byte
	for shift := 0; shift < 64; shift += 32 {
		for _, set := range []uint64{effective, permitted, inheritable} {
			data = le.AppendUint32(data, uint32(set>>shift))
		}
	}
	s.do("capabilities", unix.SYS_CAPSET, s.Bytes(header).Arg(), s.Bytes(data).Arg())
}

func setAmbient(s *script, have, want *taskpb.Credentials) {
	// A change of the users may have cleared the set: raising is repeated.
	if have.GetCapAmbient()&^want.GetCapAmbient() != 0 {
		s.do("ambient set", unix.SYS_PRCTL, tape.Imm(unix.PR_CAP_AMBIENT), tape.Imm(unix.PR_CAP_AMBIENT_CLEAR_ALL))
	}
	eachCapability(want.GetCapAmbient(), func(c int) {
		s.do(fmt.Sprintf("ambient set with capability %d", c), unix.SYS_PRCTL,
			tape.Imm(unix.PR_CAP_AMBIENT), tape.Imm(unix.PR_CAP_AMBIENT_RAISE), tape.Imm(c))
	})
}

// setSecurebits sets the bits. Keepcaps alone needs no right, and may have
// been changed by setUsers.
func setSecurebits(s *script, have, want *taskpb.Credentials) {
	bits := want.GetSecurebits()
	if (have.GetSecurebits()^bits)&^secbitKeepCaps != 0 {
		s.do("securebits", unix.SYS_PRCTL, tape.Imm(unix.PR_SET_SECUREBITS), tape.Imm(bits))
		return
	}
	keep := bits & secbitKeepCaps / secbitKeepCaps
	if have.GetSecurebits() != bits || !slices.Equal(have.GetUids(), want.GetUids()) {
		s.do("keepcaps", unix.SYS_PRCTL, tape.Imm(unix.PR_SET_KEEPCAPS), tape.Imm(keep))
	}
}

func eachCapability(set uint64, f func(c int)) {
	for c := range 64 {
		if set&(1<<c) != 0 {
			f(c)
		}
	}
}

// verifyCredentials compares what a thread has got with what it should have.
// setfsuid(2) and setfsgid(2) do not tell when they fail, and a mistake here
// would give rights away.
func verifyCredentials(got, want *taskpb.Credentials) error {
	for _, f := range []struct {
		what string
		same bool
	}{
		{"user ids", slices.Equal(got.GetUids(), want.GetUids())},
		{"group ids", slices.Equal(got.GetGids(), want.GetGids())},
		{"supplementary groups", sameGroups(got.GetGroups(), want.GetGroups())},
		{"inheritable capabilities", got.GetCapInheritable() == want.GetCapInheritable()},
		{"permitted capabilities", got.GetCapPermitted() == want.GetCapPermitted()},
		{"effective capabilities", got.GetCapEffective() == want.GetCapEffective()},
		{"ambient capabilities", got.GetCapAmbient() == want.GetCapAmbient()},
		{"bounding set", got.GetCapBounding()&^want.GetCapBounding() == 0},
		{"no_new_privs", got.GetNoNewPrivs() == want.GetNoNewPrivs()},
	} {
		if !f.same {
			return fmt.Errorf("%s did not become those of the checkpoint: %w", f.what, sdk.ErrNotPermitted)
		}
	}
	return nil
}
