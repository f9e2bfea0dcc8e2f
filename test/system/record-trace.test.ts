import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fuseUnsupported } from '../../src/blockdev/index.js';
import { parseTrace } from '../../src/prefetch/index.js';
import { checkout, fixture, noFixtures } from '../support/fixtures.js';
import { leftSince, takeSnapshot } from '../support/leaks.js';
import { tempDir } from '../support/unpack.js';

const reason = await fuseUnsupported();
const skip = reason === undefined ? noFixtures : `FUSE and loop devices: ${reason}`;

test(
  'obd record-trace runs a program of the image, and its trace names what it read',
  { skip, timeout: 120_000 },
  async (t) => {
    const before = takeSnapshot();
    const dir = tempDir(t);
    const layout = join(dir, 'out');
    const work = join(dir, 'work');
    mkdirSync(work);
    const config = join(dir, 'overlaybd.json');
    writeFileSync(
      config,
      JSON.stringify({
        apiSocket: join(dir, 'run', 'o.sock'),
        transport: 'fuse',
        logConfig: { logPath: join(dir, 'log') },
        cacheConfig: { cacheDir: join(dir, 'cache') },
      }),
    );
    const record = (...command: string[]): { status: number | null; stderr: string } =>
      spawnSync(
        join(checkout, 'bin', 'obd'),
        [
          ...[
            'record-trace',
            '--service-config',
            config,
            '--state-dir',
            join(dir, 'state'),
            '--working-dir',
            work,
          ],
          ...[
            '--time',
            '3',
            `oci:${fixture('debian', 'oci-obd')}:debian-slim_overlaybd`,
            `oci:${layout}:t`,
            '--',
          ],
          ...command,
        ],
        { encoding: 'utf8', env: { ...process.env, PWD: '/' } },
      );
    const traced = (): ReturnType<typeof parseTrace> => {
      const blobs = join(layout, 'blobs', 'sha256');
      const layer = readdirSync(blobs)
        .map((name) => readFileSync(join(blobs, name)))
        .find((bytes) => bytes.toString('latin1', 0, 6) === 'trace\0');
      assert.ok(layer);
      const size = parseInt(layer.toString('latin1', 124, 135), 8);
      return parseTrace(layer.subarray(512, 512 + size), 'trace');
    };
    const ended = record('/usr/bin/cksum', '/usr/bin/bash', '/etc/passwd');
    assert.equal(ended.status, 0, ended.stderr.slice(-500));
    const records = traced();
    const bytes = records.reduce((sum, { count }) => sum + count, 0);
    assert.doesNotMatch(ended.stderr, /ended with status/);
    // bash alone has 1.2 MB.
    assert.ok(bytes > 1_200_000, `${records.length} records of ${bytes} bytes`);
    assert.ok(records.every(({ layer }) => layer < 3));

    const started = Date.now();
    const long = record('/bin/sleep', '60');
    assert.equal(long.status, 0, long.stderr);
    assert.match(long.stderr, /ended after 3 s/);
    assert.ok(Date.now() - started < 30_000);

    const none = record('/bin/no-such-program');
    assert.equal(none.status, 2, none.stderr);
    assert.match(none.stderr, /Cannot run "\/bin\/no-such-program" in the image/);
    assert.deepEqual(readdirSync(work), []);
    assert.deepEqual(await leftSince(before), []);
  },
);
