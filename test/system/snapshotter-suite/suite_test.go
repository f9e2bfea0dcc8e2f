// Package suite runs containerd's own conformance suite for snapshotters against overlaybd-snapshotter, through
// containerd's proxy client and a Unix socket: the way that containerd itself uses it. Each test gets a server and a
// root directory of its own.
//
// It builds from Debian's packages alone; snapshotter-suite.test.ts beside this directory builds and runs it:
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go test -c -o suite
//	OBD_SNAPSHOTTER=/path/to/bin/overlaybd-snapshotter ./suite -test.root
package suite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	_ "github.com/containerd/containerd/pkg/testutil" // flag -test.root
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 30 * time.Second
)

func TestSnapshotter(t *testing.T) {
	program := os.Getenv("OBD_SNAPSHOTTER")
	if program == "" {
		t.Fatal("OBD_SNAPSHOTTER is not set to the path of overlaybd-snapshotter")
	}
	testsuite.SnapshotterSuite(t, "overlaybd", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		return start(program, root)
	})
}

// closing is a snapshotter whose Close also ends the connection; twice, as the suite wants it.
type closing struct {
	snapshots.Snapshotter
	conn *grpc.ClientConn
}

func (c closing) Close() error {
	if err := c.conn.Close(); err != nil && !errors.Is(err, grpc.ErrClientConnClosing) {
		return err
	}
	return c.Snapshotter.Close()
}

// start runs a server whose state is in root and connects to it.
func start(program, root string) (snapshots.Snapshotter, func() error, error) {
	// Socket paths are short; the suite's directories may not be.
	run, err := os.MkdirTemp("", "obd-suite-")
	if err != nil {
		return nil, nil, err
	}
	address := filepath.Join(run, "s.sock")
	config, err := json.Marshal(configuration(root, address))
	if err != nil {
		return nil, nil, err
	}
	configPath := filepath.Join(run, "config.json")
	if err := os.WriteFile(configPath, config, 0600); err != nil {
		return nil, nil, err
	}
	var said bytes.Buffer
	server := exec.Command(program, configPath)
	server.Stdout, server.Stderr = &said, &said
	if err := server.Start(); err != nil {
		return nil, nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()

	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := grpc.DialContext(ctx, "unix://"+address,
		grpc.WithInsecure(), grpc.WithBlock())
	if err != nil {
		server.Process.Kill()
		<-ended
		os.RemoveAll(run)
		return nil, nil, fmt.Errorf("the server does not answer: %w\n%s", err, said.String())
	}
	cleanup := func() error {
		defer os.RemoveAll(run)
		conn.Close()
		server.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				return fmt.Errorf("the server ended with %w\n%s", err, said.String())
			}
		case <-time.After(stopTimeout):
			server.Process.Kill()
			return fmt.Errorf("the server did not end within %s\n%s", stopTimeout, said.String())
		}
		return nil
	}
	snapshotter := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "overlaybd")
	return closing{snapshotter, conn}, cleanup, nil
}

// configuration is that of a server with its state in root; OBD_SNAPSHOTTER_CONFIG, a JSON object, is laid over it.
func configuration(root, address string) map[string]interface{} {
	config := map[string]interface{}{}
	if extra := os.Getenv("OBD_SNAPSHOTTER_CONFIG"); extra != "" {
		if err := json.Unmarshal([]byte(extra), &config); err != nil {
			panic(err)
		}
	}
	config["root"] = root
	config["address"] = address
	return config
}
