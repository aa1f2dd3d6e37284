package arch

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
)

// VDSO returns the address and a copy of the vdso of this process. The image is
// the same in every process of this kernel; the address is not.
func VDSO() (start uint64, image []byte, err error) {
	v, err := ownVDSO()
	return v.start, v.image, err
}

type vdso struct {
	start uint64
	image []byte
}

var ownVDSO = sync.OnceValues(func() (vdso, error) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return vdso{}, fmt.Errorf("find vdso: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if !strings.HasSuffix(lines.Text(), "[vdso]") {
			continue
		}
		var start, end uint64
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x", &start, &end); err != nil {
			return vdso{}, fmt.Errorf("find vdso: %w", err)
		}
		return readVDSO(start, end)
	}
	if err := lines.Err(); err != nil {
		return vdso{}, fmt.Errorf("find vdso: %w", err)
	}
	return vdso{}, errors.New("find vdso: this process has none")
})

func readVDSO(start, end uint64) (vdso, error) {
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		return vdso{}, fmt.Errorf("read vdso: %w", err)
	}
	defer mem.Close()
	image := make([]byte, end-start)
	if _, err := mem.ReadAt(image, int64(start)); err != nil {
		return vdso{}, fmt.Errorf("read vdso: %w", err)
	}
	return vdso{start: start, image: image}, nil
}
