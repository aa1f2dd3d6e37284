package procfs

import (
	"encoding/binary"
	"fmt"
	"os"
)

// Aux is one entry of the auxiliary vector (getauxval(3)).
type Aux struct{ Type, Value uint64 }

// Types of entries that a checkpoint looks at.
const (
	AuxNull        = 0
	AuxBase        = 7  // address of the dynamic loader
	AuxSysinfoEHDR = 33 // address of the vdso
)

// maxAux bounds the vector; the kernel's mm_struct has room for about 60.
const maxAux = 256

// Auxv reads /proc/PID/auxv: the raw bytes, which end with a null entry.
func Auxv(pid int) ([]byte, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", pid))
	if err != nil {
		return nil, fmt.Errorf("read auxv: %w", err)
	}
	if _, err := ParseAuxv(b); err != nil {
		return nil, err
	}
	return b, nil
}

// ParseAuxv parses the vector of a 64-bit process, without its null entry.
func ParseAuxv(b []byte) ([]Aux, error) {
	if len(b)%16 != 0 || len(b) > maxAux*16 {
		return nil, malformed("auxiliary vector of %d bytes", len(b))
	}
	var vec []Aux
	for ; len(b) > 0; b = b[16:] {
		a := Aux{binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint64(b[8:])}
		if a.Type == AuxNull {
			return vec, nil
		}
		vec = append(vec, a)
	}
	return nil, malformed("auxiliary vector without end")
}
