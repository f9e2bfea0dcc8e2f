import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { copyFileSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { MetadataStore } from '../../src/snapshotter/metadata-store.js';
import { tempDir } from '../support/unpack.js';

/** A store with some snapshots, closed. */
async function filledStore(root: string): Promise<string> {
  const store = MetadataStore.open(root);
  for (let i = 1; i <= 200; i++)
    store.create({
      id: store.nextId(),
      name: `snapshot-${i}`,
      parent: '',
      kind: 'active',
      labels: { number: String(i) },
    });
  await store.close();
  return join(root, 'metadata.mdb');
}

test('MetadataStore refuses a file that LMDB would end the process over', async (t) => {
  const root = tempDir(t);
  const file = await filledStore(root);
  const whole = readFileSync(file);
  const refused = (bytes: Uint8Array, message: RegExp): void => {
    writeFileSync(file, bytes);
    assert.throws(() => MetadataStore.open(root), {
      name: 'SnapshotError',
      code: 'OBD_SNAPSHOT_METADATA',
      message,
    });
    assert.ok(readFileSync(file).equals(bytes), 'the file is as it was');
  };
  refused(randomBytes(100_000), /the magic number at offset 24 is 0x[0-9a-f]+, expected 0xbeefc0de/);
  refused(Buffer.from('not a database\n'), /the magic number at offset 24 is 0x0/);
  refused(whole.subarray(0, 4096), /the magic number at offset 4120 is 0x0/);
  refused(
    whole.subarray(0, 3 * 4096),
    /the number of the last page at offset \d+ is \d+, expected less than 3/,
  );
  const otherVersion = Buffer.from(whole);
  otherVersion.writeUInt32LE(3, 28);
  refused(otherVersion, /the version at offset 28 is 3, expected 2/);
  const otherSize = Buffer.from(whole);
  otherSize.writeUInt32LE(8192, 4096 + 48);
  refused(otherSize, /the page size at offset 4144 is 8192, expected 4096/);

  writeFileSync(file, whole);
  const again = MetadataStore.open(root);
  assert.equal(again.get('snapshot-200').labels['number'], '200');
  await again.close();
});

test('MetadataStore makes an empty file a store, and one that was copied while it was open is whole', async (t) => {
  const root = tempDir(t);
  writeFileSync(join(root, 'metadata.mdb'), '');
  const file = await filledStore(root);
  assert.ok(statSync(file).size > 4096);
  const other = tempDir(t);
  const store = MetadataStore.open(root);
  store.create({ id: store.nextId(), name: 'last', parent: '', kind: 'active', labels: {} });
  copyFileSync(file, join(other, 'metadata.mdb'));
  await store.close();
  const copy = MetadataStore.open(other);
  assert.equal(copy.get('last').name, 'last');
  await copy.close();
});
