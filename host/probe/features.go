package probe

import "sync"

// The features that are asked for.
const (
	Ptrace           Feature = "ptrace of another task"
	SuspendSeccomp   Feature = "ptrace: suspend seccomp"
	RseqConfig       Feature = "ptrace: rseq configuration"
	VDSOGadget       Feature = "vdso gadget"
	CloneSetTID      Feature = "clone3 with set_tid"
	SetMMMap         Feature = "prctl PR_SET_MM_MAP"
	MapVDSO          Feature = "vdso at a chosen address"
	TimerIDs         Feature = "POSIX timers with chosen ids"
	AnonNames        Feature = "names of anonymous memory"
	PidfdGetfd       Feature = "pidfd_getfd"
	Kcmp             Feature = "kcmp"
	MapFiles         Feature = "/proc/PID/map_files"
	PagemapScan      Feature = "PAGEMAP_SCAN"
	SoftDirty        Feature = "soft-dirty pages"
	Userfaultfd      Feature = "userfaultfd"
	UserfaultfdAsync Feature = "userfaultfd: asynchronous write protection"
	TimeNamespaces   Feature = "time namespaces"
	TCPRepair        Feature = "TCP repair"
	CgroupFreezer    Feature = "cgroup v2 freezer"
)

var entries = sync.OnceValue(func() []*entry {
	return []*entry{
		{feature: Ptrace, run: havePtrace, required: true, neededFor: "stopping a tree and reading its registers"},
		{feature: SuspendSeccomp, run: haveSuspendSeccomp, neededFor: "tasks whose seccomp filter refuses injected system calls"},
		{feature: RseqConfig, run: haveRseqConfig, neededFor: "keeping restartable sequences registered"},
		{feature: VDSOGadget, run: haveVDSOGadget, neededFor: "injected system calls that survive the death of the host"},
		{feature: CloneSetTID, run: haveCloneSetTID, required: true, neededFor: "restoring tasks under their PIDs"},
		{feature: SetMMMap, run: haveSetMMMap, required: true, neededFor: "restoring heap, arguments and executable of a process"},
		{feature: MapVDSO, run: haveMapVDSO, neededFor: "restoring the vdso at its address"},
		{feature: TimerIDs, run: haveTimerIDs, neededFor: "restoring POSIX timers without trying ids one by one"},
		{feature: AnonNames, run: haveAnonNames, neededFor: "restoring the names of anonymous memory"},
		{feature: PidfdGetfd, run: havePidfdGetfd, required: true, neededFor: "dumping and restoring descriptors"},
		{feature: Kcmp, run: haveKcmp, required: true, neededFor: "telling which descriptors are shared"},
		{feature: MapFiles, run: haveMapFiles, required: true, neededFor: "reading shared memory and deleted mapped files"},
		{feature: PagemapScan, run: havePagemapScan, neededFor: "finding dumped pages quickly"},
		{feature: SoftDirty, run: haveSoftDirty, neededFor: "tracking written pages without userfaultfd"},
		{feature: Userfaultfd, run: haveUserfaultfd, neededFor: "restoring memory on demand"},
		{feature: UserfaultfdAsync, run: haveUserfaultfdAsync, neededFor: "tracking written pages of a running tree (--live)"},
		{feature: TimeNamespaces, run: haveTimeNamespaces, neededFor: "keeping monotonic clocks after a reboot"},
		{feature: TCPRepair, run: haveTCPRepair, neededFor: "established TCP connections (--tcp-established)"},
		{feature: CgroupFreezer, run: haveCgroupFreezer, neededFor: "freezing large trees at once"},
	}
})
