/** The reference's metadata.db: what containerd's own package wrote (fixtures/reference-root), whole, damaged and hostile. */
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { gunzipSync } from 'node:zlib';
import { SnapshotError } from '../../src/blob/index.js';
import { MetadataStore } from '../../src/snapshotter/metadata-store.js';
import type { SnapshotRecord } from '../../src/snapshotter/records.js';
import { readReferenceStore } from '../../src/snapshotter/reference-store.js';
import { checkout } from '../support/fixtures.js';
import type { ReferenceSnapshot } from '../support/reference-snapshot.js';
import { tempDir } from '../support/unpack.js';

const unpack = (name: string): Buffer =>
  gunzipSync(readFileSync(join(checkout, 'test', 'fixtures', 'reference-root', name)));
const whole = unpack('metadata.db.gz');
const lines = JSON.parse(unpack('snapshots.json.gz').toString()) as ReferenceSnapshot[];
const PAGE = 4096;
const META = 16;
const ROUNDS = Number(process.env['OBD_FUZZ_ROUNDS'] ?? 300);

function asLine({
  name,
  kind,
  parent,
  labels,
  createdAt,
  updatedAt,
  usage,
}: SnapshotRecord): ReferenceSnapshot {
  return {
    Name: name,
    Kind: kind,
    Parent: parent,
    Labels: Object.keys(labels).length === 0 ? null : labels,
    Created: createdAt,
    Updated: updatedAt,
    Size: usage?.size ?? 0,
    Inodes: usage?.inodes ?? 0,
  };
}

function read(path: string, bytes: Uint8Array): readonly SnapshotRecord[] {
  writeFileSync(path, bytes);
  return readReferenceStore(path, 1900).records;
}

/** Where a page begins that holds elements of this kind, in the newest tree: its number is its place. */
function pageWith(flags: number): number {
  for (let at = 2 * PAGE; at < whole.length; at += PAGE)
    if (whole.readUInt16LE(at + 8) === flags && whole.readBigUInt64LE(at) === BigInt(at / PAGE)) return at;
  throw new Error(`The fixture has no page with flags ${flags}`);
}

test('readReferenceStore() finds what containerd says is in its store', (t) => {
  const path = join(tempDir(t), 'metadata.db');
  assert.deepEqual(
    read(path, whole).map(asLine),
    lines.map((line) => ({ ...line, Labels: line.Labels ?? null })),
  );
  // 3 layers, a container and a view, 180 fillers of which 60 are gone: numbers are never given twice.
  assert.equal(readReferenceStore(path, 1900).sequence, 185);
  assert.ok(pageWith(1) > 0, 'the fixture has branch pages');
});

test('MetadataStore begins with the reference’s snapshots, once, and leaves its file alone', async (t) => {
  const root = tempDir(t);
  const file = join(root, 'metadata.db');
  writeFileSync(file, whole);
  const store = MetadataStore.open(root);
  assert.equal(store.takenOver, lines.length);
  assert.equal(store.nextId(), 186);
  store.remove('default/8/container');
  await store.close();
  const again = MetadataStore.open(root);
  assert.equal(again.takenOver, 0);
  assert.deepEqual(
    again.all().map(({ name }) => name),
    lines.map(({ Name }) => Name).filter((name) => name !== 'default/8/container'),
  );
  await again.close();
  assert.ok(readFileSync(file).equals(whole));
});

test('what could not be taken over is taken over once the file is mended', async (t) => {
  const root = tempDir(t);
  writeFileSync(join(root, 'metadata.db'), whole.subarray(0, 9 * PAGE));
  for (let n = 0; n < 2; n++)
    assert.throws(() => MetadataStore.open(root), { code: 'OBD_SNAPSHOT_METADATA' });
  writeFileSync(join(root, 'metadata.db'), whole);
  const store = MetadataStore.open(root);
  assert.equal(store.all().length, lines.length);
  await store.close();
});

test('one damaged meta page is as good as none; two are an error that says where', (t) => {
  const path = join(tempDir(t), 'metadata.db');
  for (const page of [0, 1]) {
    const half = Buffer.from(whole);
    half.writeUInt8(half.readUInt8(page * PAGE + META + 16) ^ 1, page * PAGE + META + 16);
    // The other may be one transaction older: the last removal is then not there.
    assert.ok(read(path, half).length >= lines.length);
    half.fill(0, (1 - page) * PAGE, (2 - page) * PAGE);
    assert.throws(() => read(path, half), {
      code: 'OBD_SNAPSHOT_METADATA',
      message: page === 0 ? /the checksum at offset 72/ : /the magic number at offset 16 is 0x0/,
    });
  }
  assert.throws(() => read(path, Buffer.alloc(0)), { message: /the length of the file at offset 0 is 0/ });
  assert.throws(() => read(path, Buffer.from('SQLite format 3'.padEnd(8192, '\0'))), {
    message: /the magic number at offset 16 is 0x[0-9a-f]+, expected 0xed0cdaed \(bbolt\)/,
  });
});

test('a tree that leads in circles, out of the file or over itself is refused', (t) => {
  const path = join(tempDir(t), 'metadata.db');
  const branch = pageWith(1);
  const changed = (change: (bytes: Buffer) => void): Buffer => {
    const bytes = Buffer.from(whole);
    // In every branch page: which one the newest tree has is its own affair.
    change(bytes);
    return bytes;
  };
  const branches = (change: (bytes: Buffer, at: number) => void): Buffer =>
    changed((bytes) => {
      for (let at = branch; at < bytes.length; at += PAGE)
        if (bytes.readUInt16LE(at + 8) === 1 && bytes.readBigUInt64LE(at) === BigInt(at / PAGE))
          change(bytes, at);
    });
  const refused = (bytes: Buffer, message: RegExp): void => {
    assert.throws(() => read(path, bytes), { code: 'OBD_SNAPSHOT_METADATA', message });
  };
  refused(
    branches((bytes, at) => bytes.writeBigUInt64LE(BigInt(at / PAGE), at + 16 + 8)),
    /a page at offset \d+ is in two, expected in one place/,
  );
  refused(
    branches((bytes, at) => bytes.writeBigUInt64LE(2n ** 60n, at + 16 + 8)),
    /the number of a page/,
  );
  refused(
    branches((bytes, at) => bytes.writeUInt32LE(0xffff_ffff, at + 16 + 4)),
    /the place of an element/,
  );
  refused(
    branches((bytes, at) => bytes.writeUInt32LE(bytes.readUInt32LE(at + 16) - 16, at + 32)),
    /the place of an element/,
  );
  refused(
    branches((bytes, at) => bytes.writeUInt16LE(0xffff, at + 10)),
    /the count of elements/,
  );
  refused(
    branches((bytes, at) => bytes.writeUInt16LE(7, at + 8)),
    /the flags of a page/,
  );
});

test('snapshots that contradict each other are refused', (t) => {
  const path = join(tempDir(t), 'metadata.db');
  const parent = Buffer.from(`default/1/sha256:${'1'.padStart(64, '0')}`);
  const own = Buffer.from(`default/2/sha256:${'2'.padStart(64, '0')}`);
  const replaced = (from: Buffer, to: Buffer, after: Buffer): Buffer => {
    const bytes = Buffer.from(whole);
    for (let at = 0; (at = bytes.indexOf(Buffer.concat([after, from]), at)) !== -1; at++)
      to.copy(bytes, at + after.length);
    return bytes;
  };
  const key = Buffer.from('parent');
  assert.throws(() => read(path, replaced(parent, own, key)), { message: /is its own ancestor/ });
  assert.throws(() => read(path, replaced(parent, Buffer.from('x'.repeat(parent.length)), key)), {
    message: /its parent "x+" is missing, expected a committed one/,
  });
});

test('a damaged store is read as one, or refused with its place: never anything else', (t) => {
  const path = join(tempDir(t), 'metadata.db');
  const seed = randomInt(2 ** 31);
  let state = seed;
  const random = (below: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  let refused = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const bytes = Buffer.from(whole);
    const kind = random(4);
    let cut = bytes.length;
    if (kind === 0) cut = random(bytes.length);
    else if (kind === 1)
      bytes.copy(bytes, random(bytes.length / PAGE) * PAGE, random(bytes.length / PAGE) * PAGE, PAGE);
    else
      for (let n = 1 + random(40); n > 0; n--)
        // Mostly in headers and elements, where the structure is.
        bytes[random(bytes.length / PAGE) * PAGE + random(kind === 2 ? 200 : PAGE)] = random(256);
    try {
      for (const { name, id } of read(path, bytes.subarray(0, cut)))
        assert.ok(name.length > 0 && Number.isSafeInteger(id) && id > 0, `seed ${seed}, round ${round}`);
    } catch (error) {
      if (!(error instanceof SnapshotError) || error.code !== 'OBD_SNAPSHOT_METADATA')
        throw new Error(`seed ${seed}, round ${round}`, { cause: error });
      refused++;
    }
  }
  assert.ok(refused > ROUNDS / 10, `seed ${seed}: only ${refused} of ${ROUNDS} were refused`);
  assert.ok(existsSync(path));
});
