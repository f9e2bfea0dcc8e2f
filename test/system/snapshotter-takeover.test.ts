/** A root that containerd's overlayfs snapshotter made, with the package that the reference has: ours goes on with it. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import test from 'node:test';
import { promisify } from 'node:util';
import { silentLogger } from '../../src/log/index.js';
import {
  Snapshotter,
  loadSnapshotterConfig,
  type Mount,
  type SnapshotRecord,
} from '../../src/snapshotter/index.js';
import { missing } from '../support/commands.js';
import { checkout } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';
import type { ReferenceSnapshot } from '../support/reference-snapshot.js';

const run = promisify(execFile);
const GOPATH = '/usr/share/gocode';
const skip =
  process.getuid?.() !== 0
    ? 'needs root'
    : !existsSync(`${GOPATH}/src/github.com/containerd/containerd/snapshots/overlay`)
      ? "containerd's sources are not installed (package golang-github-containerd-containerd-dev)"
      : missing({ go: 'golang-go' });
const FILLERS = 30;
const LAYER = `default/3/sha256:${'3'.padStart(64, '0')}`;

interface Line extends ReferenceSnapshot {
  readonly Mounts: readonly { Type: string; Source: string; Options: readonly string[] }[] | null;
}

test(
  'a root of containerd’s own store is taken over whole, once its owner has ended',
  { skip },
  async (t) => {
    const dir = tempDir(t);
    const program = join(dir, 'reference-root');
    await run('go', ['build', '-o', program, '.'], {
      cwd: join(checkout, 'test', 'system', 'reference-root'),
      env: { ...process.env, GO111MODULE: 'off', GOPATH, GOFLAGS: '-p=2' },
    });
    const root = join(dir, 'root');
    const owner = spawn(program, [root, String(FILLERS), 'hold'], { stdio: ['pipe', 'pipe', 'inherit'] });
    t.after(() => owner.kill('SIGKILL'));
    const lines: Line[] = [];
    for await (const text of createInterface(owner.stdout)) {
      lines.push(JSON.parse(text) as Line);
      if (lines.length === 5 + FILLERS - FILLERS / 3) break;
    }
    const path = join(dir, 'config.json');
    await writeFile(path, JSON.stringify({ root, address: join(dir, 'unused.sock') }));
    const config = await loadSnapshotterConfig(path, silentLogger);
    const open = (): Promise<Snapshotter> => Snapshotter.open({ config, log: silentLogger });
    await assert.rejects(open(), {
      code: 'OBD_SNAPSHOT_PRECONDITION',
      message: new RegExp(`process ${owner.pid} has it open`),
    });
    owner.stdin.end();
    await once(owner, 'exit');

    const before = await readFile(join(root, 'metadata.db'));
    let snapshotter = await open();
    t.after(() => snapshotter.close());
    const told = async ({
      name,
      kind,
      parent,
      labels,
      createdAt,
      updatedAt,
    }: SnapshotRecord): Promise<Line> => {
      const usage = kind === 'committed' ? await snapshotter.usage(name) : { size: 0, inodes: 0 };
      return {
        Name: name,
        Kind: kind,
        Parent: parent,
        Labels: Object.keys(labels).length === 0 ? null : labels,
        Created: createdAt,
        Updated: updatedAt,
        Size: usage.size,
        Inodes: usage.inodes,
        Mounts: kind === 'committed' ? null : (await snapshotter.mounts(name)).map(asGo),
      };
    };
    assert.deepEqual(await Promise.all(snapshotter.list([]).map(told)), lines);

    // Nothing of it is taken for a leftover, and what is new has a number of its own.
    const dirs = (await readdir(join(root, 'snapshots'))).sort();
    await snapshotter.cleanup();
    assert.deepEqual((await readdir(join(root, 'snapshots'))).sort(), dirs);
    const [mount] = await snapshotter.prepare('default/999/new', LAYER, {});
    assert.match(mount?.options.join() ?? '', new RegExp(`upperdir=${root}/snapshots/${6 + FILLERS}/fs`));
    for (const { Name, Kind } of lines) if (Kind !== 'committed') await snapshotter.remove(Name);
    await snapshotter.remove('default/999/new');
    await snapshotter.close();

    snapshotter = await open();
    for (const name of [LAYER, LAYER.replaceAll('3', '2'), LAYER.replaceAll('3', '1')])
      await snapshotter.remove(name);
    assert.deepEqual(snapshotter.list([]), []);
    assert.deepEqual(await readdir(join(root, 'snapshots')), []);
    assert.ok((await readFile(join(root, 'metadata.db'))).equals(before));
  },
);

function asGo({ type, source, options }: Mount): {
  Type: string;
  Source: string;
  Options: readonly string[];
} {
  return { Type: type, Source: source, Options: options };
}
