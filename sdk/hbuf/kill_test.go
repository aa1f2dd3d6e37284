package hbuf

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// The kill test: producers that are processes of their own are killed at
// random moments. Every record whose submission was published must arrive
// whole, and no segment may be lost.

const (
	childEnv = "FIRN_HBUF_TEST_CHILD"
	victims  = 300
	atOnce   = 4
)

// victim is what the parent tells a child.
type victim struct {
	Size    uint64
	Segment uint32
	Seed    uint64
}

func TestMain(m *testing.M) {
	spec := os.Getenv(childEnv)
	if spec == "" {
		os.Exit(m.Run())
	}
	fmt.Fprintln(os.Stderr, "producer:", produce(spec)) // unless it is killed
	os.Exit(1)
}

// produce commits records until the process is killed.
func produce(spec string) error {
	var v victim
	if err := json.Unmarshal([]byte(spec), &v); err != nil {
		return err
	}
	p, err := Attach(os.NewFile(3, "arena"), os.NewFile(4, "submit"), os.NewFile(5, "complete"), v.Size, v.Segment)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	rng := rand.New(rand.NewPCG(v.Seed, 0))
	for object := uint64(0); ; object++ {
		reserve, n := p.Get, rng.IntN(400)
		if rng.IntN(20) == 0 {
			reserve, n = p.GetBulk, 1+rng.IntN(200_000)
		}
		b, err := reserve(ctx, n)
		if err != nil {
			return err
		}
		pattern(b.Payload(), object)
		if err := b.Commit(ctx, uint32(n), 1, object); err != nil {
			return err
		}
		if rng.IntN(50) == 0 {
			if err := p.Flush(ctx); err != nil {
				return err
			}
		}
	}
}

func TestKill(t *testing.T) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	records, killed := uint64(0), 0
	slots := make(chan struct{}, atOnce)
	for i := range victims {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			n, err := kill(uint64(i))
			if err != nil {
				t.Errorf("producer %d: %v", i, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			records += n
			killed++
		})
	}
	wg.Wait()
	t.Logf("%d producers were killed, %d records arrived whole", killed, records)
	if killed != victims || records == 0 {
		t.Errorf("%d producers killed, %d records", killed, records)
	}
}

// kill runs one producer, kills it and checks what it left behind.
func kill(seed uint64) (records uint64, err error) {
	sink := &memSink{}
	cfg := Config{Sink: sink, Warm: 2 << 20, Mode: Mode(seed % 2), MemoryLimit: 4 << 20, SegmentSize: 64 << 10}
	c, err := NewConsumer(cfg)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var serving sync.WaitGroup
	serving.Go(func() { _ = c.Serve(ctx) }) // an error shows in Drain
	if err := runVictim(c, seed); err != nil {
		return 0, err
	}
	cancel()
	serving.Wait()
	// The producer is gone, and so is the server: the ring says how much was
	// published.
	published := c.word(wordSubmissions).Load()
	if err := c.Drain(context.Background()); err != nil {
		return 0, err
	}
	if c.tail.Load() != published || c.written != published {
		return 0, fmt.Errorf("%d submissions were published, %d accepted, %d written", published, c.tail.Load(), c.written)
	}
	return checkVictim(c, sink)
}

// runVictim starts a producer and kills it.
func runVictim(c *Consumer, seed uint64) error {
	spec, err := json.Marshal(victim{c.ArenaSize(), c.SegmentSize(), seed})
	if err != nil {
		return err
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(spec))
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = c.Files()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	time.Sleep(time.Duration(rand.Int64N(int64(20 * time.Millisecond))))
	err = cmd.Process.Kill()
	var exit *exec.ExitError
	if werr := cmd.Wait(); !errors.As(werr, &exit) || exit.Exited() {
		return errors.Join(err, fmt.Errorf("producer was not killed: %w", werr))
	}
	return err
}

// checkVictim checks every record and that every segment has an owner.
func checkVictim(c *Consumer, sink *memSink) (uint64, error) {
	records, err := sink.records()
	if err != nil {
		return 0, err
	}
	for i, r := range records {
		want := make([]byte, r.Kind)
		pattern(want, uint64(i))
		if r.Object != uint64(i) || string(r.Payload) != string(want) {
			return 0, fmt.Errorf("record %d: object %d, %d bytes, want %d", i, r.Object, len(r.Payload), len(want))
		}
	}
	st := c.Stats()
	if st.Records != uint64(len(records)) || st.WrittenRecords != st.Records {
		return 0, fmt.Errorf("%d records in the sink: %+v", len(records), st)
	}
	if st.HeldSegments != 0 || st.PluginSegments+st.FreeSegments != c.total-c.first {
		return 0, fmt.Errorf("segments were lost: %+v", st)
	}
	return st.Records, nil
}
