import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  BackgroundCompaction,
  compactionDue,
  defaultServiceConfig,
  ImageOpener,
  makeImageConfig,
} from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';
import { AppendLayer, WritableLayerStack } from '../../src/lsmt/index.js';
import { tempDir } from '../support/unpack.js';

const MIB = 1 << 20;
const keys = { enable: true, minDeadMB: 256, deadPercent: 50, maxMBps: 50 };

test('compactionDue() weighs what is dead, what came since, and whether the layer is quiet', () => {
  const usage = (sizeMB: number, liveMB: number, records = 1000, segments = 1000) => ({
    size: sizeMB * MIB,
    live: liveMB * MIB,
    records,
    segments,
    changes: sizeMB,
  });
  const at = (sizeMB: number) => ({ size: sizeMB * MIB, changes: sizeMB });
  for (const [what, layer, last, quiet, expected] of [
    ['little is dead', usage(300, 100), undefined, true, undefined],
    ['less than half is dead', usage(2000, 1100), undefined, true, undefined],
    ['enough is dead', usage(1000, 400), undefined, true, 'data'],
    ['enough is dead, for the first time', usage(1000, 400), undefined, false, 'data'],
    ['little was written since', usage(1300, 400), at(1000), false, undefined],
    ['as much as is live was written since', usage(1500, 400), at(1000), false, 'data'],
    ['little was written since, then it was quiet', usage(1300, 400), at(1000), true, 'data'],
    ['nothing was written since', usage(1000, 400), at(1000), true, undefined],
    ['the log is long', usage(100, 100, 2_000_000, 1000), undefined, true, 'log'],
    ['the log is long, and so it must be', usage(100, 100, 2_000_000, 900_000), undefined, true, undefined],
  ] as const)
    assert.equal(compactionDue(layer, last, quiet, keys), expected, what);
});

test('BackgroundCompaction compacts a layer that is written to, and stops when it is closed', async (t) => {
  const dir = tempDir(t);
  const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
  const layer = await AppendLayer.create(paths, { virtualSize: 8 * MIB });
  const stack = await WritableLayerStack.open([], layer);
  const onceChanged = (tell: () => void): void => {
    layer.changes.once(tell);
  };
  const background = new BackgroundCompaction(
    { usage: layer.usage, onceChanged, compact: (options) => stack.compact(options) },
    { ...keys, minDeadMB: 0, maxMBps: 0 },
    silentLogger,
    1,
  );
  await background.close();
  const real = new BackgroundCompaction(
    {
      get usage() {
        return layer.usage;
      },
      onceChanged,
      compact: (options) => stack.compact(options),
    },
    { ...keys, minDeadMB: 1, maxMBps: 0 },
    silentLogger,
    1,
  );
  const bytes = new Uint8Array(64 << 10);
  for (let i = 0; i < 640; i++) await stack.write((i % 32) * bytes.length, bytes.fill(i));
  // At some time it has caught up, and then the file is as large as what it holds.
  while (statSync(paths.data).size !== 4096 + 2 * MIB) await sleep(2);
  await real.close();
  const out = new Uint8Array(2 * MIB);
  await stack.read(0, out);
  for (let i = 0; i < 32; i++) assert.equal(out[i * bytes.length + 77], (608 + i) & 255);
  await stack.close();
});

test('An image opened for long compacts its writable layer unless the configuration forbids it', async (t) => {
  for (const enable of [true, false]) {
    const dir = tempDir(t);
    const paths = { data: join(dir, 'data'), index: join(dir, 'index') };
    await (await AppendLayer.create(paths, { virtualSize: MIB })).close();
    const config = defaultServiceConfig(silentLogger);
    const opener = new ImageOpener({ ...config, compactionConfig: { ...keys, enable } }, silentLogger);
    const image = await opener.openConfig(makeImageConfig({ upper: paths }, 'test', silentLogger), {
      compact: true,
    });
    await image.close();
    await image.close();
    await opener.close();
    await (await AppendLayer.open(paths)).close();
  }
});

test('BackgroundCompaction looks at a layer only while it is changed', async () => {
  let looks = 0;
  let changes = 0;
  let tell: (() => void) | undefined;
  const background = new BackgroundCompaction(
    {
      get usage() {
        looks++;
        return { size: 0, live: 0, records: 0, segments: 0, changes };
      },
      onceChanged: (told) => (tell = told),
      compact: () => Promise.reject(new Error('nothing is due')),
    },
    keys,
    silentLogger,
    1,
  );
  const settled = async (): Promise<number> => {
    while (tell === undefined) await sleep(2);
    const before = looks;
    await sleep(30);
    assert.equal(looks, before, 'nobody looks at a layer that is quiet');
    return looks;
  };
  const first = await settled();
  changes++;
  const change = tell;
  tell = undefined;
  change?.();
  assert.ok((await settled()) >= first + 2, 'once while it is in use, once to see that it is not');
  await background.close();
});
