/** Live snapshots of an image in use (src/image/live-snapshot.ts). */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { isWritable, OverlaybdError } from '../../src/blob/index.js';
import { BlockDevice, IoWorkers, MemoryFrontEnd } from '../../src/blockdev/index.js';
import { defaultServiceConfig, ImageOpener, plannerModule, type HostedImage } from '../../src/image/index.js';
import { silentLogger } from '../../src/log/index.js';
import { AppendLayer, SparseLayer } from '../../src/lsmt/index.js';
import { CHILD_FILL } from '../support/snapshot-child.js';
import { tempDir } from '../support/unpack.js';

const SIZE = 4 << 20;
type Kind = 'append' | 'sparse';

async function makeUpper(
  dir: string,
  n: number,
  kind: Kind,
  virtualSize = SIZE,
): Promise<{ data: string; index: string }> {
  const upper = { data: join(dir, `data${n}`), index: join(dir, `index${n}`) };
  if (kind === 'append') await (await AppendLayer.create(upper, { virtualSize })).close();
  else {
    await (await SparseLayer.create(upper.data, { virtualSize })).close();
    writeFileSync(upper.index, '');
  }
  return upper;
}

interface Config {
  lowers: { file: string }[];
  upper: { data: string; index: string };
}

const read = (path: string): Config => JSON.parse(readFileSync(path, 'utf8')) as Config;

/** DIR/config.json with a sealed lower and an upper, and DIR/next.json for its first snapshot. */
async function makeImage(dir: string, kind: Kind): Promise<{ config: string; next: string }> {
  const lower = await makeUpper(dir, 0, 'append');
  const layer = await AppendLayer.open(lower);
  await layer.store(1 << 20, new Uint8Array(1 << 20).fill(7));
  await layer.seal();
  await layer.close();
  const config = join(dir, 'config.json');
  writeFileSync(
    config,
    JSON.stringify({ lowers: [{ file: lower.data }], upper: await makeUpper(dir, 1, kind) }),
  );
  return { config, next: await makeNext(dir, 2, kind) };
}

/** The configuration for the next snapshot of DIR/config.json. */
async function makeNext(dir: string, n: number, kind: Kind): Promise<string> {
  const { lowers, upper } = read(join(dir, 'config.json'));
  const next = join(dir, 'next.json');
  const config = { lowers: [...lowers, { file: upper.data }], upper: await makeUpper(dir, n, kind) };
  writeFileSync(next, JSON.stringify(config));
  return next;
}

const opener = (): ImageOpener => new ImageOpener(defaultServiceConfig(silentLogger), silentLogger);
const NO_WORKERS = { replan: async () => undefined, quiesce: async () => undefined };

async function contents(image: HostedImage): Promise<Buffer> {
  const bytes = Buffer.alloc(SIZE);
  await image.blob.read(0, bytes);
  return bytes;
}

/** An image on I/O workers, as a service has it. */
async function serve(t: TestContext, configPath: string) {
  const workers = new IoWorkers({ logger: silentLogger, count: 2, plannerModule });
  const image = await opener().open(configPath, { compact: true });
  const device = new BlockDevice(image.blob, { planner: image.planner });
  const front = new MemoryFrontEnd(async () => device, workers);
  const { client, served } = await front.attach({ id: 'd', configPath });
  const close = async (): Promise<void> => {
    await front.close();
    await image.close();
    await workers.close();
  };
  t.after(close);
  const hooks = { replan: (p: unknown) => device.replan(p), quiesce: () => workers.quiesce() };
  return { client, served, close, snapshot: (next: string) => image.snapshot(next, hooks) };
}

for (const kind of ['append', 'sparse'] as const)
  test(`Snapshots of a disk on ${kind} layers are taken while it is read and written`, async (t) => {
    const dir = tempDir(t);
    const { config, next } = await makeImage(dir, kind);
    const { client, served, close, snapshot } = await serve(t, config);
    const model = Buffer.alloc(SIZE);
    model.fill(7, 1 << 20, 2 << 20);
    const load = { stop: false };
    let reads = 0;
    /** Each lane has a part of the disk of its own. */
    const lane = async (number: number): Promise<void> => {
      const width = SIZE / 8;
      for (let i = 0; !load.stop; i++) {
        const start = number * width + Math.floor(Math.random() * (width / 512)) * 512;
        const length = Math.min(512 * (1 + Math.floor(Math.random() * 40)), (number + 1) * width - start);
        if (i % 3 === 0) {
          model.fill(1 + (i % 255), start, start + length);
          assert.equal((await client.write(start, model.subarray(start, start + length))).status, 0);
        } else if (i % 31 === 0) {
          model.fill(0, start, start + length);
          assert.equal((await client.discard(start, length)).status, 0);
        } else {
          const { status, data: bytes } = await client.read(start, length);
          assert.equal(status, 0);
          reads++;
          assert.ok(
            model.subarray(start, start + length).equals(bytes),
            `lane ${number}, ${start} +${length}`,
          );
        }
        if (i % 17 === 0) assert.equal((await client.flush()).status, 0);
      }
    };
    const lanes = Promise.all(Array.from({ length: 8 }, (_, i) => lane(i)));
    let path = next;
    for (let n = 3; n < 13; n++) {
      const { sealed, pauseMs } = await Promise.race([
        snapshot(path),
        lanes.then(() => assert.fail('the load ended')),
      ]);
      assert.ok(pauseMs < 5000, `writes waited for ${pauseMs} ms`);
      assert.equal(existsSync(path), false);
      assert.equal(read(config).lowers.at(-1)?.file, sealed);
      if (n < 12) path = await makeNext(dir, n, kind);
    }
    load.stop = true;
    await lanes;
    assert.ok(reads > 0);
    const { data: bytes } = await client.read(0, SIZE / 2);
    assert.ok(model.subarray(0, SIZE / 2).equals(bytes));
    assert.ok(
      served.counters.localReads > reads / 2,
      'reads are planned by the workers after a snapshot too',
    );
    await client.flush();
    await close();
    const again = await opener().open(config);
    assert.equal(again.lowers.length, 11);
    assert.ok((await contents(again)).equals(model));
    await again.close();
  });

for (const step of ['prepared', 'sealed', 'renamed', 'done', '2', '8'])
  test(`A process killed ${/\d/.test(step) ? `${step} ms into` : `after step "${step}" of`} a snapshot leaves a device that opens with all its data`, async (t) => {
    for (const kind of ['append', 'sparse'] as const) {
      const dir = join(tempDir(t), kind);
      mkdirSync(dir);
      const { config } = await makeImage(dir, kind);
      const before = readFileSync(config, 'utf8');
      const script = join(import.meta.dirname, '..', 'support', 'snapshot-child.js');
      const child = spawn(process.execPath, [script, dir, step], { stdio: 'inherit' });
      await new Promise((resolve) => child.once('close', resolve));
      const ended = child.signalCode === 'SIGKILL' || (/\d/.test(step) && child.exitCode === 3);
      assert.ok(ended, `exit ${child.exitCode}, ${child.signalCode}`);
      const image = await opener().open(config);
      assert.equal(existsSync(`${config}.obd-snapshot`), false);
      const forward = readFileSync(config, 'utf8') !== before;
      if (!/\d/.test(step)) assert.equal(forward, step !== 'prepared');
      assert.equal(image.lowers.length, forward ? 2 : 1);
      const bytes = await contents(image);
      assert.ok(bytes.subarray(0, SIZE / 2).every((byte) => byte === CHILD_FILL));
      assert.ok(bytes.subarray(SIZE / 2).every((byte) => byte === 0));
      // It can be written to, and the next snapshot works.
      assert.ok(isWritable(image.blob));
      await image.blob.write(0, new Uint8Array(4096).fill(1));
      await image.snapshot(await makeNext(dir, 9, kind), NO_WORKERS);
      await image.blob.write(4096, new Uint8Array(4096).fill(2));
      const expected = Buffer.from(bytes);
      expected.fill(1, 0, 4096).fill(2, 4096, 8192);
      assert.ok((await contents(image)).equals(expected));
      await image.close();
    }
  });

test('What does not fit is refused, and the device is as it was', async (t) => {
  const dir = tempDir(t);
  const { config, next } = await makeImage(dir, 'append');
  const good = read(next);
  const before = readFileSync(config, 'utf8');
  const image = await opener().open(config);
  assert.ok(isWritable(image.blob));
  const { blob } = image;
  const expected = await contents(image);
  const other = await makeUpper(dir, 20, 'append', SIZE * 2);
  const used = await makeUpper(dir, 21, 'append');
  const layer = await AppendLayer.open(used);
  await layer.store(0, new Uint8Array(512));
  await layer.close();
  const wrong: [what: string, config: unknown, says: RegExp][] = [
    ['no upper', { lowers: good.lowers }, /no complete "upper"/],
    ['half an upper', { ...good, upper: { data: good.upper.data } }, /no complete "upper"/],
    ['the data in use', { ...good, upper: { ...good.upper, data: read(config).upper.data } }, /one in use/],
    [
      'the index in use',
      { ...good, upper: { ...good.upper, index: read(config).upper.index } },
      /one in use/,
    ],
    ['another size', { ...good, upper: other }, /disk of 8388608 bytes/],
    ['an upper with data', { ...good, upper: used }, /has data in it/],
    ['no such upper', { ...good, upper: { data: join(dir, 'no'), index: join(dir, 'no') } }, /no/],
    ['other lowers', { ...good, lowers: good.lowers.toReversed() }, /"lowers\[0\]" is not the image's/],
    ['too many lowers', { ...good, lowers: [...good.lowers, ...good.lowers] }, /4 lowers, expected/],
    ['not JSON', undefined, /JSON/],
  ];
  for (const [what, value, says] of wrong) {
    writeFileSync(next, value === undefined ? '{' : JSON.stringify(value));
    await assert.rejects(image.snapshot(next, NO_WORKERS), says, what);
    assert.ok(existsSync(next), what);
  }
  writeFileSync(next, JSON.stringify(good));
  chmodSync(next, 0o666);
  await assert.rejects(image.snapshot(next, NO_WORKERS), /everybody may write/);
  chmodSync(next, 0o644);
  await assert.rejects(image.snapshot(join(dir, 'none'), NO_WORKERS), /none/);
  // After it is sealed: that is undone.
  const data = statSync(read(config).upper.data).size;
  const reached = (step: string): void => {
    if (step === 'sealed') throw new OverlaybdError('OBD_IO_NO_SPACE', 'full');
  };
  await assert.rejects(image.snapshot(next, { ...NO_WORKERS, reached }), /full/);
  assert.equal(statSync(read(config).upper.data).size, data);
  assert.equal(readFileSync(config, 'utf8'), before);
  assert.equal(existsSync(`${config}.obd-snapshot`), false);
  assert.ok((await contents(image)).equals(expected));
  await blob.write(0, new Uint8Array(512).fill(9));
  expected.fill(9, 0, 512);
  await image.close();
  const again = await opener().open(config);
  assert.ok((await contents(again)).equals(expected));
  await again.snapshot(next, NO_WORKERS);
  assert.ok((await contents(again)).equals(expected));
  await again.close();
});

test('A configuration that does not name the sealed layer gets it', async (t) => {
  const dir = tempDir(t);
  const { config, next } = await makeImage(dir, 'append');
  const { lowers, upper } = read(config);
  writeFileSync(next, JSON.stringify({ ...read(next), lowers, resultFile: join(dir, 'result') }));
  const image = await opener().open(config);
  assert.ok(isWritable(image.blob));
  await image.blob.write(0, new Uint8Array(512).fill(9));
  const expected = await contents(image);
  await image.snapshot(next, NO_WORKERS);
  await image.close();
  assert.deepEqual(read(config).lowers, [...lowers, { file: upper.data }]);
  assert.equal((read(config) as unknown as { resultFile: string }).resultFile, join(dir, 'result'));
  const again = await opener().open(config);
  assert.ok((await contents(again)).equals(expected));
  await again.close();
});

test('An image without a writable layer has no snapshots, and two are not taken at once', async (t) => {
  const dir = tempDir(t);
  const { config, next } = await makeImage(dir, 'append');
  const readOnly = join(dir, 'read-only.json');
  writeFileSync(readOnly, JSON.stringify({ lowers: read(config).lowers }));
  const image = await opener().open(readOnly);
  await assert.rejects(image.snapshot(next, NO_WORKERS), { code: 'OBD_DEVICE_UNSUPPORTED' });
  await image.close();
  const writable = await opener().open(config);
  renameSync(next, join(dir, 'first.json'));
  const first = writable.snapshot(join(dir, 'first.json'), NO_WORKERS);
  await assert.rejects(writable.snapshot(next, NO_WORKERS), { code: 'OBD_DEVICE_BUSY' });
  await first;
  await writable.close();
  rmSync(dir, { recursive: true });
});
