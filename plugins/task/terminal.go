package task

import (
	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// shellJob is the flag by which a tree leaves its terminal behind.
const shellJob = "shell-job"

// Device numbers: Documentation/admin-guide/devices.txt.
const (
	ttyMajor    = 4
	ttyAuxMajor = 5 // /dev/tty 0, /dev/console 1, /dev/ptmx 2
	ptsMajor    = 136
	ptsMajors   = 8
)

// attendedTerminals are the files by which a terminal is open. Whoever owns
// them carries the terminal and makes it the controlling one of its session;
// this plugin sees to it that no session loses its terminal because nobody has
// it open.
func attendedTerminals() []sdk.Claim {
	var claims []sdk.Claim
	for major := ptsMajor; major < ptsMajor+ptsMajors; major++ {
		claims = append(claims, terminalClaim(major))
	}
	return append(claims, terminalClaim(ttyMajor), terminalClaim(ttyAuxMajor))
}

func terminalClaim(major int) sdk.Claim {
	return sdk.Claim{Kind: sdk.KindFile, Type: sdk.TypeChar, Device: &sdk.Device{Major: major, Minor: sdk.Any}}
}

// terminals are those that the tree has open.
type terminals struct {
	shellJob bool
	masters  map[string]bool // names of slaves ("pts/3") whose master is in the tree
	open     map[uint64]bool // devices
	current  bool            // some were opened as /dev/tty
}

func findTerminals(sess *sdk.Session) *terminals {
	t := &terminals{shellJob: sess.Enabled(shellJob), masters: map[string]bool{}, open: map[uint64]bool{}}
	for i := range sess.Attended {
		f := sess.Attended[i].File
		if f == nil || len(f.Refs) == 0 {
			continue
		}
		t.open[f.Rdev] = true
		switch f.Rdev {
		case unix.Mkdev(ttyAuxMajor, 0):
			t.current = true
		case unix.Mkdev(ttyAuxMajor, 2):
			t.master(sess.Tree, f.Refs[0])
		}
	}
	return t
}

// master notes which slave a master has. Files may be closed meanwhile, as long
// as the tree runs.
func (t *terminals) master(tree *sdk.Tree, ref sdk.FDRef) {
	p := tree.Process(ref.Task)
	if p == nil {
		return
	}
	if info, err := procfs.ReadFDInfo(p.PID, ref.FD); err == nil && info.TTYIndex != nil {
		st := procfs.TaskStat{TTY: uint32(ptsMajor+*info.TTYIndex>>8)<<8 | uint32(*info.TTYIndex&0xff)}
		t.masters[st.Terminal()] = true
	}
}

// terminal refuses a controlling terminal that would be lost.
func (x *examination) terminal(stat *procfs.TaskStat) {
	name := stat.Terminal()
	// new_encode_dev: minor bits 0-7 and 20-31, major bits 8-19.
	dev := unix.Mkdev(stat.TTY>>8&0xfff, stat.TTY&0xff|stat.TTY>>12&0xfff00)
	switch t := x.ttys; {
	case name == "" || t.masters[name]:
	case !t.shellJob:
		x.add(0, sdk.LevelFlag, "controlling terminal "+name, "its other side is outside of the tree",
			"--"+shellJob+" leaves it behind; the tree gets the terminal of firn restore")
	case !t.open[dev] && !t.current:
		x.block(0, "controlling terminal "+name, "no process of the tree has it open", "start the tree with setsid(1)")
	}
}
