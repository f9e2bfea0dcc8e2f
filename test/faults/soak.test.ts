/**
 * Devices come and go: the real service keeps nothing of them. `OBD_SOAK_CYCLES=5000` is a day at one attach in 17 seconds;
 * `OBD_SOAK_TRANSPORT=fuse` (root) goes through the kernel; `OBD_SOAK_REPORT=FILE` writes the samples.
 */
import assert from 'node:assert/strict';
import { open } from 'node:fs/promises';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { TRANSPORT_CHOICES } from '../../src/service/index.js';
import { FaultyRegistry } from '../support/faulty-registry.js';
import { NbdReader } from '../support/nbd-reader.js';
import { randomLayer, type RandomLayer } from '../support/random-image.js';
import { ServiceNode } from '../support/service-node.js';
import { tempDir } from '../support/unpack.js';

const CYCLES = Number(process.env['OBD_SOAK_CYCLES'] ?? 60);
const TRANSPORT = TRANSPORT_CHOICES.find((choice) => choice === process.env['OBD_SOAK_TRANSPORT']) ?? 'nbd';
const IMAGES = 6;
const AT_ONCE = 4;
const MIB = 1 << 20;
const READ = 65536;
const POOL = 35;
/** Below this many cycles memory is still filling its caches, and says nothing. */
const ENOUGH = 1000;

/** Runs in the service: collects garbage when told, then says what is left. */
const COLLECTOR = `
  import { writeFileSync } from 'node:fs';
  import { setFlagsFromString } from 'node:v8';
  import { runInNewContext } from 'node:vm';
  import { isMainThread } from 'node:worker_threads';
  setFlagsFromString('--expose-gc');
  const gc = runInNewContext('gc');
  if (isMainThread) process.on('SIGUSR2', () => {
    gc();
    setTimeout(() => { gc(); writeFileSync(process.env.SOAK_FILE, JSON.stringify(process.memoryUsage())); }, 50);
  });`;

interface Sample {
  readonly cycle: number;
  readonly rssMiB: number;
  readonly heapMiB: number;
  readonly externalMiB: number;
  readonly descriptors: number;
  readonly threads: number;
  readonly mounts: number;
  readonly files: number;
}

interface Image {
  readonly layer: RandomLayer;
  readonly registry: FaultyRegistry;
  readonly path: string;
}

async function makeImage(t: TestContext, node: ServiceNode, number: number): Promise<Image> {
  const layer = await randomLayer(2, 1000 + number);
  const registry = await FaultyRegistry.start(layer.stored);
  t.after(() => registry.close());
  const path = node.image(`image-${number}`, {
    repoBlobUrl: `${registry.url}/v2/team/app/blobs`,
    lowers: [{ digest: layer.digest, size: layer.stored.length, dir: '' }],
  });
  return { layer, registry, path };
}

async function readFrom(devicePath: string, transport: string, offset: number): Promise<Buffer> {
  if (transport === 'nbd') {
    const reader = await NbdReader.connect(devicePath);
    try {
      const { data, error } = await reader.read(offset, READ);
      if (data === undefined) throw new Error(error.message);
      return data;
    } finally {
      reader.close();
    }
  }
  const device = await open(devicePath);
  try {
    return (await device.read(Buffer.alloc(READ), 0, READ, offset)).buffer;
  } finally {
    await device.close();
  }
}

async function sample(node: ServiceNode, file: string, cycle: number): Promise<Sample> {
  rmSync(file, { force: true });
  process.kill(node.pid, 'SIGUSR2');
  let text = '';
  for (let waited = 0; !text.endsWith('}'); waited += 50) {
    assert.ok(waited < 30_000, 'the service does not answer SIGUSR2');
    await sleep(50);
    try {
      text = readFileSync(file, 'utf8');
    } catch {
      // not yet
    }
  }
  const { rss, heapUsed, external } = JSON.parse(text) as NodeJS.MemoryUsage;
  const proc = `/proc/${node.pid}`;
  const below = (dir: string): number => readdirSync(dir, { recursive: true }).length;
  const round = (bytes: number): number => Math.round((bytes / MIB) * 10) / 10;
  return {
    cycle,
    rssMiB: round(rss),
    heapMiB: round(heapUsed),
    externalMiB: round(external),
    descriptors: readdirSync(`${proc}/fd`).length,
    threads: readdirSync(`${proc}/task`).length,
    mounts: readFileSync(`${proc}/mounts`, 'utf8').split('\n').length,
    files: below(node.dir),
  };
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1] ?? NaN;

test(`${CYCLES} devices come and go over ${TRANSPORT}, and the service keeps nothing of them`, async (t) => {
  const memory = join(tempDir(t), 'memory.json');
  const node = await ServiceNode.start(t, {
    config: { transport: TRANSPORT, logConfig: { logPath: '/dev/null', logLevel: 2 } },
    env: {
      NODE_OPTIONS: `--import "data:text/javascript,${encodeURIComponent(COLLECTOR)}"`,
      SOAK_FILE: memory,
    },
  });
  const images: Image[] = [];
  for (let i = 0; i < IMAGES; i++) images.push(await makeImage(t, node, i));
  let begun = 0;
  let failures = 0;
  const one = async (slot: number): Promise<void> => {
    const cycle = begun++;
    const image = images[cycle % IMAGES];
    assert.ok(image !== undefined);
    if (cycle % 10 === 9) {
      // What does not open leaves nothing either.
      const path = node.image(`gone-${slot}`, { lowers: [{ file: '/nonexistent/layer' }] });
      await assert.rejects(node.attach(`g${slot}`, path, TRANSPORT), /nonexistent/);
      failures++;
      return;
    }
    const { devicePath = '' } = await node.attach(`c${slot}`, image.path, TRANSPORT);
    const offset = ((cycle * 7) % ((2 * MIB) / READ)) * READ;
    const data = await readFrom(devicePath, TRANSPORT, offset);
    assert.ok(data.equals(image.layer.plain.subarray(offset, offset + READ)), `cycle ${cycle}: wrong bytes`);
    await node.client.detach(`c${slot}`);
  };
  const run = async (count: number): Promise<void> => {
    const end = begun + count;
    // The service must not be killed, as it is when a test fails, while others wait in the kernel for their devices.
    const ended = await Promise.allSettled(
      Array.from({ length: AT_ONCE }, async (_, slot) => {
        while (begun < end) await one(slot);
      }),
    );
    for (const result of ended) if (result.status === 'rejected') throw result.reason;
  };

  const started = performance.now();
  await run(Math.min(40, CYCLES)); // caches, code, connections
  const samples = [await sample(node, memory, begun)];
  const step = Math.max(20, Math.floor(CYCLES / 50));
  while (begun < CYCLES) {
    await run(Math.min(step, CYCLES - begun));
    samples.push(await sample(node, memory, begun));
  }
  const seconds = Math.round((performance.now() - started) / 1000);
  const [first, last] = [samples[0], samples.at(-1)];
  assert.ok(first !== undefined && last !== undefined);
  const report = { transport: TRANSPORT, cycles: begun, failures, seconds, samples };
  const file = process.env['OBD_SOAK_REPORT'];
  if (file !== undefined) writeFileSync(file, JSON.stringify(report, undefined, 1));
  t.diagnostic(
    `${begun} cycles, ${failures} refused, ${seconds} s; ${JSON.stringify(first)} -> ${JSON.stringify(last)}`,
  );

  // Connections to registries and to the admin socket come and go.
  assert.ok(
    last.descriptors <= first.descriptors + 8,
    `${last.descriptors} descriptors, ${first.descriptors} at first`,
  );
  // A pool starts threads as they are wanted (native/io_pool.h).
  assert.ok(last.threads <= first.threads + POOL, `${last.threads} threads, ${first.threads} at first`);
  assert.equal(last.mounts, first.mounts);
  assert.ok(last.files <= first.files + 8, `${last.files} files, ${first.files} at first`);
  assert.equal((await node.client.list()).filter(({ state }) => state !== 'failed').length, 0);
  if (begun < ENOUGH) return;
  const quarter = (n: number, of: (s: Sample) => number): number =>
    median(samples.slice((n * samples.length) >> 2, ((n + 1) * samples.length) >> 2).map(of));
  const heap = quarter(3, (s) => s.heapMiB) - quarter(1, (s) => s.heapMiB);
  const rss = quarter(3, (s) => s.rssMiB) - quarter(1, (s) => s.rssMiB);
  t.diagnostic(`from the second quarter to the last: heap ${heap.toFixed(1)} MiB, RSS ${rss.toFixed(1)} MiB`);
  assert.ok(heap <= 1, `the heap grew by ${heap} MiB`);
  assert.ok(rss <= 8, `RSS grew by ${rss} MiB`);
  // See keepHeapSmall(): without it these are 130 MiB.
  assert.ok(last.rssMiB - first.rssMiB <= 64, `RSS grew from ${first.rssMiB} to ${last.rssMiB} MiB`);
  const threads = quarter(3, (s) => s.threads) - quarter(1, (s) => s.threads);
  assert.ok(threads <= 1, `${threads} more threads`);
});
