package task

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
	"github.com/firn-cr/firn/sdk/tape"
)

// readLimits reads all resource limits of a process.
func readLimits(pid int) ([]*taskpb.Limit, error) {
	limits, err := procfs.Limits(pid)
	if err != nil {
		return nil, err
	}
	records := make([]*taskpb.Limit, len(limits))
	for i, l := range limits {
		records[i] = &taskpb.Limit{Soft: l.Soft, Hard: l.Hard}
	}
	return records, nil
}

// setLimits sets all limits by prlimit64(2) of the process itself, as others
// would need CAP_SYS_RESOURCE. Late: limits would be in the way of everything
// else.
func setLimits(s *script, limits []*taskpb.Limit) error {
	if len(limits) > procfs.NLimits {
		return fmt.Errorf("%d resource limits, of %d known: %w", len(limits), procfs.NLimits, sdk.ErrCorrupt)
	}
	for i, l := range limits {
		pair := binary.LittleEndian.AppendUint64(nil, l.GetSoft())
		pair = binary.LittleEndian.AppendUint64(pair, l.GetHard())
		s.do("limit "+limitName(i), unix.SYS_PRLIMIT64, tape.Imm(0), tape.Imm(i), s.Bytes(pair).Arg(), tape.Imm(0))
	}
	return nil
}

// limitName is the name of a limit in messages.
func limitName(resource int) string {
	names := [procfs.NLimits]string{"RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK",
		"RLIMIT_CORE", "RLIMIT_RSS", "RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_AS",
		"RLIMIT_LOCKS", "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME"}
	return names[resource]
}
