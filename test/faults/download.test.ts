/**
 * The background download of the real service, from a real registry: readers compare every byte meanwhile, the service is
 * killed in the middle, the registry's copy is damaged. `OBD_DOWNLOAD_MIB` makes the image larger than 6 MiB.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CacheType } from '../../src/cache/index.js';
import { startRegistryServer, type RegistryServer } from '../../src/registryserver/index.js';
import type { DeviceInfo } from '../../src/service/index.js';
import { NbdReader } from '../support/nbd-reader.js';
import { randomLayer, type RandomLayer } from '../support/random-image.js';
import { ServiceNode } from '../support/service-node.js';
import { tempDir } from '../support/unpack.js';

const IMAGE_MIB = Number(process.env['OBD_DOWNLOAD_MIB'] ?? 6);
const MIB = 1 << 20;
const UNIT = 65536;
/** Bytes of one step of the download. */
const STEP = 4 * UNIT;
const MBPS = 4;
/** So that several seconds go by before the kill. */
const SLOW_MBPS = 2;
/** Longest read while a layer changes from the registry to the disk; busy machines included, far below a hang. */
const LONGEST_READ_MS = 2000;

interface Place {
  readonly node: ServiceNode;
  readonly registry: RegistryServer;
  readonly layer: RandomLayer;
  /** Where the registry keeps the layer. */
  readonly stored: string;
  readonly layerDir: string;
  readonly configPath: string;
}

async function makePlace(
  t: TestContext,
  cacheType: CacheType,
  download: { readonly tryCnt?: number; readonly maxMBps?: number } = {},
): Promise<Place> {
  const directory = tempDir(t);
  const layer = await randomLayer(IMAGE_MIB, 77);
  const hex = layer.digest.slice('sha256:'.length);
  const stored = join(directory, 'blobs', 'sha256', hex);
  const link = join(directory, 'repositories', 'team', 'app', '_blobs', 'sha256', hex);
  for (const [path, bytes] of [
    [stored, layer.stored],
    [link, ''],
  ] as const) {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, bytes);
  }
  const registry = await startRegistryServer({ directory });
  t.after(() => registry.close());
  const node = await ServiceNode.start(t, {
    config: {
      cacheConfig: { cacheType, cacheDir: join(directory, 'cache'), cacheSizeGB: 1, refillSize: UNIT },
    },
  });
  const layerDir = node.at('layer');
  const configPath = node.image('app', {
    repoBlobUrl: `${registry.url}/v2/team/app/blobs`,
    lowers: [{ digest: layer.digest, size: layer.stored.length, dir: layerDir }],
    download: { enable: true, delay: 0, delayExtra: 0, maxMBps: MBPS, blockSize: STEP, ...download },
  });
  return { node, registry, layer, stored, layerDir, configPath };
}

/** Reads at random and compares, until told to stop. Reads that find no service are repeated on a new connection. */
class Load {
  reads = 0;
  longestMs = 0;
  readonly ended: Promise<void>;
  readonly #path: string;
  readonly #plain: Uint8Array;
  #stopping = false;

  /** @param plain what the disk begins with; no more than that is read. */
  constructor(path: string, plain: Uint8Array) {
    this.#path = path;
    this.#plain = plain;
    this.ended = this.#run();
    // Reported by whoever awaits stop().
    this.ended.catch(() => undefined);
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.ended;
  }

  async #run(): Promise<void> {
    let reader: NbdReader | undefined;
    for (let state = 1; !this.#stopping;) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      const length = 512 << (state >>> 29);
      const offset = (state % ((this.#plain.length - length) / 512)) * 512;
      const began = performance.now();
      let answer;
      try {
        reader ??= await NbdReader.connect(this.#path);
        answer = await reader.read(offset, length);
      } catch {
        // The service is gone; it is back soon.
        reader?.close();
        reader = undefined;
        await sleep(20);
        continue;
      }
      assert.equal(answer.error?.message, undefined);
      assert.ok(answer.data?.equals(this.#plain.subarray(offset, offset + length)), `bytes at ${offset}`);
      this.longestMs = Math.max(this.longestMs, performance.now() - began);
      this.reads++;
      await sleep(1);
    }
    reader?.close();
  }
}

async function device(node: ServiceNode): Promise<DeviceInfo> {
  const [only] = await node.client.list();
  assert.ok(only !== undefined);
  return only;
}

async function until(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let waited = 0; !(await condition()); waited += 10) {
    assert.ok(waited < 60_000, `waited a minute for: ${what}`);
    await sleep(10);
  }
}

async function wholeDisk(path: string, plain: Uint8Array): Promise<void> {
  const reader = await NbdReader.connect(path);
  for (let offset = 0; offset < plain.length; offset += MIB) {
    const { data, error } = await reader.read(offset, MIB);
    assert.ok(
      data?.equals(plain.subarray(offset, offset + MIB)),
      `${offset}: ${error?.message ?? 'wrong bytes'}`,
    );
  }
  reader.close();
}

// They mostly wait.
void describe('background download', { concurrency: true }, () => {
  for (const cacheType of ['file', 'download'] as const) {
    void test(`a layer is downloaded and promoted under verified reads, cache type ${cacheType}`, async (t) => {
      const { node, registry, layer, layerDir, configPath } = await makePlace(t, cacheType);
      const began = performance.now();
      const { devicePath = '' } = await node.attach('app', configPath);
      const load = new Load(devicePath, layer.plain);
      await until('the download', async () => (await device(node)).download?.state === 'done');
      const seconds = (performance.now() - began) / 1000;
      await sleep(100);
      await load.stop();
      assert.ok(load.reads > 30, `${load.reads} reads`);
      assert.ok(load.longestMs < LONGEST_READ_MS, `a read took ${load.longestMs} ms`);
      assert.deepEqual(readdirSync(layerDir), ['overlaybd.commit']);
      assert.ok(readFileSync(join(layerDir, 'overlaybd.commit')).equals(layer.stored));
      const { blobBytes } = registry.stats;
      assert.ok(blobBytes <= layer.stored.length + STEP, `${blobBytes} of ${layer.stored.length} fetched`);
      t.diagnostic(
        `${load.reads} reads, longest ${load.longestMs.toFixed(0)} ms, ${seconds.toFixed(1)} s, ${blobBytes} of ${layer.stored.length} bytes fetched`,
      );
      // Everything is here: the registry may go.
      await registry.close();
      await wholeDisk(devicePath, layer.plain);
      await node.client.detach('app');
      const again = await node.attach('again', configPath);
      assert.equal(again.remoteBytes, 0);
      await wholeDisk(again.devicePath ?? '', layer.plain);
    });

    void test(`a download goes on after SIGKILL where it was, cache type ${cacheType}`, async (t) => {
      const { node, registry, layer, layerDir, configPath } = await makePlace(t, cacheType, {
        maxMBps: SLOW_MBPS,
      });
      const { devicePath = '' } = await node.attach('app', configPath);
      // The rest is left to the download.
      const load = new Load(devicePath, layer.plain.subarray(0, layer.plain.length / 4));
      await until(
        'most of it',
        async () => ((await device(node)).download?.bytes ?? 0) > 0.75 * layer.stored.length,
      );
      const took = performance.now();
      await node.kill('SIGKILL');
      const before = registry.stats.blobBytes;
      assert.ok(!existsSync(join(layerDir, 'overlaybd.commit')));
      await node.run();
      await until('the rest', async () => (await device(node)).download?.state === 'done');
      await sleep(100);
      await load.stop();
      assert.ok(readFileSync(join(layerDir, 'overlaybd.commit')).equals(layer.stored));
      assert.deepEqual(readdirSync(layerDir), ['overlaybd.commit']);
      const { blobBytes } = registry.stats;
      t.diagnostic(
        `${before} bytes fetched before, ${blobBytes - before} after, of ${layer.stored.length}; ` +
          `${((performance.now() - took) / 1000).toFixed(1)} s from the kill to the end`,
      );
      // A cache loses its last second (docs/cache.md), and a commit may be under way; `.download` itself loses nothing.
      const lost = cacheType === 'file' ? 0 : 1.5 * SLOW_MBPS * MIB;
      assert.ok(
        blobBytes <= layer.stored.length + lost + 2 * STEP,
        `${blobBytes} of ${layer.stored.length} fetched`,
      );
      await registry.close();
      await wholeDisk(devicePath, layer.plain);
    });
  }

  void test('a registry that serves wrong bytes: nothing gets a final name, and everybody is told', async (t) => {
    const { node, registry, layer, stored, layerDir, configPath } = await makePlace(t, 'file', {
      tryCnt: 2,
      maxMBps: 100,
    });
    const wrong = Buffer.from(layer.stored);
    const at = wrong.length >> 1;
    wrong.writeUInt8(wrong.readUInt8(at) ^ 1, at);
    writeFileSync(stored, wrong);
    const { devicePath = '' } = await node.attach('app', configPath);
    await until('both attempts', async () => (await device(node)).download?.state === 'done');
    const { download } = await device(node);
    assert.equal(download?.layersFailed, 1);
    assert.equal(download.failure?.code, 'OBD_REGISTRY_DIGEST');
    assert.deepEqual(readdirSync(layerDir), ['.download']);
    const lines = node.log().filter(({ msg }) => msg === 'Layer could not be downloaded');
    assert.deepEqual(
      lines.map(({ code, attempt, digest }) => ({ code, attempt, digest })),
      [1, 2].map((attempt) => ({ code: 'OBD_REGISTRY_DIGEST', attempt, digest: layer.digest })),
    );
    const [finding] = node.doctor().devices;
    assert.equal(finding?.status, 'warning');
    assert.match(finding.detail, /1 layer was not downloaded in the background: .*have digest "sha256:/);

    // Readers: right bytes, or the address of the block whose checksum is wrong.
    const reader = await NbdReader.connect(devicePath);
    const failed: string[] = [];
    for (let offset = 0; offset < layer.plain.length; offset += UNIT) {
      const { data, error } = await reader.read(offset, UNIT);
      if (data === undefined) failed.push(error.message);
      else assert.ok(data.equals(layer.plain.subarray(offset, offset + UNIT)), `bytes at ${offset}`);
    }
    reader.close();
    assert.equal(failed.length, 1);
    assert.match(failed[0] ?? '', /checksum|CRC/i);

    // The registry is mended: the next device has all of it.
    writeFileSync(stored, layer.stored);
    await node.client.detach('app');
    const again = await node.attach('again', configPath);
    await until('the download', () => existsSync(join(layerDir, 'overlaybd.commit')));
    await wholeDisk(again.devicePath ?? '', layer.plain);
    assert.ok(readFileSync(join(layerDir, 'overlaybd.commit')).equals(layer.stored));
    await registry.close();
  });
});
