package task

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/kern"
)

// onlineCPUs returns the mask of the CPUs of this machine that are online.
func onlineCPUs() ([]byte, error) {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if os.IsNotExist(err) { // no sysfs: what the plugin may use
		return kern.SchedGetaffinity(0)
	}
	if err != nil {
		return nil, fmt.Errorf("read CPUs: %w", err)
	}
	return parseCPUList(string(bytes.TrimSpace(b)))
}

// parseCPUList makes a mask of a list like "0-3,8".
func parseCPUList(list string) ([]byte, error) {
	mask := make([]byte, kern.MaxCPUs/8)
	for part := range strings.SplitSeq(list, ",") {
		lo, hi, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseUint(lo, 10, 16)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(hi, 10, 16)
		}
		if err != nil || last < first || last >= kern.MaxCPUs {
			return nil, fmt.Errorf("list of CPUs %q: %w", list, sdk.ErrCorrupt)
		}
		for cpu := first; cpu <= last; cpu++ {
			mask[cpu/8] |= 1 << (cpu % 8)
		}
	}
	return bytes.TrimRight(mask, "\x00"), nil
}

// cpuList names the CPUs of a mask: "0-3,8".
func cpuList(mask []byte) string {
	has := func(cpu int) bool { return cpu < len(mask)*8 && mask[cpu/8]&(1<<(cpu%8)) != 0 }
	var parts []string
	for cpu := 0; cpu < len(mask)*8; cpu++ {
		if !has(cpu) {
			continue
		}
		first := cpu
		for has(cpu + 1) {
			cpu++
		}
		if first == cpu {
			parts = append(parts, strconv.Itoa(cpu))
		} else {
			parts = append(parts, fmt.Sprintf("%d-%d", first, cpu))
		}
	}
	return strings.Join(parts, ",")
}
