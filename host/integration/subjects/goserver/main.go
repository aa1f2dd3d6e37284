// Command goserver is an HTTP server as Go makes it by default, on an MPTCP
// listener: it answers with the number of requests that it has had, on the
// address that is its argument.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

func main() {
	log, err := os.OpenFile("log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		panic(err)
	}
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(log, "ready")
	go func() {
		for n := 0; ; n++ {
			fmt.Fprintln(log, "tick", n)
			time.Sleep(5 * time.Millisecond)
		}
	}()
	var requests atomic.Int64
	panic(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, requests.Add(1))
	})))
}
