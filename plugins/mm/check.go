package mm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/firn-cr/firn/plugins/mm/mmpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// noWay is the help for what this version cannot carry.
const noWay = "not carried by this version: end the use of it before the checkpoint"

// Check implements [sdk.Checker]: one finding for each mapping that cannot be
// carried, and one for each process that can. Of a frozen tree it keeps what
// it has read, for Dump.
func (p *plugin) Check(ctx context.Context, req *sdk.CheckRequest) ([]sdk.Finding, error) {
	p.forget()
	p.files.begin()
	how := running
	switch {
	case req.Frozen:
		how = frozen
	case req.Preview:
		how = preview
	}
	spaces, err := p.readSpaces(ctx, req.Session, how)
	if err != nil {
		return nil, err
	}
	if req.Frozen {
		if err := inquire(ctx, req.Host, spaces); err != nil {
			return nil, err
		}
	}
	shared, err := sharedSpaces(spaces)
	if err != nil {
		return nil, err
	}
	outside, err := outsiders(ctx, req.Tree, spaces)
	if err != nil {
		return nil, err
	}
	var findings []sdk.Finding
	for _, sp := range spaces {
		found := append(sp.check(), sp.checkOutside(outside)...)
		if other, ok := shared[sp.task]; ok {
			found = append(found, sp.block("memory", fmt.Sprintf("shared with task %d (CLONE_VM)", other)))
		}
		if !blocks(found) {
			found = append(found, sp.summary())
		}
		findings = append(findings, found...)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if req.Frozen {
		p.frozen = spaces
	} else {
		p.running = spaces
	}
	return findings, nil
}

func blocks(findings []sdk.Finding) bool {
	for i := range findings {
		if findings[i].Level >= sdk.LevelFlag {
			return true
		}
	}
	return false
}

// block makes a finding of something that cannot be carried.
func (sp *space) block(subject, text string) sdk.Finding {
	return sdk.Finding{Level: sdk.LevelBlock, Task: sp.task, Subject: subject, Text: text, Help: noWay}
}

// check looks at one process.
func (sp *space) check() []sdk.Finding {
	found := sp.checkModes()
	for i := range sp.vmas {
		v := &sp.vmas[i]
		if v.blocked != "" {
			found = append(found, sp.block(v.subject(), v.blocked))
		}
		if len(v.UnknownFlags) > 0 {
			found = append(found, sdk.Finding{Level: sdk.LevelNote, Task: sp.task, Subject: v.subject(),
				Text: "flags of a newer kernel are not carried: " + strings.Join(v.UnknownFlags, " ")})
		}
	}
	return found
}

// checkOutside reports shared memory that a process outside of the tree maps. If
// nobody writes to it, it does not matter.
func (sp *space) checkOutside(outside map[objectKey]outsider) []sdk.Finding {
	var found []sdk.Finding
	for i := range sp.vmas {
		v := &sp.vmas[i]
		key, ok := v.sharedAs()
		other, known := outside[key]
		if ok && known && (other.writes || v.Flags.Has(procfs.VMMayWrite)) {
			f := sp.block(v.subject(), fmt.Sprintf("shared memory that task %d has as well, which is outside of the tree", other.pid))
			f.Help = "checkpoint a tree that has both tasks"
			found = append(found, f)
		}
	}
	return found
}

// checkModes looks at what applies to a whole address space.
func (sp *space) checkModes() []sdk.Finding {
	var found []sdk.Finding
	if sp.exeErr != nil {
		found = append(found, sp.block("executable", sp.exeErr.Error()))
	} else if sp.exe.elf.elf && !sp.exe.elf.is64 {
		found = append(found, sp.block("executable", sp.exe.path+" is a 32-bit program"))
	}
	if sp.status.UntagMask != ^uint64(0) {
		found = append(found, sp.block("memory", fmt.Sprintf("tagged addresses (untag mask %#x)", sp.status.UntagMask)))
	}
	for _, f := range sp.status.X86Features {
		if f == "shstk" {
			found = append(found, sp.block("memory", "shadow stack"))
		}
	}
	if sp.info.mdwe != 0 {
		found = append(found, sp.block("memory", "memory-deny-write-execute (PR_SET_MDWE)"))
	}
	// A process that runs may have ended, or be in the middle of execve(2); of
	// a frozen one the dump would fail.
	if _, err := sp.vdso(); err != nil && !gone(err) && !errors.Is(err, unix.EFAULT) {
		found = append(found, sp.block("vdso", err.Error()))
	}
	return found
}

// summary says what will be carried of a process.
func (sp *space) summary() sdk.Finding {
	var mappings, private, files int
	var bytes uint64
	for i := range sp.vmas {
		v := &sp.vmas[i]
		if v.kind == mmpb.Kind_KIND_UNSPECIFIED {
			continue
		}
		mappings++
		if v.kind == mmpb.Kind_KIND_FILE {
			files++
		}
		if !v.Shared() {
			private++
		}
		bytes += v.Anonymous + v.Swap
	}
	return sdk.Finding{Level: sdk.LevelOK, Task: sp.task, Subject: "memory",
		Text: fmt.Sprintf("%d mappings (%d private, %d of files), %d KiB of its own", mappings, private, files, bytes>>10)}
}
