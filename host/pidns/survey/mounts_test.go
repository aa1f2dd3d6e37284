package survey

import (
	"slices"
	"testing"

	"github.com/firn-cr/firn/sdk/procfs"
)

const hostMounts = `22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
24 27 0:6 / /dev rw,relatime shared:2 - devtmpfs devtmpfs rw
26 24 0:24 / /dev/pts rw,relatime - devpts devpts rw,mode=600
29 26 0:26 / /dev/pts rw,relatime - devpts devpts rw,mode=600
`

// copiedMounts is what unshare --mount-proc makes of it.
const copiedMounts = `127 101 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
122 127 0:21 / /proc rw,relatime - proc proc rw
124 127 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw
126 124 0:24 / /dev/pts rw,relatime - devpts devpts rw,mode=600
129 126 0:26 / /dev/pts rw,relatime - devpts devpts rw,mode=600
`

const ownProc = "130 122 0:77 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw\n"

func TestCompareMounts(t *testing.T) {
	for name, c := range map[string]struct {
		theirs  string
		differs []string
	}{
		"own proc":       {copiedMounts + ownProc, nil},
		"the host's":     {copiedMounts, []string{"/proc is not its own"}},
		"another mount":  {copiedMounts + ownProc + "131 127 0:78 / /data rw,relatime - tmpfs tmpfs rw\n", []string{"/data (tmpfs) is mounted"}},
		"below proc":     {copiedMounts + ownProc + "131 130 0:78 / /proc/sys ro,relatime - tmpfs tmpfs rw\n", []string{"/proc/sys (tmpfs) is mounted"}},
		"a second proc":  {copiedMounts + ownProc + "131 130 0:78 / /proc rw,relatime - proc proc rw\n", []string{"/proc (proc) is mounted"}},
		"a missing one":  {copiedMounts[:len(copiedMounts)-len("129 126 0:26 / /dev/pts rw,relatime - devpts devpts rw,mode=600\n")] + ownProc, []string{"/dev/pts is not mounted"}},
		"other options":  {copiedMounts + "130 122 0:77 / /proc rw,relatime - proc proc rw,hidepid=2\n", []string{"/proc has the options rw,relatime and rw,hidepid=2"}},
		"propagated":     {copiedMounts + "130 122 0:77 / /proc rw,nosuid,nodev,noexec,relatime master:5 - proc proc rw\n", []string{"/proc is not private (master:5)"}},
		"read-only root": {"127 101 254:0 / / ro,relatime - ext4 /dev/vda rw,discard\n" + ownProc, nil},
	} {
		ours, err := procfs.ParseMountInfo([]byte(hostMounts))
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := procfs.ParseMountInfo([]byte(c.theirs))
		if err != nil {
			t.Fatal(err)
		}
		m := compare(ours, theirs)
		if name == "read-only root" {
			if len(m.differs) == 0 {
				t.Errorf("%s: no difference", name)
			}
			continue
		}
		if !slices.Equal(m.differs, c.differs) {
			t.Errorf("%s: differs by %q, want %q", name, m.differs, c.differs)
		}
		if m.ids[126] != 26 || name != "a missing one" && m.ids[129] != 29 || m.ids[130] != 0 {
			t.Errorf("%s: mounts are %v", name, m.ids)
		}
	}
}
