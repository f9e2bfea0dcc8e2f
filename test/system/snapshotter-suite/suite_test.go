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
	"github.com/containerd/containerd/mount"
	"github.com/containerd/containerd/namespaces"
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
	client := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "overlaybd")
	cleanup := func() error {
		defer os.RemoveAll(run)
		removing := removeAll(address)
		conn.Close()
		server.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			if err != nil {
				return fmt.Errorf("the server ended with %w\n%s", err, said.String())
			}
			if removing != nil {
				return fmt.Errorf("its snapshots cannot be removed: %w\n%s", removing, said.String())
			}
		case <-time.After(stopTimeout):
			server.Process.Kill()
			return fmt.Errorf("the server did not end within %s\n%s", stopTimeout, said.String())
		}
		return nil
	}
	return closing{client, conn}, cleanup, nil
}

// removeAll removes what a test left, children first, so that no device stays. The suite's own clean-up knows nothing of
// those: it removes directories.
func removeAll(address string) error {
	conn, err := grpc.Dial("unix://"+address, grpc.WithInsecure())
	if err != nil {
		return err
	}
	defer conn.Close()
	snapshotter := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "overlaybd")
	ctx := namespaces.WithNamespace(context.Background(), "testsuite")
	for {
		parents := map[string]bool{}
		var names []string
		err := snapshotter.Walk(ctx, func(ctx context.Context, info snapshots.Info) error {
			parents[info.Parent] = true
			names = append(names, info.Name)
			return nil
		})
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			if parents[name] {
				continue
			}
			if err := snapshotter.Remove(ctx, name); err != nil {
				return err
			}
		}
	}
}

// TestRename is what the suite has as Rename and skips: files of a lower layer are renamed and replaced. Directories of
// a lower layer can be renamed where the snapshots are real file systems; an overlay refuses it (EXDEV), unless the
// kernel has redirect_dir on.
func TestRename(t *testing.T) {
	program := os.Getenv("OBD_SNAPSHOTTER")
	ctx := namespaces.WithNamespace(context.Background(), "testsuite")
	work := t.TempDir()
	snapshotter, cleanup, err := start(program, filepath.Join(work, "root"))
	if err != nil {
		t.Fatal(err)
	}
	layer := func(number int, change func(root string) error) {
		key, root := fmt.Sprintf("key-%d", number), filepath.Join(work, fmt.Sprintf("mnt-%d", number))
		parent := ""
		if number > 1 {
			parent = fmt.Sprintf("layer-%d", number-1)
		}
		mounts, err := snapshotter.Prepare(ctx, key, parent)
		if err == nil {
			err = os.MkdirAll(root, 0700)
		}
		if err == nil {
			err = mount.All(mounts, root)
		}
		if err != nil {
			t.Fatal(err)
		}
		err = change(root)
		if e := mount.UnmountAll(root, 0); err == nil {
			err = e
		}
		if err == nil {
			err = snapshotter.Commit(ctx, fmt.Sprintf("layer-%d", number), key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	directories := os.Getenv("OBD_RENAMES_DIRECTORIES") != ""
	layer(1, func(root string) error {
		for _, dir := range []string{"a", "b"} {
			if err := os.Mkdir(filepath.Join(root, dir), 0750); err != nil {
				return err
			}
			for _, file := range []string{"x", "y"} {
				if err := os.WriteFile(filepath.Join(root, dir, file), []byte(dir+file), 0640); err != nil {
					return err
				}
			}
		}
		return nil
	})
	layer(2, func(root string) error {
		in := func(name string) string { return filepath.Join(root, name) }
		if err := os.WriteFile(in("a/new"), []byte("new"), 0600); err != nil {
			return err
		}
		if err := os.Rename(in("a/new"), in("a/x")); err != nil {
			return err
		}
		if err := os.Rename(in("a/y"), in("b/z")); err != nil {
			return err
		}
		err := os.Rename(in("b"), in("c"))
		if !directories && errors.Is(err, syscall.EXDEV) {
			return nil
		}
		return err
	})
	layer(3, func(root string) error {
		dir := "c"
		if _, err := os.Stat(filepath.Join(root, "c")); err != nil && !directories {
			dir = "b"
		}
		want := map[string]string{"a/x": "new", dir + "/x": "bx", dir + "/y": "by", dir + "/z": "ay"}
		for name, content := range want {
			got, err := os.ReadFile(filepath.Join(root, name))
			if err != nil || string(got) != content {
				return fmt.Errorf("%s is %q, expected %q (%v)", name, got, content, err)
			}
		}
		if _, err := os.Stat(filepath.Join(root, "a/y")); !os.IsNotExist(err) {
			return fmt.Errorf("a/y is still there (%v)", err)
		}
		return nil
	})
	if err := cleanup(); err != nil {
		t.Fatal(err)
	}
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
