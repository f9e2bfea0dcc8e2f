/**
 * The snapshots that the reference's snapshotter recorded in its `metadata.db`, so that a node which changes over keeps
 * what it has pulled. The layout is that of containerd's package `snapshots/storage`:
 *
 *   v1 / snapshots / NAME / id, parent, kind, inodes, size, createdat, updatedat, labels / LABEL
 *   v1 / parents            says the same as the parents above; not read
 *
 * Numbers are Go's varints, times what Go's `Time.MarshalBinary` writes.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { SnapshotError } from '../blob/index.js';
import { readBoltFile, type BoltBucket } from './bolt-file.js';
import type { SnapshotKind, SnapshotRecord } from './records.js';

/** What was found. */
export interface ReferenceStore {
  readonly records: readonly SnapshotRecord[];
  /** The greatest number that was given to a snapshot. */
  readonly sequence: number;
}

const KINDS: readonly (SnapshotKind | undefined)[] = [undefined, 'view', 'active', 'committed'];
/** Seconds from the year 1, where Go counts from, to 1970. */
const GO_EPOCH = 62_135_596_800n;
/** A place in the tree where a bucket is expected. */
const TREE = { version: 'v1', snapshots: 'snapshots', labels: 'labels' } as const;

/**
 * Reads the file, which stays as it is.
 * @param maxName bytes that a name may have.
 * @throws SnapshotError OBD_SNAPSHOT_METADATA if it is damaged, or its snapshots contradict each other,
 * OBD_SNAPSHOT_PRECONDITION if a process has it open; errors of node:fs.
 */
export function readReferenceStore(path: string, maxName: number): ReferenceStore {
  const bad = (what: string): SnapshotError =>
    new SnapshotError('OBD_SNAPSHOT_METADATA', `Cannot take over "${path}": ${what}`, {
      source: path,
      hint: 'Put back a copy of the file, or choose an empty directory as "root" and pull the images again',
    });
  const holder = holderOf(path);
  if (holder !== undefined)
    throw new SnapshotError(
      'OBD_SNAPSHOT_PRECONDITION',
      `Cannot take over "${path}": process ${holder} has it open`,
      { source: path, hint: 'Stop the other snapshotter first' },
    );
  const snapshots = bucketAt(bucketAt(readBoltFile(path), TREE.version), TREE.snapshots);
  // Without a first snapshot there is no bucket.
  if (snapshots === undefined) return { records: [], sequence: 0 };
  const records = new Map<string, SnapshotRecord>();
  const ids = new Set<number>();
  for (const [key, value] of snapshots.entries()) {
    const name = key.toString('utf8');
    if (Buffer.isBuffer(value)) throw bad(`"${name}" is no snapshot`);
    if (key.byteLength > maxName)
      throw bad(`the name of a snapshot has ${key.byteLength} bytes, expected at most ${maxName}`);
    const record = readRecord(name, value, (what) => bad(`snapshot "${name}": ${what}`));
    if (ids.has(record.id)) throw bad(`snapshot "${name}": its id ${record.id} is another's too`);
    ids.add(record.id);
    records.set(name, record);
  }
  checkParents(records, bad);
  const sequence = safe(snapshots.sequence);
  if (sequence === undefined) throw bad(`the last id is ${snapshots.sequence}`);
  return { records: [...records.values()], sequence: Math.max(sequence, ...ids) };
}

/** Whoever has a bbolt file open has locked it with flock(2). @returns a process id */
function holderOf(path: string): string | undefined {
  const { dev, ino } = statSync(path, { bigint: true });
  const hex = (n: bigint): string => n.toString(16).padStart(2, '0');
  // As makedev(3) packs them.
  const major = ((dev >> 8n) & 0xfffn) | ((dev >> 32n) & ~0xfffn);
  const minor = (dev & 0xffn) | ((dev >> 12n) & ~0xffn);
  const file = `${hex(major)}:${hex(minor)}:${ino}`;
  const locks = existsSync('/proc/locks') ? readFileSync('/proc/locks', 'latin1') : '';
  return locks
    .split('\n')
    .map((line) => /\bFLOCK +\w+ +\w+ +(\S+) +(\S+)/.exec(line))
    .find((found) => found?.[2] === file)?.[1];
}

function bucketAt(parent: BoltBucket | undefined, name: string): BoltBucket | undefined {
  for (const [key, value] of parent?.entries() ?? [])
    if (!Buffer.isBuffer(value) && key.toString('latin1') === name) return value;
  return undefined;
}

function readRecord(name: string, bucket: BoltBucket, bad: (what: string) => SnapshotError): SnapshotRecord {
  const values = new Map<string, Buffer>();
  const labels: [string, string][] = [];
  for (const [key, value] of bucket.entries()) {
    const field = key.toString('latin1');
    if (Buffer.isBuffer(value)) values.set(field, value);
    else if (field === TREE.labels)
      for (const [label, text] of value.entries())
        if (Buffer.isBuffer(text)) labels.push([label.toString('utf8'), text.toString('utf8')]);
  }
  const need = (field: string): Buffer => {
    const value = values.get(field);
    if (value === undefined) throw bad(`it has no "${field}"`);
    return value;
  };
  const number = (field: string, decode: (bytes: Buffer) => bigint | undefined, least: number): number => {
    const value = safe(decode(need(field)));
    if (value === undefined || value < least)
      throw bad(`its "${field}" is 0x${need(field).toString('hex')}, expected a number from ${least}`);
    return value;
  };
  const time = (field: string): number => {
    const micros = goTime(need(field));
    if (micros === undefined)
      throw bad(`its "${field}" is 0x${need(field).toString('hex')}, expected a time`);
    return micros;
  };
  const kind = KINDS[need('kind')[0] ?? 0];
  if (kind === undefined || need('kind').byteLength !== 1)
    throw bad(`its "kind" is 0x${need('kind').toString('hex')}, expected 1, 2 or 3`);
  const record: SnapshotRecord = {
    id: number('id', uvarint, 1),
    name,
    parent: values.get('parent')?.toString('utf8') ?? '',
    kind,
    labels: Object.fromEntries(labels),
    createdAt: time('createdat'),
    updatedAt: time('updatedat'),
  };
  if (!values.has('size')) return record;
  return { ...record, usage: { size: number('size', varint, 0), inodes: number('inodes', varint, 0) } };
}

/** Parents are there, committed, and nobody is his own ancestor. */
function checkParents(
  records: ReadonlyMap<string, SnapshotRecord>,
  bad: (what: string) => SnapshotError,
): void {
  const good = new Set<string>();
  for (const record of records.values()) {
    const chain = new Set<string>();
    for (let at = record; !good.has(at.name);) {
      if (chain.has(at.name)) throw bad(`snapshot "${at.name}" is its own ancestor`);
      chain.add(at.name);
      if (at.parent === '') break;
      const parent = records.get(at.parent);
      if (parent?.kind !== 'committed')
        throw bad(
          `snapshot "${at.name}": its parent "${at.parent}" is ${parent?.kind ?? 'missing'}, expected a committed one`,
        );
      at = parent;
    }
    for (const name of chain) good.add(name);
  }
}

/** Seven bits a byte, lowest first; the last byte has no 8th bit. All of `bytes`. */
function uvarint(bytes: Buffer): bigint | undefined {
  if (bytes.byteLength === 0 || bytes.byteLength > 10) return undefined;
  let value = 0n;
  for (const [i, byte] of bytes.entries()) {
    if (byte < 0x80 !== (i === bytes.byteLength - 1)) return undefined;
    value |= BigInt(byte & 0x7f) << BigInt(7 * i);
  }
  return value;
}

function varint(bytes: Buffer): bigint | undefined {
  const value = uvarint(bytes);
  return value === undefined ? undefined : (value & 1n) === 0n ? value >> 1n : ~(value >> 1n);
}

/** A version (1, or 2 with a byte more), seconds, nanoseconds, and the zone, which changes nothing. In microseconds. */
function goTime(bytes: Buffer): number | undefined {
  const version = bytes[0] ?? 0;
  if (!(version === 1 || version === 2) || bytes.byteLength !== 14 + version) return undefined;
  const nanos = bytes.readInt32BE(9);
  if (nanos < 0 || nanos >= 1e9) return undefined;
  return safe((bytes.readBigInt64BE(1) - GO_EPOCH) * 1_000_000n + BigInt(Math.floor(nanos / 1000)));
}

function safe(value: bigint | undefined): number | undefined {
  return value === undefined || value > Number.MAX_SAFE_INTEGER || value < Number.MIN_SAFE_INTEGER
    ? undefined
    : Number(value);
}
