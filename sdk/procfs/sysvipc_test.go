package procfs

import (
	"errors"
	"testing"
)

const sysvShm = `       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap
     -4660      98307  3604                 12388 12177 12178      1 65534     0     5     6          0 1795527905 1795527905                  4096                     0
`

func TestSysVIPC(t *testing.T) {
	got, err := ParseSysVIPC(SharedMemory, []byte(sysvShm))
	if err != nil || len(got) != 1 {
		t.Fatal(got, err)
	}
	o := got[0]
	if o.ID != 98307 || o.Key != -4660 || o.Mode != 0o3604 || o.UID != 65534 || o.CUID != 5 || o.CGID != 6 ||
		o.Numbers["size"] != 12388 || o.Numbers["nattch"] != 1 || o.Numbers["ctime"] != 1795527905 {
		t.Errorf("%+v", o)
	}
	if got, err := ParseSysVIPC(Semaphores, []byte("key semid perms\n")); err != nil || len(got) != 0 {
		t.Error(got, err)
	}
	for _, text := range []string{"key semid\n1\n", "key semid\nx 1\n", "key semid\n1 -1\n", "key shmid\n1 1\n", "key semid perms\n1 1 9\n"} {
		if got, err := ParseSysVIPC(Semaphores, []byte(text)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, kind := range []SysVKind{SharedMemory, MessageQueues, Semaphores} {
		if _, err := SysVIPC(kind); err != nil {
			t.Error(err)
		}
	}
}

func FuzzSysVIPC(f *testing.F) {
	f.Add([]byte(sysvShm))
	f.Fuzz(func(t *testing.T, b []byte) {
		objects, err := ParseSysVIPC(SharedMemory, b)
		for _, o := range objects {
			if err == nil && o.ID < 0 {
				t.Errorf("id %d", o.ID)
			}
		}
	})
}
