package ipc

import (
	"context"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/firn-cr/firn/plugins/internal/tracetest"
	"github.com/firn-cr/firn/plugins/ipc/ipcpb"
	"github.com/firn-cr/firn/sdk"
)

type record struct {
	kind uint32
	m    proto.Message
}

// request is a restore of one namespace, object 9, and one descriptor, object
// 10.
func request(t *testing.T, list ...record) *sdk.RestoreRequest {
	t.Helper()
	records := &tracetest.Records{}
	for _, r := range list {
		object := uint64(9)
		if r.kind == kindDescriptor {
			object = 10
		}
		if err := records.Emit(context.Background(), r.kind, object, r.m); err != nil {
			t.Fatal(err)
		}
	}
	return &sdk.RestoreRequest{Records: records, Session: &sdk.Session{
		Tree: &sdk.Tree{Root: 1, Processes: []sdk.Process{{ID: 1, PID: os.Getpid()}}},
		Resources: []sdk.Resource{
			{Kind: sdk.KindNamespace, Object: 9, Namespace: &sdk.Namespace{Name: nsName, Tasks: []sdk.TaskID{1}}},
			{Kind: sdk.KindFile, Object: 10, File: &sdk.File{Link: "/q", Refs: []sdk.FDRef{{Task: 1, FD: 3}}}},
		},
	}}
}

// TestImageRefuses: damaged records are found before anything is created.
func TestImageRefuses(t *testing.T) {
	ns := record{kindNamespace, &ipcpb.Namespace{Sysctls: []*ipcpb.Sysctl{{Name: "kernel/msgmax", Value: "8192"}}}}
	fd := record{kindDescriptor, &ipcpb.Descriptor{Namespace: 9, Name: []byte("q")}}
	own := &ipcpb.Owner{Mode: 0o600}
	for name, list := range map[string][]record{
		"nothing":              {},
		"no namespace":         {fd},
		"no descriptor":        {ns},
		"limit of another":     {fd, {kindNamespace, &ipcpb.Namespace{Sysctls: []*ipcpb.Sysctl{{Name: "kernel/core_pattern", Value: "|/bin/sh"}}}}},
		"limit outside":        {fd, {kindNamespace, &ipcpb.Namespace{Sysctls: []*ipcpb.Sysctl{{Name: "../../etc/passwd"}}}}},
		"segment of nobody":    {ns, fd, {kindSegment, &ipcpb.Segment{Size: 1}}},
		"segment with setuid":  {ns, fd, {kindSegment, &ipcpb.Segment{Size: 1, Owner: &ipcpb.Owner{Mode: 0o4600}}}},
		"negative id":          {ns, fd, {kindQueue, &ipcpb.Queue{Owner: &ipcpb.Owner{Id: -1}}}},
		"message first":        {ns, fd, {kindMessage, &ipcpb.Message{Type: 1}}},
		"message of no type":   {ns, fd, {kindQueue, &ipcpb.Queue{Owner: own, Messages: 1}}, {kindMessage, &ipcpb.Message{}}},
		"message missing":      {ns, fd, {kindQueue, &ipcpb.Queue{Owner: own, Messages: 1}}},
		"empty set":            {ns, fd, {kindSemaphores, &ipcpb.SemaphoreSet{Owner: own}}},
		"set without tasks":    {ns, fd, {kindSemaphores, &ipcpb.SemaphoreSet{Owner: own, Values: []uint32{1}}}},
		"large value":          {ns, fd, {kindSemaphores, &ipcpb.SemaphoreSet{Owner: own, Values: []uint32{40000}, Last: []uint32{0}}}},
		"queue with a path":    {ns, fd, {kindMessageQueue, &ipcpb.MessageQueue{Name: []byte("a/b"), MaxMessages: 1, MaxSize: 1}}},
		"queue without room":   {ns, fd, {kindMessageQueue, &ipcpb.MessageQueue{Name: []byte("a"), MaxSize: 1}}},
		"descriptor of a path": {ns, {kindDescriptor, &ipcpb.Descriptor{Namespace: 9, Name: []byte("../q")}}},
		"descriptor creates":   {ns, {kindDescriptor, &ipcpb.Descriptor{Namespace: 9, Name: []byte("q"), Flags: unix.O_CREAT}}},
	} {
		if _, err := (&plugin{}).CheckImage(context.Background(), request(t, list...)); !errors.Is(err, sdk.ErrCorrupt) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if findings, err := (&plugin{}).CheckImage(context.Background(), request(t, ns, fd)); err != nil {
		t.Errorf("a good image: %v, %v", findings, err)
	}
}

// TestNotified reads what the kernel prints for a queue.
func TestNotified(t *testing.T) {
	for text, want := range map[string]int{
		"QSIZE:0          NOTIFY:0     SIGNO:0     NOTIFY_PID:0     \n": 0,
		"QSIZE:129        NOTIFY:2     SIGNO:10    NOTIFY_PID:8260  \n": 8260,
	} {
		if got, err := notified([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	if _, err := notified([]byte("QSIZE:0")); !errors.Is(err, sdk.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
}
