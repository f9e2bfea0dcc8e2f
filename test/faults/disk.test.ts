/** What happens to devices when the machine around the service fails: its cache, its descriptors, its clock. Every byte is looked at. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { missing } from '../support/commands.js';
import { FaultyRegistry } from '../support/faulty-registry.js';
import { NbdReader } from '../support/nbd-reader.js';
import { randomLayer, type RandomLayer } from '../support/random-image.js';
import { ServiceNode } from '../support/service-node.js';

const MIB = 1 << 20;

interface Remote {
  readonly layer: RandomLayer;
  readonly registry: FaultyRegistry;
  readonly config: object;
}

async function remote(t: TestContext, seed: number): Promise<Remote> {
  const layer = await randomLayer(2, seed);
  const registry = await FaultyRegistry.start(layer.stored);
  t.after(() => registry.close());
  const lowers = [{ digest: layer.digest, size: layer.stored.length, dir: '' }];
  return { layer, registry, config: { repoBlobUrl: `${registry.url}/v2/a/blobs`, lowers } };
}

async function attach(t: TestContext, node: ServiceNode, id: string, { config }: Remote): Promise<NbdReader> {
  const { devicePath = '' } = await node.attach(id, node.image(id, config));
  return connect(t, devicePath);
}

async function connect(t: TestContext, devicePath: string): Promise<NbdReader> {
  const reader = await NbdReader.connect(devicePath);
  t.after(() => {
    reader.close();
  });
  return reader;
}

async function readsWhole(reader: NbdReader, { layer }: Remote): Promise<void> {
  const { data, error } = await reader.read(0, layer.plain.length);
  assert.ok(data?.equals(layer.plain), error?.message ?? 'wrong bytes');
}

/** Data files of the cache. */
const cached = (node: ServiceNode): string[] =>
  readdirSync(node.cacheDir)
    .filter((name) => /^sha256:[0-9a-f]+$/.test(name))
    .map((name) => join(node.cacheDir, name));

test('the cache directory is deleted under a device, and nobody notices', async (t) => {
  const node = await ServiceNode.start(t);
  const image = await remote(t, 1);
  const reader = await attach(t, node, 'x', image);
  await reader.read(MIB, 65536);
  rmSync(node.cacheDir, { recursive: true });
  await readsWhole(reader, image);
  const other = await remote(t, 2);
  await readsWhole(await attach(t, node, 'y', other), other);
});

for (const [what, spoil] of [
  [
    'truncated',
    (path: string) => {
      truncateSync(path, 65536);
    },
  ],
  [
    'empty',
    (path: string) => {
      truncateSync(path, 0);
    },
  ],
  [
    'overwritten',
    (path: string) => {
      writeFileSync(path, Buffer.alloc(statSync(path).size, 0x5a), { flag: 'r+' });
    },
  ],
] as const)
  for (const when of ['in use', 'closed'] as const)
    test(`a cached blob is ${what} while it is ${when}`, async (t) => {
      const node = await ServiceNode.start(t);
      const image = await remote(t, 3);
      let reader = await attach(t, node, 'x', image);
      await readsWhole(reader, image);
      if (when === 'closed') {
        reader.close();
        await node.kill();
      }
      const [path] = cached(node);
      assert.ok(path !== undefined);
      spoil(path);
      if (when === 'closed') {
        await node.run();
        // The device has outlived its service.
        reader = await connect(t, (await node.client.get('x')).devicePath ?? '');
      }
      await readsWhole(reader, image);
    });

for (const cacheDir of ['/dev/null/cache', '/proc/nonexistent/cache'])
  test(`a cache that cannot be made in ${cacheDir}: devices are refused at once, with the reason`, async (t) => {
    const node = await ServiceNode.start(t, {
      config: { cacheConfig: { cacheType: 'file', cacheDir, cacheSizeGB: 1 } },
    });
    const image = await remote(t, 4);
    const began = performance.now();
    await assert.rejects(attach(t, node, 'x', image), (error: Error) =>
      error.message.includes(`Cannot open cache directory "${cacheDir}"`),
    );
    assert.ok(performance.now() - began < 10_000, 'at once');
    assert.ok(
      node.doctor().findings.some(({ part, status }) => part === 'cache directory' && status !== 'ok'),
    );
  });

test(
  'out of descriptors: who is served stays served, who comes is refused with the reason',
  { skip: missing({ prlimit: 'util-linux' }) },
  async (t) => {
    const node = await ServiceNode.start(t);
    const first = await remote(t, 5);
    const reader = await attach(t, node, 'first', first);
    await reader.read(0, 65536);
    const limit = readdirSync(`/proc/${node.pid}/fd`).length + 12;
    spawnSync('prlimit', [`--pid=${node.pid}`, `--nofile=${limit}:${limit}`]);
    const attached: string[] = [];
    let refusal: unknown;
    for (let i = 0; i < 40 && refusal === undefined; i++) {
      const image = await remote(t, 100 + i);
      try {
        await node.attach(`d${i}`, node.image(`d${i}`, image.config));
        attached.push(`d${i}`);
      } catch (error) {
        refusal = error;
      }
    }
    assert.match(
      String((refusal as Error | undefined)?.message),
      /EMFILE|too many open files|descriptor|socket hang up|ECONNRESET/i,
    );
    for (const id of attached.slice(-3)) await node.client.detach(id);
    await readsWhole(reader, first);
    const late = await remote(t, 6);
    await readsWhole(await attach(t, node, 'late', late), late);
  },
);

/** Shifts the clock of the process by as many days as the file says. */
const CLOCK = `
  import { readFileSync } from 'node:fs';
  const Real = Date;
  const days = () => { try { return Number(readFileSync(process.env.CLOCK_FILE, 'utf8')); } catch { return 0; } };
  const now = () => Real.now() + days() * 86400000;
  globalThis.Date = class extends Real {
    constructor(...given) { if (given.length === 0) super(now()); else super(...given); }
    static now() { return now(); }
  };`;

test('the clock jumps ten years ahead, and twenty back', async (t) => {
  const image = await remote(t, 7);
  const file = `${process.env['TMPDIR'] ?? '/tmp'}/obd-clock-${process.pid}`;
  t.after(() => {
    rmSync(file, { force: true });
  });
  const node = await ServiceNode.start(t, {
    env: { NODE_OPTIONS: `--import "data:text/javascript,${encodeURIComponent(CLOCK)}"`, CLOCK_FILE: file },
  });
  const reader = await attach(t, node, 'x', image);
  for (const days of [3650, -7300, 0]) {
    writeFileSync(file, String(days));
    const { data } = await reader.read(days === 3650 ? MIB : MIB / 2, 65536);
    assert.ok(data?.equals(image.layer.plain.subarray(days === 3650 ? MIB : MIB / 2).subarray(0, 65536)));
    const other = await remote(t, 8 + Math.abs(days));
    await readsWhole(await attach(t, node, `y${Math.abs(days)}`, other), other);
  }
  await readsWhole(reader, image);
});
