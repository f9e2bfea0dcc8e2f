/**
 * The snapshots that exist, and the rules between them. Everything is in memory; each change is first one durable LMDB
 * transaction (ADR 0040), so that what this store says has happened survives a power loss, and what failed has not
 * happened. All calls are synchronous, a few milliseconds when they write: no caller sees a change by halves.
 *
 *   (none) --create--> active --commit--> committed
 *   (none) --create--> view
 *   (none) --create committed--> committed            a remote layer: nothing is unpacked
 *   remove() takes away what has no children
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { open, type RootDatabase } from 'lmdb';
import { SnapshotError, ioError } from '../blob/index.js';
import { checkMetadataFile } from './metadata-file.js';
import { readReferenceStore } from './reference-store.js';
import { notFound, nowMicros, type DiskUsage, type Labels, type SnapshotRecord } from './records.js';
import { recordSchema } from './record-schema.js';

/** What a new snapshot is made of. */
export interface NewSnapshot {
  readonly id: number;
  readonly name: string;
  readonly parent: string;
  readonly kind: SnapshotRecord['kind'];
  readonly labels: Labels;
}

/** LMDB takes keys up to 1978 bytes; ours have a prefix. */
const MAX_NAME = 1900;
const FORMAT_KEY = 'format';
const FORMAT = '1';
const SEQUENCE_KEY = 'sequence';
const PREFIX = 'snapshot:';

interface Change {
  readonly put?: SnapshotRecord;
  readonly remove?: string;
}

/** See the head of this file. One per root directory and machine: the caller holds a lock. */
export class MetadataStore {
  readonly #db: RootDatabase<string, string>;
  readonly #records = new Map<string, SnapshotRecord>();
  readonly #children = new Map<string, Set<string>>();
  /** Snapshots of the reference that this one began with when it was opened. */
  takenOver = 0;
  #sequence = 0;
  #closed = false;

  private constructor(db: RootDatabase<string, string>) {
    this.#db = db;
  }

  /**
   * Opens the store of a root directory, or makes it: where the reference's snapshotter had the root, with its snapshots.
   * @throws SnapshotError OBD_SNAPSHOT_UNSUPPORTED if it is of a later version, OBD_SNAPSHOT_METADATA if the file, or the
   * reference's, is damaged, OBD_SNAPSHOT_PRECONDITION if somebody has the reference's open; IoError.
   */
  static open(root: string): MetadataStore {
    const path = join(root, 'metadata.mdb');
    let db: RootDatabase<string, string> | undefined;
    try {
      checkMetadataFile(path);
      db = open<string, string>({
        path,
        noSubdir: true,
        encoding: 'string',
        overlappingSync: false,
        cache: false,
      });
      const store = new MetadataStore(db);
      store.#load(path, join(root, 'metadata.db'));
      return store;
    } catch (error) {
      void db?.close();
      throw ioError(error, `open "${path}"`, path);
    }
  }

  /** @param reference the reference's store: a new one of ours begins with what is there. */
  #load(path: string, reference: string): void {
    const format = this.#db.get(FORMAT_KEY);
    if (format === undefined) {
      const { records, sequence } = existsSync(reference)
        ? readReferenceStore(reference, MAX_NAME)
        : { records: [], sequence: 0 };
      // All at once: until it is done, the next start does it again.
      this.#write(
        records.map((put) => ({ put })),
        sequence,
      );
      this.takenOver = records.length;
    } else if (format !== FORMAT)
      throw new SnapshotError('OBD_SNAPSHOT_UNSUPPORTED', `Cannot use "${path}": its format is not known`, {
        source: path,
        expected: FORMAT,
        actual: format.slice(0, 20),
        hint: 'It is of a later version of this program',
      });
    this.#sequence = Number(this.#db.get(SEQUENCE_KEY) ?? 0);
    for (const { key, value } of this.#db.getRange({ start: PREFIX, end: `${PREFIX}\u{10ffff}` }))
      if (key.startsWith(PREFIX)) this.#apply({ put: recordSchema.parse(JSON.parse(value)) });
  }

  /** A number for a new snapshot's directory. Not durable by itself: what it names is looked for on disk. */
  nextId(): number {
    return ++this.#sequence;
  }

  /** Makes sure that {@link nextId} gives greater numbers only: this one is in use on disk. */
  reserveId(id: number): void {
    this.#sequence = Math.max(this.#sequence, id);
  }

  /** @throws SnapshotError OBD_SNAPSHOT_NOT_FOUND */
  get(name: string): SnapshotRecord {
    const record = this.#records.get(name);
    if (record === undefined) throw notFound(name);
    return record;
  }

  find(name: string): SnapshotRecord | undefined {
    return this.#records.get(name);
  }

  /** All snapshots, as they are now; changes while the caller looks do not disturb it. */
  all(): SnapshotRecord[] {
    return [...this.#records.values()];
  }

  /** Ids that snapshots have. */
  ids(): Set<number> {
    return new Set([...this.#records.values()].map(({ id }) => id));
  }

  /** The ancestors, nearest first. */
  ancestors(record: SnapshotRecord): SnapshotRecord[] {
    const list: SnapshotRecord[] = [];
    for (let name = record.parent; name !== '';) {
      const parent = this.get(name);
      list.push(parent);
      name = parent.parent;
    }
    return list;
  }

  /** Snapshots that build directly on this one. */
  children(name: string): SnapshotRecord[] {
    return [...(this.#children.get(name) ?? [])].map((child) => this.get(child));
  }

  /** Whether {@link create} would be refused: asked before anything is made on disk. @throws SnapshotError */
  assertCreatable(name: string, parent: string): void {
    if (name === '') throw invalid('A snapshot needs a key');
    if (Buffer.byteLength(name) > MAX_NAME)
      throw invalid(`The key of a snapshot has more than ${MAX_NAME} bytes`);
    if (parent !== '') {
      const found = this.#records.get(parent);
      if (found === undefined) throw notFound(parent, 'parent snapshot');
      if (found.kind !== 'committed')
        throw invalid(`parent snapshot "${parent}" is not committed: it is ${found.kind}`);
    }
    if (this.#records.has(name)) throw exists(name);
  }

  /** @throws SnapshotError OBD_SNAPSHOT_NOT_FOUND, OBD_SNAPSHOT_INVALID, OBD_SNAPSHOT_EXISTS */
  create(snapshot: NewSnapshot): SnapshotRecord {
    this.assertCreatable(snapshot.name, snapshot.parent);
    const now = nowMicros();
    const record = { ...snapshot, createdAt: now, updatedAt: now };
    this.#change({ put: record });
    return record;
  }

  /** Whether {@link commit} would be refused. @throws SnapshotError */
  assertCommittable(name: string, key: string, parent = ''): SnapshotRecord {
    const active = this.get(key);
    if (name === '') throw invalid('A committed snapshot needs a name');
    if (Buffer.byteLength(name) > MAX_NAME)
      throw invalid(`The name of a snapshot has more than ${MAX_NAME} bytes`);
    if (this.#records.has(name)) throw exists(name);
    if (active.kind !== 'active') throw precondition(`snapshot "${key}" is not active: it is ${active.kind}`);
    if (parent !== '' && parent !== active.parent) {
      if (active.parent !== '')
        throw invalid(`Cannot commit "${key}" on "${parent}": it was prepared on "${active.parent}"`);
      const found = this.#records.get(parent);
      if (found === undefined) throw notFound(parent, 'parent snapshot');
      if (found.kind !== 'committed')
        throw precondition(`parent snapshot "${parent}" is not committed: it is ${found.kind}`);
    }
    return active;
  }

  /**
   * Makes an active snapshot a committed one. Its labels are those given here: what it was prepared with is not inherited.
   * @param parent a parent for one that was prepared without.
   * @throws SnapshotError OBD_SNAPSHOT_NOT_FOUND, OBD_SNAPSHOT_EXISTS, OBD_SNAPSHOT_PRECONDITION, OBD_SNAPSHOT_INVALID
   */
  commit(name: string, key: string, labels: Labels, usage: DiskUsage, parent = ''): SnapshotRecord {
    const active = this.assertCommittable(name, key, parent);
    const now = nowMicros();
    const record: SnapshotRecord = {
      id: active.id,
      name,
      parent: active.parent === '' ? parent : active.parent,
      kind: 'committed',
      labels,
      createdAt: now,
      updatedAt: now,
      usage,
    };
    this.#change({ remove: key }, { put: record });
    return record;
  }

  /** @throws SnapshotError OBD_SNAPSHOT_NOT_FOUND; OBD_SNAPSHOT_PRECONDITION if it has children. */
  remove(name: string): SnapshotRecord {
    const record = this.get(name);
    const children = this.#children.get(name)?.size ?? 0;
    if (children > 0)
      throw precondition(`cannot remove snapshot "${name}" with children: it has ${children}`);
    this.#change({ remove: name });
    return record;
  }

  /**
   * Changes labels.
   * @param paths what of `labels` counts: `labels` for all, `labels.KEY` for one (empty: away with it); nothing means all.
   * @throws SnapshotError OBD_SNAPSHOT_NOT_FOUND, OBD_SNAPSHOT_INVALID for anything but labels.
   */
  update(name: string, labels: Labels, paths: readonly string[] = []): SnapshotRecord {
    const before = this.get(name);
    let after: Record<string, string> = { ...before.labels };
    for (const path of paths.length === 0 ? ['labels'] : paths) {
      if (path === 'labels') after = { ...labels };
      else if (path.startsWith('labels.')) {
        const key = path.slice('labels.'.length);
        const value = labels[key] ?? '';
        if (value === '') Reflect.deleteProperty(after, key);
        else after[key] = value;
      } else throw invalid(`Cannot update "${path}" of snapshot "${name}": only labels can change`);
    }
    const record = { ...before, labels: after, updatedAt: nowMicros() };
    this.#change({ put: record });
    return record;
  }

  /** Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#db.close();
  }

  #change(...changes: readonly Change[]): void {
    this.#write(changes, this.#sequence);
    for (const change of changes) this.#apply(change);
  }

  #write(changes: readonly Change[], sequence: number): void {
    this.#db.transactionSync(() => {
      this.#db.putSync(FORMAT_KEY, FORMAT);
      this.#db.putSync(SEQUENCE_KEY, String(sequence));
      for (const { put, remove } of changes) {
        if (remove !== undefined) this.#db.removeSync(PREFIX + remove);
        if (put !== undefined) this.#db.putSync(PREFIX + put.name, JSON.stringify(put));
      }
    });
  }

  #apply({ put, remove }: Change): void {
    if (remove !== undefined) {
      const { parent = '' } = this.#records.get(remove) ?? {};
      const siblings = this.#children.get(parent);
      siblings?.delete(remove);
      if (siblings?.size === 0) this.#children.delete(parent);
      this.#records.delete(remove);
    }
    if (put !== undefined) {
      this.#records.set(put.name, put);
      if (put.parent === '') return;
      const siblings = this.#children.get(put.parent) ?? new Set();
      this.#children.set(put.parent, siblings.add(put.name));
    }
  }
}

function invalid(message: string): SnapshotError {
  return new SnapshotError('OBD_SNAPSHOT_INVALID', message);
}

function precondition(message: string): SnapshotError {
  return new SnapshotError('OBD_SNAPSHOT_PRECONDITION', message);
}

function exists(name: string): SnapshotError {
  return new SnapshotError('OBD_SNAPSHOT_EXISTS', `snapshot "${name}" already exists`);
}
