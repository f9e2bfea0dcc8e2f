import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { checkout, fixture, noFixtures } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';

const SOURCE = (): string => `oci:${fixture('debian', 'oci-obd')}:debian-slim_overlaybd`;
const PREFIX = 'containerd.io/snapshot/overlaybd/';

function recordTrace(...args: readonly string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(join(checkout, 'bin', 'obd'), ['record-trace', ...args], { encoding: 'utf8' });
}

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly annotations?: Record<string, string>;
}

function readImage(layout: string, digest: string) {
  const blob = (name: string): Buffer => readFileSync(join(layout, 'blobs', ...name.split(':')));
  const manifest = JSON.parse(blob(digest).toString()) as { config: Descriptor; layers: Descriptor[] };
  const config = JSON.parse(blob(manifest.config.digest).toString()) as {
    rootfs: { diff_ids: string[] };
    history: { created_by?: string; empty_layer?: boolean }[];
    config: unknown;
  };
  return { manifest, config, blob };
}

test(
  'obd record-trace --priority-list stores the image with the list as its topmost layer',
  { skip: noFixtures },
  (t) => {
    const dir = tempDir(t);
    const layout = join(dir, 'out');
    const list = join(dir, 'list');
    writeFileSync(list, '/usr/bin/\n/etc/passwd\n');
    const ended = recordTrace('--priority-list', list, '--json', SOURCE(), `oci:${layout}:traced`);
    assert.equal(ended.status, 0, ended.stderr);
    const { digest } = JSON.parse(ended.stdout) as Descriptor;
    const { manifest, config, blob } = readImage(layout, digest);
    const trace = manifest.layers.at(-1);
    assert.ok(trace);
    assert.equal(manifest.layers.length, 4);
    assert.deepEqual(trace.annotations, {
      [`${PREFIX}acceleration-layer`]: 'yes',
      [`${PREFIX}blob-digest`]: trace.digest,
      [`${PREFIX}blob-size`]: String(trace.size),
      [`${PREFIX}version`]: '0.1.0',
    });
    const bytes = blob(trace.digest);
    assert.equal(bytes.toString('latin1', 0, 5), 'trace');
    assert.equal(bytes.toString('latin1', 512, 534), '/usr/bin/\n/etc/passwd\n');
    assert.equal(config.rootfs.diff_ids.at(-1), trace.digest);
    assert.equal(config.rootfs.diff_ids.length, 4);
    assert.equal(config.history.at(-1)?.created_by, 'obd record-trace --priority-list');
    for (const { digest: name, size } of manifest.layers) assert.equal(blob(name).length, size);

    // Once more: the trace is replaced. As the reference spells it.
    writeFileSync(list, '/etc/\n');
    const again = recordTrace(
      '--priority_list',
      list,
      '--json',
      `oci:${layout}:traced`,
      `oci:${layout}:traced2`,
    );
    assert.equal(again.status, 0, again.stderr);
    const second = readImage(layout, (JSON.parse(again.stdout) as Descriptor).digest);
    assert.equal(second.manifest.layers.length, 4);
    assert.deepEqual(second.manifest.layers.slice(0, 3), manifest.layers.slice(0, 3));
    assert.notEqual(second.manifest.layers[3]?.digest, trace.digest);
    assert.equal(second.config.history.length, config.history.length);
    assert.deepEqual(second.config.config, config.config);
  },
);

test(
  'obd record-trace refuses what is no list, a bad time, and an unknown image',
  { skip: noFixtures },
  (t) => {
    const dir = tempDir(t);
    const list = join(dir, 'list');
    const to = `oci:${join(dir, 'out')}:t`;
    writeFileSync(list, 'relative/path\n');
    const bad = recordTrace('--priority-list', list, SOURCE(), to);
    assert.equal(bad.status, 3);
    assert.match(bad.stderr, /line 1 is "relative\/path", expected an absolute path/);
    writeFileSync(list, '\n');
    assert.equal(recordTrace('--priority-list', list, SOURCE(), to).status, 2);
    assert.equal(recordTrace('--time', '0', SOURCE(), to).status, 2);
    assert.equal(recordTrace('--priority-list', list, `oci:${dir}:none`, to).status, 2);
  },
);
