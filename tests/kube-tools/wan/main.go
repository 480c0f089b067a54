// Command wan is a wide-area link between two network namespaces: a pair of TUN devices whose packets are carried in
// user space, with a one-way delay, random loss and a limit of the rate. It stands in for the kernel's netem, which
// test machines often lack. It runs until it is killed, and its devices go with it.
//
//	wan -delay 25ms -loss 0.001 -mbit 50 NAMESPACE=ADDRESS/PREFIX NAMESPACE=ADDRESS/PREFIX
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	device = "wan0"
	// Of a link with headers of its own, such as most tunnels are.
	mtu = 1400
	// A router's buffer: what would wait longer is dropped, as congestion control expects.
	bufferedMax = 200 * time.Millisecond
	// Packets under way in one direction: 400 Mbit/s for 400 ms are 14 000 of 1 400 bytes, 23 MB at most.
	underwayMax = 16384
)

type link struct {
	delay       time.Duration
	loss        float64
	bytesSecond float64
}

type packet struct {
	due   time.Time
	bytes []byte
}

func main() {
	delay := flag.Duration("delay", 0, "one-way delay")
	loss := flag.Float64("loss", 0, "share of packets lost, 0 to 1")
	mbit := flag.Float64("mbit", 0, "rate of each direction in Mbit/s, 0 for no limit")
	flag.Parse()
	if flag.NArg() != 2 {
		log.Fatal("expected two ends, each NAMESPACE=ADDRESS/PREFIX")
	}
	var ends [2]*os.File
	for i, end := range flag.Args() {
		namespace, address, found := strings.Cut(end, "=")
		if !found {
			log.Fatalf("expected NAMESPACE=ADDRESS/PREFIX, found %q", end)
		}
		file, err := open(namespace, address)
		if err != nil {
			log.Fatalf("failed to open %s in namespace %s: %v", device, namespace, err)
		}
		ends[i] = file
	}
	way := link{delay: *delay, loss: *loss, bytesSecond: *mbit * 1e6 / 8}
	failed := make(chan error, 2)
	go func() { failed <- way.carry(ends[0], ends[1]) }()
	go func() { failed <- way.carry(ends[1], ends[0]) }()
	log.Fatal(<-failed)
}

// open makes the device in a namespace. The thread that visits the namespace ends with the goroutine.
func open(namespace, address string) (*os.File, error) {
	type result struct {
		file *os.File
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread()
		file, err := openHere(namespace, address)
		done <- result{file, err}
	}()
	made := <-done
	return made.file, made.err
}

func openHere(namespace, address string) (*os.File, error) {
	target, err := os.Open("/run/netns/" + namespace)
	if err != nil {
		return nil, err
	}
	defer target.Close()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("setns: %w", err)
	}
	tun, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(device)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(tun, unix.TUNSETIFF, request); err != nil {
		return nil, fmt.Errorf("TUNSETIFF: %w", err)
	}
	for _, arguments := range [][]string{
		{"addr", "add", address, "dev", device},
		{"link", "set", device, "mtu", fmt.Sprint(mtu), "txqueuelen", "5000", "up"},
	} {
		if out, err := exec.Command("ip", arguments...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ip %s: %w: %s", strings.Join(arguments, " "), err, out)
		}
	}
	// Non-blocking, so that the runtime waits for it without a thread.
	return os.NewFile(uintptr(tun), device), nil
}

// carry takes packets of one direction. All are delayed alike, so they leave in the order in which they came.
func (l link) carry(from, to *os.File) error {
	underway := make(chan packet, underwayMax)
	go deliver(underway, to)
	buffer := make([]byte, 65536)
	var free time.Time // when the rate allows the next packet
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		now := time.Now()
		if l.loss > 0 && rand.Float64() < l.loss {
			continue
		}
		leaves := now
		if l.bytesSecond > 0 {
			if free.Before(now) {
				free = now
			}
			leaves = free.Add(time.Duration(float64(n) / l.bytesSecond * float64(time.Second)))
			if leaves.Sub(now) > bufferedMax {
				continue
			}
			free = leaves
		}
		select {
		case underway <- packet{leaves.Add(l.delay), append([]byte(nil), buffer[:n]...)}:
		default: // as a full router drops
		}
	}
}

func deliver(underway <-chan packet, to *os.File) {
	for p := range underway {
		time.Sleep(time.Until(p.due))
		// A packet that the other end refuses is lost, as on any link; an end that is gone shows at the reader.
		if _, err := to.Write(p.bytes); errors.Is(err, os.ErrClosed) {
			return
		}
	}
}
