package task

import (
	"bytes"
	"context"

	"github.com/firn-cr/firn/plugins/task/taskpb"
	"github.com/firn-cr/firn/sdk"
	"github.com/firn-cr/firn/sdk/procfs"
)

// endedMain reads what is left of a main thread that has exited while others
// run, until the process ends: the name that ps(1) shows, and the credentials
// by which kill(2) decides who may signal the process (kill_ok_by_cred in
// kernel/signal.c looks at those of the main thread). A zombie cannot be asked
// for its securebits, which nothing looks at any more.
func endedMain(p *sdk.Process) (*taskpb.Thread, error) {
	pid := p.TGID()
	status, err := procfs.Status(pid)
	if err != nil {
		return nil, err
	}
	comm, err := procfs.Read(pid, "comm")
	if err != nil {
		return nil, err
	}
	return &taskpb.Thread{
		Id: uint32(p.ID), Comm: bytes.TrimSuffix(comm, []byte("\n")), Credentials: credentialsOf(&status),
	}, nil
}

// setEndedMains gives main threads that will exit their names and credentials.
// The host has them exit before the seal.
func setEndedMains(ctx context.Context, host sdk.Host, saved []*savedProcess) error {
	var ended []*savedProcess
	for _, p := range saved {
		if p.main != nil {
			ended = append(ended, p.mainAlone(p.main))
		}
	}
	return eachThread(ctx, host, ended, func(s *script, p *savedProcess, t *savedThread) error {
		have, err := startingCredentials(p)
		if err != nil {
			return err
		}
		setCredentials(s, have, t.rec.GetCredentials(), p.users)
		return setName(s, t.rec)
	})
}

// mainAlone is a process with nothing but its main thread, which is to become what
// t was.
func (p *savedProcess) mainAlone(t *savedThread) *savedProcess {
	main := *t
	main.TID = p.proc.PID
	return &savedProcess{proc: p.proc, own: p.own, rec: p.rec, users: p.users, threads: []savedThread{main}}
}
