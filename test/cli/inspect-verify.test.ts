import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import fc from 'fast-check';
import { FileBlob, MemoryBlob } from '../../src/blob/index.js';
import { HashingBlob } from '../../src/cli/hashing-blob.js';
import type { Inspection } from '../../src/cli/inspect.js';
import { verifyLayer } from '../../src/cli/verify-layer.js';
import type { LayerResult } from '../../src/cli/verify.js';
import { checkout, fixture, noFixtures } from '../support/fixtures.js';
import { layerBytes } from '../support/layers.js';
import { tempDir, unpackFixture } from '../support/unpack.js';

/** Runs bin/obd. */
function obd(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const run = spawnSync(process.execPath, [join(checkout, 'bin', 'obd'), ...args], { encoding: 'utf8' });
  return { status: run.status, stdout: run.stdout, stderr: run.stderr };
}

function inspectJson(...args: string[]): Inspection {
  const { status, stdout, stderr } = obd('inspect', '--json', ...args);
  assert.equal(status, 0, stderr);
  return JSON.parse(stdout) as Inspection;
}

interface Verified {
  readonly ok: boolean;
  readonly layers: readonly LayerResult[];
}

test('obd inspect shows every wrapping of a layer', { skip: noFixtures }, () => {
  const { layers } = inspectJson(fixture('small', 'native-zstd', 'layer2.tar'));
  const [layer] = layers;
  assert.ok(layer !== undefined);
  assert.equal(layer.tar?.payloadOffset, 1536);
  assert.equal(layer.zfile?.codec, 'zstd');
  assert.equal(layer.zfile.blockSize, 4096);
  assert.equal(layer.lsmt?.kind, 'committed');
  assert.equal(layer.lsmt.virtualSize, 2 ** 34);
  assert.equal(layer.lsmt.trailer?.flags, 6);
  assert.equal(layer.fault, undefined);
  const text = obd('inspect', fixture('small', 'native-zstd', 'layer2.tar'));
  assert.equal(text.status, 0);
  assert.match(text.stdout, /payload of .* at byte 1536/);
  assert.match(text.stdout, /zstd, blocks of 4\.0 KiB with checksums/);
});

test('obd inspect tells the kinds of LSMT files apart', { skip: noFixtures }, (t) => {
  const kind = (path: string): string | undefined => inspectJson(path).layers[0]?.lsmt?.kind;
  const k2 = unpackFixture(t, 'lsmt', 'k2');
  assert.equal(kind(join(k2, 'layer00.lsmt')), 'committed');
  assert.equal(kind(join(k2, 'layer01.sealed')), 'sealed in place');
  assert.equal(kind(join(k2, 'rw1.index')), 'writable index');
  assert.equal(kind(fixture('small', 'bad', 'good-ttar.ext4.fs.meta')), 'warp');
  const merged = inspectJson(fixture('small', 'merged-lz4', 'merged.zf'));
  assert.deepEqual(merged.layers[0]?.lsmt?.tagsOnDisk, [0, 1, 2, 3]);
  const rw = inspectJson(join(k2, 'rw1.data'), '--log-index', join(k2, 'rw1.index'));
  assert.equal(rw.layers[0]?.lsmt?.kind, 'writable data');
  assert.equal(rw.upper?.kind, 'append');
  assert.ok((rw.upper.mapping?.segments ?? 0) > 0);
  assert.equal(rw.upper.damage, undefined);
});

test('obd inspect --index prints the entries on disk', { skip: noFixtures }, (t) => {
  const k2 = unpackFixture(t, 'lsmt', 'k2');
  const mapping = JSON.parse(readFileSync(join(k2, 'mapping.json'), 'utf8')) as {
    layers: { entriesOnDisk: number; paddingEntries: number }[];
  };
  const { layers } = inspectJson('--index', join(k2, 'layer00.lsmt'));
  const want = mapping.layers[0];
  assert.ok(want !== undefined);
  assert.equal(layers[0]?.lsmt?.index?.length, want.entriesOnDisk - want.paddingEntries);
});

test('obd inspect and obd verify take an image in an OCI layout', { skip: noFixtures }, () => {
  const name = `oci:${fixture('debian', 'oci-obd')}`;
  const { layers, manifest, stack } = inspectJson(name);
  assert.match(manifest?.digest ?? '', /^sha256:/);
  assert.equal(layers.length, 3);
  assert.equal(layers[0]?.lsmt?.trailer?.uuid, 'C02FB491-B4D4-4904-8684-A014D032AF78');
  assert.equal(layers[0].lsmt.paddingEntries, 125);
  assert.equal(stack?.virtualSize, 64 * 2 ** 30);
  const verified = obd('verify', '--json', name);
  assert.equal(verified.status, 0, verified.stderr);
  const result = JSON.parse(verified.stdout) as Verified;
  assert.ok(result.ok);
  assert.deepEqual(
    result.layers.map(({ digest }) => digest),
    ['match', 'match', 'match'],
  );
  assert.equal(result.layers[0]?.blocks, 132_309);
});

test('obd verify checks an ordinary image by its digests', { skip: noFixtures }, () => {
  const run = obd('verify', '--quiet', `oci:${fixture('debian', 'oci-src')}`);
  assert.equal(run.status, 0, run.stderr);
  assert.match(run.stdout, /all right: 2 layers/);
  assert.equal(run.stdout.match(/digest match/g)?.length, 2);
});

test('obd verify finds one flipped bit, says where, and goes on', { skip: noFixtures }, (t) => {
  const dir = join(tempDir(t), 'sha256');
  mkdirSync(dir);
  const bytes = readFileSync(fixture('small', 'native-lz4', 'layer2.tar'));
  const path = join(dir, createHash('sha256').update(bytes).digest('hex'));
  writeFileSync(path, bytes);
  assert.equal(obd('verify', path).status, 0);
  bytes[100_000] = (bytes[100_000] ?? 0) ^ 4;
  bytes[900_000] = (bytes[900_000] ?? 0) ^ 4;
  writeFileSync(path, bytes);
  const run = obd('verify', '--json', path);
  assert.equal(run.status, 3);
  const [layer] = (JSON.parse(run.stdout) as Verified).layers;
  assert.equal(layer?.digest, 'mismatch');
  const blocks = layer.faults.filter(({ block }) => block !== undefined);
  assert.equal(blocks.length, 2);
  for (const fault of blocks) {
    assert.equal(fault.code, 'OBD_FORMAT_CHECKSUM');
    assert.ok((fault.lostSectors ?? []).length > 0);
    assert.match(fault.message, /stored bytes at \d+/);
  }
  assert.match(obd('verify', path).stdout, /3 faults in 1 of 1 layer/);
});

interface BadItem {
  readonly file: string;
  readonly image?: { readonly lowers: readonly { readonly file: string; readonly targetFile?: string }[] };
  readonly unreadableBlocks?: readonly number[];
  readonly unreadableSectors?: readonly (readonly [number, number])[];
}

/** Single damaged layers among the golden images: the last lower is the file itself. */
function badLayers(): BadItem[] {
  if (noFixtures !== false) return [];
  const { items } = JSON.parse(readFileSync(fixture('small', 'bad', 'bad.json'), 'utf8')) as {
    items: BadItem[];
  };
  return items.filter(({ file, image }) => image?.lowers.at(-1)?.file === `@DIR@/${file}`);
}

test(
  'verifyLayer() finds what is wrong with every damaged layer, and which sectors are lost',
  { skip: noFixtures },
  async () => {
    const items = badLayers();
    assert.ok(items.length > 50);
    for (const item of items) {
      const report = await verifyLayer(await FileBlob.open(fixture('small', 'bad', item.file)));
      assert.equal(report.ok, false, item.file);
      assert.ok(report.faults.length > 0, item.file);
      for (const fault of report.faults) assert.ok(fault.message.includes(item.file), fault.message);
      if (item.unreadableBlocks !== undefined)
        assert.deepEqual(
          report.faults.map(({ block }) => block),
          item.unreadableBlocks,
          item.file,
        );
      if (item.unreadableSectors !== undefined)
        assert.deepEqual(
          report.faults.flatMap(({ lostSectors }) => lostSectors ?? []).sort((a, b) => a[0] - b[0]),
          item.unreadableSectors,
          item.file,
        );
    }
  },
);

/** The configuration `json` of a folder, written where it can be used. */
function usableConfig(dir: string, json: unknown): string {
  const path = join(dir, 'usable-config.json');
  writeFileSync(path, JSON.stringify(json).replaceAll('@DIR@', dir));
  return path;
}

test(
  'obd inspect --mapping shows which layer of a configuration holds which sectors',
  { skip: noFixtures },
  (t) => {
    for (const set of ['k2', 'k8']) {
      const dir = unpackFixture(t, 'lsmt', set);
      const read = (name: string): unknown => JSON.parse(readFileSync(join(dir, name), 'utf8'));
      const { stack } = inspectJson('--mapping', usableConfig(dir, read('image.json')));
      const { map, virtualSize } = read('mapping.json') as { map: unknown; virtualSize: number };
      assert.equal(stack?.virtualSize, virtualSize);
      assert.deepEqual(stack.map, map);
    }
  },
);

test('obd inspect and obd verify take a configuration with a writable layer', { skip: noFixtures }, (t) => {
  const dir = unpackFixture(t, 'lsmt', 'k2');
  const json = JSON.parse(readFileSync(join(dir, 'image-rw.json'), 'utf8')) as unknown;
  const config = usableConfig(dir, json);
  const { upper } = inspectJson(config);
  assert.equal(upper?.kind, 'append');
  const good = obd('verify', '--quiet', config);
  assert.equal(good.status, 0, good.stdout);
  writeFileSync(join(dir, 'rw1.index'), readFileSync(join(dir, 'rw1.index')).subarray(0, -7));
  const bad = obd('verify', '--quiet', config);
  assert.equal(bad.status, 3);
  assert.match(bad.stdout, /BAD {2}layer upper[\s\S]*is torn/);
  assert.match(inspectJson(config).upper?.damage ?? '', /is torn/);
});

test('obd verify reaches the targets of a TurboOCI image', { skip: noFixtures }, (t) => {
  const { items } = JSON.parse(readFileSync(fixture('small', 'bad', 'bad.json'), 'utf8')) as {
    items: BadItem[];
  };
  const turbo = items.filter(({ file }) => file.startsWith('turbo-'));
  assert.ok(turbo.length >= 5);
  const dir = tempDir(t);
  for (const { file, image } of turbo) {
    const config = join(dir, 'config.json');
    writeFileSync(config, JSON.stringify(image).replaceAll('@DIR@', fixture('small', 'bad')));
    const run = obd('verify', '--json', config);
    assert.equal(run.status, 3, file);
    const { layers } = JSON.parse(run.stdout) as Verified;
    assert.equal(layers[0]?.ok, true, file);
    assert.equal(layers[1]?.ok, false, file);
    assert.ok(
      layers[1].faults.some(({ message }) => message.includes(file)),
      file,
    );
  }
  const good = join(dir, 'good.json');
  const text = readFileSync(fixture('small', 'turbooci', 'image.json'), 'utf8');
  writeFileSync(good, text.replaceAll('@DIR@', fixture('small', 'turbooci')));
  const run = obd('verify', '--quiet', good);
  assert.equal(run.status, 0, run.stdout + run.stderr);
});

test('obd inspect shows what it can of a damaged layer and exits 3', { skip: noFixtures }, () => {
  const run = obd('inspect', fixture('small', 'bad', 'lsmt-index-overlap.lsmt'));
  assert.equal(run.status, 3);
  assert.match(run.stdout, /header +flags 0x7/);
  assert.match(run.stdout, /FAULT +Cannot open layer .* index entry 5 overlaps/);
});

test('verifyLayer() passes every good layer', { skip: noFixtures }, async () => {
  for (const file of [
    'good.lsmt',
    'good.zf',
    'good.tar',
    'good-zstd.tar',
    'good-trailer.zf',
    'good-ttar.ext4.fs.meta',
  ]) {
    const report = await verifyLayer(await FileBlob.open(fixture('small', 'bad', file)));
    assert.deepEqual(report.faults, [], file);
  }
});

test('verifyLayer() finds mappings beyond the end of a target', { skip: noFixtures }, async () => {
  const report = await verifyLayer(await FileBlob.open(fixture('small', 'bad', 'good-ttar.ext4.fs.meta')), {
    openTarget: () => FileBlob.open(fixture('small', 'bad', 'turbo-target-short.tar')),
  });
  assert.equal(report.ok, false);
  assert.ok(report.faults.every(({ code }) => code === 'OBD_FORMAT_TRUNCATED'));
  const good = await verifyLayer(await FileBlob.open(fixture('small', 'bad', 'good-ttar.ext4.fs.meta')), {
    openTarget: () => FileBlob.open(fixture('small', 'bad', 'target.tar')),
  });
  assert.deepEqual(good.faults, []);
});

test('obd inspect and obd verify say what to write instead of what does not exist', (t) => {
  const dir = tempDir(t);
  for (const command of ['inspect', 'verify']) {
    const missing = obd(command, join(dir, 'nothing'));
    assert.equal(missing.status, 2);
    assert.match(missing.stderr, /no such file[\s\S]*docker:\/\//);
    assert.equal(obd(command, dir).status, 2);
    writeFileSync(join(dir, 'oci-layout'), '{}');
    assert.match(obd(command, dir).stderr, /write oci:/);
  }
});

test('A layer directory stands for the layer in it', (t) => {
  const dir = tempDir(t);
  writeFileSync(join(dir, 'overlaybd.commit'), layerBytes([{ start: 0, length: 1, fill: 1 }], 4096));
  assert.equal(inspectJson(dir).name, join(dir, 'overlaybd.commit'));
});

test('obd verify --digest refuses other content', (t) => {
  const file = join(tempDir(t), 'layer');
  const bytes = layerBytes([{ start: 0, length: 1, fill: 1 }], 4096);
  writeFileSync(file, bytes);
  const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
  assert.equal(obd('verify', '--digest', digest, file).status, 0);
  assert.equal(obd('verify', '--digest', `sha256:${'0'.repeat(64)}`, file).status, 3);
});

test('HashingBlob gives the bytes and the digest, whatever the order of reads, and reads each byte once when they are in order', async () => {
  const content = new Uint8Array(5_000_000).map((_, i) => (i * 31) >> 5);
  const want = createHash('sha256').update(content).digest('hex');
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(content.length - 1), fc.nat(600_000)), { maxLength: 30 }),
      fc.boolean(),
      async (reads, ordered) => {
        let fetched = 0;
        const inner = new MemoryBlob(content);
        const counting = {
          name: 'counted',
          size: content.length,
          read: async (offset: number, into: Uint8Array) => {
            fetched += into.byteLength;
            await inner.read(offset, into);
          },
          close: async () => undefined,
        };
        const blob = new HashingBlob(counting, 'sha256:');
        const plan = ordered
          ? contiguous(
              reads.map(([, length]) => length),
              content.length,
            )
          : reads;
        for (const [offset, length] of plan) {
          const into = new Uint8Array(Math.min(length, content.length - offset));
          await blob.read(offset, into);
          assert.ok(Buffer.from(into).equals(content.subarray(offset, offset + into.byteLength)));
        }
        assert.equal(await blob.finish(), want);
        if (ordered) assert.equal(fetched, content.length);
      },
    ),
    { numRuns: 30 },
  );
});

function contiguous(lengths: readonly number[], size: number): [number, number][] {
  const out: [number, number][] = [];
  let at = 0;
  for (const length of lengths) {
    if (at + length > size) break;
    out.push([at, length]);
    at += length;
  }
  return out;
}

test('A copied layer file verifies like the original', { skip: noFixtures }, async (t) => {
  const copy = join(tempDir(t), 'copy');
  copyFileSync(fixture('small', 'zfile-bare', 'layer3.zf'), copy);
  const report = await verifyLayer(await FileBlob.open(copy));
  assert.deepEqual(report.faults, []);
  assert.ok(report.blocks > 0);
});
