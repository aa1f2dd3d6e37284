package procfs

import (
	"bytes"
	"fmt"
	"os"
)

// VMFlags is the set of VmFlags of a mapping (proc_pid_smaps(5)).
type VMFlags uint64

// The flags, with the kernel's two letters for them.
const (
	VMRead        VMFlags = 1 << iota // rd
	VMWrite                           // wr
	VMExec                            // ex
	VMShared                          // sh
	VMMayRead                         // mr
	VMMayWrite                        // mw
	VMMayExec                         // me
	VMMayShare                        // ms
	VMGrowsDown                       // gd: stack that grows on a fault below it
	VMPFNMap                          // pf: page frames without struct page
	VMLocked                          // lo: mlock
	VMIO                              // io: memory of a device
	VMSeqRead                         // sr: MADV_SEQUENTIAL
	VMRandRead                        // rr: MADV_RANDOM
	VMDontCopy                        // dc: MADV_DONTFORK
	VMDontExpand                      // de: mremap may not grow it
	VMAccount                         // ac: counted as committed memory
	VMNoReserve                       // nr: MAP_NORESERVE
	VMHugeTLB                         // ht
	VMSync                            // sf: MAP_SYNC
	VMNonLinear                       // nl: remap_file_pages, before Linux 4.0
	VMArch1                           // ar: architecture specific
	VMWipeOnFork                      // wf: MADV_WIPEONFORK
	VMDontDump                        // dd: MADV_DONTDUMP
	VMSoftDirty                       // sd: written since the bit was cleared
	VMMixedMap                        // mm: page frames with and without struct page
	VMHugePage                        // hg: MADV_HUGEPAGE
	VMNoHugePage                      // nh: MADV_NOHUGEPAGE
	VMMergeable                       // mg: MADV_MERGEABLE
	VMBTI                             // bt: arm64 branch target identification
	VMMTE                             // mt: arm64 memory tagging
	VMUffdMissing                     // um: userfaultfd, missing pages
	VMUffdWP                          // uw: userfaultfd, write protection
	VMUffdMinor                       // ui: userfaultfd, minor faults
	VMShadowStack                     // ss
	VMSealed                          // sl: mseal
	VMDroppable                       // dp: MAP_DROPPABLE
	VMMaybeGuard                      // gu: may hold guard pages
	VMLockOnFault                     // lf: MLOCK_ONFAULT
)

// flagNames has the letters in the order of the constants.
var flagNames = [...]string{"rd", "wr", "ex", "sh", "mr", "mw", "me", "ms", "gd", "pf", "lo", "io",
	"sr", "rr", "dc", "de", "ac", "nr", "ht", "sf", "nl", "ar", "wf", "dd", "sd", "mm", "hg", "nh",
	"mg", "bt", "mt", "um", "uw", "ui", "ss", "sl", "dp", "gu", "lf"}

var flagByName = func() map[string]VMFlags {
	m := make(map[string]VMFlags, len(flagNames))
	for i, n := range flagNames {
		m[n] = 1 << i
	}
	return m
}()

// Has tells whether every flag of want is set.
func (f VMFlags) Has(want VMFlags) bool { return f&want == want }

// String returns the flags as the kernel prints them.
func (f VMFlags) String() string {
	var b []byte
	for i, n := range flagNames {
		if f>>i&1 != 0 {
			b = append(append(b, n...), ' ')
		}
	}
	return string(bytes.TrimSuffix(b, []byte(" ")))
}

// Smap is one mapping of /proc/PID/smaps. Sizes are in bytes.
type Smap struct {
	Mapping
	// Rss is what is in memory, whoever else maps it.
	Rss uint64
	// SharedRss is the part of Rss that other mappings, of this process or
	// another one, have as well.
	SharedRss uint64
	// Anonymous is memory that is not a file's.
	Anonymous uint64
	// AnonHugePages is the part of Anonymous in transparent huge pages.
	AnonHugePages uint64
	// Swap is anonymous memory that is on swap.
	Swap uint64
	// KernelPageSize is larger than a page for hugetlb mappings.
	KernelPageSize uint64
	// ProtectionKey is the key of pkey_mprotect(2); 0 where there are none.
	ProtectionKey uint64
	// Flags are the VmFlags that this package knows.
	Flags VMFlags
	// UnknownFlags are VmFlags that it does not know.
	UnknownFlags []string
}

// Smaps reads /proc/PID/smaps.
func Smaps(pid int) ([]Smap, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return nil, fmt.Errorf("read smaps: %w", err)
	}
	return ParseSmaps(b)
}

// ParseSmaps parses the content of /proc/PID/smaps.
func ParseSmaps(b []byte) ([]Smap, error) {
	var maps []Smap
	for n := 1; len(b) > 0; n++ {
		line, rest := cutLine(b)
		b = rest
		if !isHeader(line) {
			if len(maps) == 0 {
				return nil, malformed("line %d: %q before the first mapping", n, line)
			}
			if err := maps[len(maps)-1].field(line); err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			continue
		}
		m, err := ParseMapping(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if len(maps) > 0 && m.Start < maps[len(maps)-1].End {
			return nil, malformed("line %d: mapping %x-%x is not in order", n, m.Start, m.End)
		}
		maps = append(maps, Smap{Mapping: m})
	}
	return maps, nil
}

// isHeader tells the line of a mapping from the fields that follow it: fields
// start with an upper case letter, addresses with a lower case digit.
func isHeader(line []byte) bool {
	return len(line) > 0 && (line[0] >= '0' && line[0] <= '9' || line[0] >= 'a' && line[0] <= 'f')
}

// field takes over one "Key: value" line.
func (s *Smap) field(line []byte) error {
	key, val, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return malformed("field %q", line)
	}
	var dst *uint64
	switch string(key) {
	case "Rss":
		dst = &s.Rss
	case "Shared_Clean", "Shared_Dirty":
		var part uint64
		if err := parseKB(val, &part); err != nil {
			return err
		}
		s.SharedRss += part
		return nil
	case "Anonymous":
		dst = &s.Anonymous
	case "AnonHugePages":
		dst = &s.AnonHugePages
	case "Swap":
		dst = &s.Swap
	case "KernelPageSize":
		dst = &s.KernelPageSize
	case "ProtectionKey":
		v, ok := parseUint(bytes.TrimSpace(val), 10)
		if !ok {
			return malformed("field %q", line)
		}
		s.ProtectionKey = v
		return nil
	case "VmFlags":
		s.parseFlags(val)
		return nil
	default:
		return nil
	}
	return parseKB(val, dst)
}

func (s *Smap) parseFlags(b []byte) {
	for len(b) > 0 {
		if b[0] == ' ' {
			b = b[1:]
			continue
		}
		end := bytes.IndexByte(b, ' ')
		if end < 0 {
			end = len(b)
		}
		if f, ok := flagByName[string(b[:end])]; ok {
			s.Flags |= f
		} else {
			s.UnknownFlags = append(s.UnknownFlags, string(b[:end]))
		}
		b = b[end:]
	}
}

// parseKB reads "   8 kB" as bytes.
func parseKB(b []byte, dst *uint64) error {
	num, ok := bytes.CutSuffix(bytes.TrimSpace(b), []byte(" kB"))
	v, good := parseUint(num, 10)
	if !ok || !good || v > 1<<53 {
		return malformed("size %q", b)
	}
	*dst = v << 10
	return nil
}

// Rollup is the sum over all mappings of a process, in bytes.
type Rollup struct{ Rss, Anonymous, Swap uint64 }

// SmapsRollup reads /proc/PID/smaps_rollup (Linux 4.14).
func SmapsRollup(pid int) (Rollup, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return Rollup{}, fmt.Errorf("read smaps_rollup: %w", err)
	}
	return ParseSmapsRollup(b)
}

// ParseSmapsRollup parses the content of /proc/PID/smaps_rollup.
func ParseSmapsRollup(b []byte) (Rollup, error) {
	_, b = cutLine(b) // a mapping line with the first and last address
	var s Smap
	for len(b) > 0 {
		line, rest := cutLine(b)
		b = rest
		if err := s.field(line); err != nil {
			return Rollup{}, err
		}
	}
	return Rollup{Rss: s.Rss, Anonymous: s.Anonymous, Swap: s.Swap}, nil
}
