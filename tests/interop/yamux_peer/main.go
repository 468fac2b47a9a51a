// A peer that speaks yamux by hashicorp's own implementation at its default
// configuration, driven by a test.
//
//	yamux_peer client|server ADDRESS
//
// It dials ADDRESS and is the named end of yamux there. It serves every stream
// that it accepts by the stream's first byte, and obeys lines on standard input;
// each line has one answer, a line on standard output.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

func main() {
	conn, err := net.Dial("tcp", os.Args[2])
	check(err)
	config := yamux.DefaultConfig()
	config.StreamCloseTimeout = 300 * time.Millisecond // then it resets; 5 minutes by default
	role := yamux.Server
	if os.Args[1] == "client" {
		role = yamux.Client
	}
	session, err := role(conn, config)
	check(err)
	go accept(session)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Println(obey(session, lines.Text()))
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// --- what the test asks for by a line ---

func obey(session *yamux.Session, line string) string {
	var count, size int
	verb, rest, _ := strings.Cut(line, " ")
	fmt.Sscan(rest, &count, &size)
	switch verb {
	case "ping":
		_, err := session.Ping()
		return say(err)
	case "goaway":
		return say(session.GoAway())
	case "open":
		_, err := session.OpenStream()
		return say(err)
	case "streams":
		return fmt.Sprint(session.NumStreams())
	case "wait-closed":
		<-session.CloseChan()
		return "closed"
	case "echo":
		return say(echoes(session, count, size))
	case "abandoned":
		return say(abandoned(session))
	}
	return "what?"
}

func say(err error) string {
	if err != nil {
		return err.Error()
	}
	return "ok"
}

// echoes opens count streams at once; each writes size bytes, ends, and must read the same.
func echoes(session *yamux.Session, count, size int) error {
	var group sync.WaitGroup
	failures := make(chan error, count)
	for range make([]struct{}, count) {
		group.Add(1)
		go func() {
			defer group.Done()
			if err := echo(session, size); err != nil {
				failures <- err
			}
		}()
	}
	group.Wait()
	close(failures)
	return <-failures
}

func echo(session *yamux.Session, size int) error {
	stream, err := session.OpenStream()
	if err != nil {
		return err
	}
	payload := make([]byte, size)
	for at := range payload {
		payload[at] = byte(at*7 + int(stream.StreamID()))
	}
	written := make(chan error, 1)
	go func() {
		_, err := stream.Write(payload)
		stream.Close() // a half-close: reading goes on
		written <- err
	}()
	answer, err := io.ReadAll(stream)
	if err == nil {
		err = <-written
	}
	if err == nil && !bytes.Equal(answer, payload) {
		err = fmt.Errorf("%d bytes came back, or others", len(answer))
	}
	return err
}

// abandoned opens a stream, ends it, and does not wait for the other end: after StreamCloseTimeout it resets it.
func abandoned(session *yamux.Session) error {
	stream, err := session.OpenStream()
	if err != nil {
		return err
	}
	if _, err := stream.Write([]byte("w")); err != nil {
		return err
	}
	return stream.Close()
}

// --- what the test asks for by a stream's first byte ---

func accept(session *yamux.Session) {
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return
		}
		go serve(stream)
	}
}

func serve(stream *yamux.Stream) {
	verb := make([]byte, 1)
	if _, err := io.ReadFull(stream, verb); err != nil {
		return
	}
	switch verb[0] {
	case 'e': // echo
		io.Copy(stream, stream)
	case 'u': // upload: how many bytes came, and their hash
		hash := sha256.New()
		count, _ := io.Copy(hash, stream)
		fmt.Fprintf(stream, "%d %x", count, hash.Sum(nil))
	case 'd': // download: eight bytes say how many
		var count uint64
		if binary.Read(stream, binary.BigEndian, &count) == nil {
			stream.Write(bytes.Repeat([]byte("0123456789abcdef"), int(count/16)))
		}
	case 'r': // a byte back, then how reading ends
		stream.Write(verb)
		_, err := io.Copy(io.Discard, stream)
		fmt.Println("read:", say(err))
	case 'c': // how reading ends
		_, err := io.Copy(io.Discard, stream)
		fmt.Println("read:", say(err))
	case 's': // how sending ends
		var err error
		for err == nil {
			_, err = stream.Write(make([]byte, 1000))
		}
		fmt.Println("write:", say(err))
	}
	stream.Close()
}
