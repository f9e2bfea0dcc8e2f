// Program reference-root makes a root directory as containerd's overlayfs snapshotter leaves one: metadata.db and the
// directories of its snapshots. That is how the reference's snapshotter keeps its own, with the same package.
//
//	reference-root ROOT FILLERS [hold]
//
// It prints what it made as JSON, a line for each snapshot. FILLERS is a number of further snapshots that nothing
// depends on; with "hold" it keeps the root open until its input ends.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/mount"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/overlay"
)

type line struct {
	Name    string
	Kind    string
	Parent  string
	Labels  map[string]string
	Created int64
	Updated int64
	Size    int64
	Inodes  int64
	Mounts  []mount.Mount
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	ctx := context.Background()
	root := os.Args[1]
	fillers, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	sn, err := overlay.NewSnapshotter(root)
	if err != nil {
		return err
	}
	defer sn.Close()

	parent := ""
	for i := 1; i <= 3; i++ {
		key := fmt.Sprintf("default/%d/extract-%d", i, i)
		mounts, err := sn.Prepare(ctx, key, parent)
		if err != nil {
			return err
		}
		upper := mounts[0].Source
		for _, option := range mounts[0].Options {
			if strings.HasPrefix(option, "upperdir=") {
				upper = strings.TrimPrefix(option, "upperdir=")
			}
		}
		if err := os.WriteFile(filepath.Join(upper, fmt.Sprintf("file-%d", i)), make([]byte, 5000*i), 0o644); err != nil {
			return err
		}
		name := fmt.Sprintf("default/%d/sha256:%064d", i, i)
		labels := map[string]string{"containerd.io/snapshot.ref": fmt.Sprintf("sha256:%064d", i), "containerd.io/snapshot/note": "ü"}
		if err := sn.Commit(ctx, name, key, snapshots.WithLabels(labels)); err != nil {
			return err
		}
		parent = name
	}
	if _, err := sn.Prepare(ctx, "default/8/container", parent); err != nil {
		return err
	}
	if _, err := sn.View(ctx, "default/9/view", parent, snapshots.WithLabels(map[string]string{"a": "b"})); err != nil {
		return err
	}
	for i := 0; i < fillers; i++ {
		key := fmt.Sprintf("default/%d/filler", 100+i)
		label := map[string]string{"containerd.io/snapshot/long": strings.Repeat("x", 1+i*37%3000)}
		if _, err := sn.Prepare(ctx, key, "", snapshots.WithLabels(label)); err != nil {
			return err
		}
	}
	// Removed ones leave free pages and numbers that nobody gets again.
	for i := 0; i < fillers; i += 3 {
		if err := sn.Remove(ctx, fmt.Sprintf("default/%d/filler", 100+i)); err != nil {
			return err
		}
	}

	out := json.NewEncoder(os.Stdout)
	if err := sn.Walk(ctx, func(ctx context.Context, info snapshots.Info) error {
		found := line{
			Name: info.Name, Kind: strings.ToLower(info.Kind.String()), Parent: info.Parent, Labels: info.Labels,
			Created: info.Created.UnixMicro(), Updated: info.Updated.UnixMicro(),
		}
		if info.Kind == snapshots.KindCommitted {
			usage, err := sn.Usage(ctx, info.Name)
			if err != nil {
				return err
			}
			found.Size, found.Inodes = usage.Size, usage.Inodes
		} else if found.Mounts, err = sn.Mounts(ctx, info.Name); err != nil {
			return err
		}
		return out.Encode(found)
	}); err != nil {
		return err
	}
	if len(os.Args) > 3 {
		_, err = io.Copy(io.Discard, os.Stdin)
	}
	return err
}
