package wire

import (
	"github.com/firn-cr/firn/sdk/internal/protocol"
	pb "github.com/firn-cr/firn/sdk/proto/pluginpb"
)

// Phase is a phase of a checkpoint or restore.
type Phase int32

// The phases, in the order of the flows.
const (
	PhaseQuiesce           = Phase(pb.Phase_PHASE_QUIESCE)
	PhaseCheck             = Phase(pb.Phase_PHASE_CHECK)
	PhasePrepare           = Phase(pb.Phase_PHASE_PREPARE)
	PhaseDump              = Phase(pb.Phase_PHASE_DUMP)
	PhaseThawed            = Phase(pb.Phase_PHASE_THAWED)
	PhaseAbort             = Phase(pb.Phase_PHASE_ABORT)
	PhaseCheckImage        = Phase(pb.Phase_PHASE_CHECK_IMAGE)
	PhaseRestoreNamespaces = Phase(pb.Phase_PHASE_RESTORE_NAMESPACES)
	PhaseRestoreObjects    = Phase(pb.Phase_PHASE_RESTORE_OBJECTS)
	PhaseRestoreMemory     = Phase(pb.Phase_PHASE_RESTORE_MEMORY)
	PhaseRestoreIdentity   = Phase(pb.Phase_PHASE_RESTORE_IDENTITY)
	PhaseLinkFiles         = Phase(pb.Phase_PHASE_LINK_FILES)
	PhaseRestoreTasks      = Phase(pb.Phase_PHASE_RESTORE_TASKS)
	PhaseSeal              = Phase(pb.Phase_PHASE_SEAL)
	PhaseResumed           = Phase(pb.Phase_PHASE_RESUMED)
	PhaseEnded             = Phase(pb.Phase_PHASE_ENDED)
)

// String returns the words that errors and reports use: "restore memory".
func (p Phase) String() string { return protocol.PhaseName(pb.Phase(p)) }
