/**
 * Immutable tables in shared memory, kept once however often they are made: devices of one image, and of images with
 * common layers, have the same indexes and jump tables. They are told by their content, so nothing has to be known about
 * the files that they come from, and a file that was replaced cannot bring up what its old self held.
 */

/** Words of a table that make up its key: enough to tell tables apart, few against making one. */
const SAMPLES = 64;
const tables = new Map<number, WeakRef<SharedArrayBuffer>[]>();
const collected = new FinalizationRegistry<number>((key) => {
  const alive = (tables.get(key) ?? []).filter((table) => table.deref() !== undefined);
  if (alive.length === 0) tables.delete(key);
  else tables.set(key, alive);
});

/**
 * A table with these bytes that is in use already, else a copy of them. Nobody may write to it. Costs a look at a few
 * words, and a comparison where they agree.
 * @param bytes at a multiple of 4 in their buffer.
 */
export function sharedCopy(bytes: Uint8Array): SharedArrayBuffer {
  const key = keyOf(bytes);
  const alike = tables.get(key) ?? [];
  for (const table of alike) {
    const other = table.deref();
    if (other !== undefined && Buffer.from(other).equals(bytes)) return other;
  }
  const table = new SharedArrayBuffer(bytes.byteLength);
  new Uint8Array(table).set(bytes);
  tables.set(key, [...alike, new WeakRef(table)]);
  collected.register(table, key);
  return table;
}

function keyOf({ buffer, byteOffset, byteLength }: Uint8Array): number {
  const words = new Uint32Array(buffer, byteOffset, byteLength >>> 2);
  const step = Math.max(1, Math.floor(words.length / SAMPLES));
  let key = byteLength | 0;
  for (let i = words.length - 1; i >= 0; i -= step) key = Math.imul(key ^ (words[i] ?? 0), 0x01000193);
  return key;
}
