/**
 * containerd's content store. A blob is written in a conversation: the first request names it, the answer says how much
 * of it containerd has from a try before this one, and the last one commits it, which checks its size and digest.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { ContainerdError, type ReadableBlob } from '../blob/index.js';
import type { CallOptions, Connection, Stream } from './connection.js';
import type { ContentInfo, Labels } from './messages.js';
import { isContainerdError } from './names.js';

/** Bytes in one request: each costs an answer, so small ones would be slow. containerd takes 16 MiB. */
const CHUNK = 1024 * 1024;
/** Requests that may be without an answer: one is written while the next one is on its way. */
const WINDOW = 4;
/** containerd flushes a blob to disk when it is committed. */
const COMMIT_MS = 600_000;
/** Another client may be writing the same blob; what it writes serves us as well. */
const LOCKED_MS = 30 * 60_000;
const LOCKED_PAUSE_MS = 500;

/** Names content. */
export interface ContentName {
  readonly digest: string;
  readonly size: number;
}

/** What is to be written. */
export interface ContentWrite {
  /** Whoever uses the same name takes up what is there of it, or waits. */
  readonly ref: string;
  readonly content: ContentName;
  /** Set when it is committed. If the content is there already they are added to it. */
  readonly labels: Labels;
  /** The bytes from an offset to the end. Not called if the content is there. Aborted if containerd fails, too. */
  readonly read: (offset: number, signal: AbortSignal) => AsyncIterable<Uint8Array>;
  /** How many of its bytes containerd has. */
  readonly onProgress?: ((done: number) => void) | undefined;
}

interface WriteRequest {
  readonly action: number;
  readonly ref?: string;
  readonly total?: number;
  readonly expected?: string;
  readonly offset?: number;
  readonly data?: Uint8Array;
  readonly labels?: Labels;
}
interface WriteAnswer {
  readonly offset: number;
}
const Action = { STAT: 0, WRITE: 1, COMMIT: 2 } as const;

/** See the head of this file. Calls may overlap. */
export class ContentStore {
  readonly #connection: Connection;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** What is known of a blob; undefined if this namespace does not have it. */
  async info(digest: string, options: CallOptions = {}): Promise<ContentInfo | undefined> {
    try {
      const { info } = await this.#connection.call<{ info: ContentInfo }>(
        'content.v1.Content/Info',
        { digest },
        { ...options, action: `look for content "${digest}"` },
      );
      return info;
    } catch (error) {
      if (isContainerdError(error, 'OBD_CONTAINERD_NOT_FOUND')) return undefined;
      throw error;
    }
  }

  /** Adds labels to a blob. @throws ContainerdError OBD_CONTAINERD_NOT_FOUND */
  async label(digest: string, labels: Labels, options: CallOptions = {}): Promise<void> {
    const paths = Object.keys(labels).map((key) => `labels.${key}`);
    if (paths.length === 0) return;
    await this.#connection.call(
      'content.v1.Content/Update',
      { info: { digest, labels }, updateMask: { paths } },
      { ...options, action: `label content "${digest}"` },
    );
  }

  /**
   * The bytes [offset, offset + length), in pieces of containerd's choice. Exactly those, or an error; not checked
   * against the digest. Leaving the loop early ends the call.
   */
  async *read(
    digest: string,
    offset: number,
    length: number,
    options: CallOptions = {},
  ): AsyncGenerator<Uint8Array, void, undefined> {
    if (length === 0) return;
    const action = `read content "${digest}"`;
    const stream = this.#connection.stream<object, { offset: number; data: Uint8Array }>(
      'content.v1.Content/Read',
      { digest, offset, size: length },
      { ...options, action },
    );
    let left = length;
    try {
      for (let answer = await stream.next(); answer !== undefined; answer = await stream.next()) {
        left -= answer.data.byteLength;
        if (left < 0) break;
        yield answer.data;
      }
    } finally {
      stream.close();
    }
    if (left !== 0)
      throw new ContainerdError(
        'OBD_CONTAINERD_REFUSED',
        `Cannot ${action}: ${left < 0 ? 'more' : 'fewer'} than ${length} bytes at offset ${offset}`,
        { source: this.#connection.address, offset },
      );
  }

  /**
   * Writes a blob unless it is there; either way it is there afterwards, kept by the lease, with the labels.
   * @returns whether it had to be written.
   * @throws what `read` throws; ContainerdError OBD_CONTAINERD_REFUSED if the bytes are not those of the digest. What
   *   containerd has got by then is taken up by the next try.
   */
  async write(what: ContentWrite, options: CallOptions = {}): Promise<'written' | 'exists'> {
    const { digest } = what.content;
    const until = Date.now() + LOCKED_MS;
    for (let fresh = false; ;) {
      try {
        await this.#converse(what, fresh, options);
        return 'written';
      } catch (error) {
        if (isContainerdError(error, 'OBD_CONTAINERD_EXISTS')) {
          await this.label(digest, what.labels, options);
          return 'exists';
        }
        // containerd has no code for it alone; its own clients go by "unavailable", which is more than this.
        const locked =
          isContainerdError(error, 'OBD_CONTAINERD_UNAVAILABLE') && error.message.includes('locked');
        if (locked && Date.now() < until) {
          await sleep(
            LOCKED_PAUSE_MS,
            undefined,
            options.signal === undefined ? {} : { signal: options.signal },
          );
          continue;
        }
        if (!(error instanceof BadContent)) throw error;
        await this.#abort(what.ref);
        // What an earlier try has left may be at fault.
        if (!error.resumed) throw error.error;
        fresh = true;
      }
    }
  }

  async #converse(what: ContentWrite, fresh: boolean, options: CallOptions): Promise<void> {
    const { ref, content, labels, onProgress } = what;
    const { digest: expected, size: total } = content;
    const stream = this.#connection.stream<WriteRequest, WriteAnswer>(
      'content.v1.Content/Write',
      { action: Action.STAT, ref, total, expected },
      { ...options, timeoutMs: COMMIT_MS, action: `write content "${expected}"` },
    );
    try {
      const { offset: there } = await answerOf(stream);
      let at = fresh || there > total ? 0 : there;
      onProgress?.(at);
      const resumed = at > 0;
      let unanswered = 0;
      const answered = async (): Promise<void> => {
        await answerOf(stream);
        unanswered--;
      };
      // A source may be slow: if containerd fails, it is not waited for.
      const signal =
        options.signal === undefined ? stream.failed : AbortSignal.any([options.signal, stream.failed]);
      try {
        if (at < total)
          for await (const data of chunks(what.read(at, signal))) {
            stream.send({ action: Action.WRITE, offset: at, data });
            at += data.byteLength;
            unanswered++;
            if (unanswered === WINDOW) await answered();
            onProgress?.(at);
          }
      } catch (error) {
        if (!stream.failed.aborted) throw error;
      }
      while (unanswered > 0) await answered();
      if (stream.failed.aborted) await answerOf(stream);
      stream.send({ action: Action.COMMIT, offset: at, total, expected, labels });
      try {
        await answerOf(stream);
      } catch (error) {
        if (isContainerdError(error, 'OBD_CONTAINERD_REFUSED')) throw new BadContent(error, resumed);
        throw error;
      }
    } finally {
      stream.close();
    }
  }

  /** What was begun is of no use. If this fails containerd removes it with the lease, or after a day. */
  async #abort(ref: string): Promise<void> {
    await this.#connection
      .call('content.v1.Content/Abort', { ref }, { action: `forget content "${ref}"` })
      .catch(() => undefined);
  }
}

/** The commit was refused. */
class BadContent extends Error {
  readonly error: ContainerdError;
  readonly resumed: boolean;

  constructor(error: ContainerdError, resumed: boolean) {
    super(error.message);
    this.error = error;
    this.resumed = resumed;
  }
}

/** The same bytes in pieces of {@link CHUNK}; the last one may be shorter. Pieces are not changed once they are out. */
async function* chunks(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  let parts: Uint8Array[] = [];
  let size = 0;
  for await (const piece of source)
    for (let at = 0; at < piece.byteLength;) {
      const part = piece.subarray(at, at + CHUNK - size);
      parts.push(part);
      size += part.byteLength;
      at += part.byteLength;
      if (size < CHUNK) continue;
      yield parts.length === 1 ? part : Buffer.concat(parts);
      parts = [];
      size = 0;
    }
  if (size > 0) yield Buffer.concat(parts);
}

async function answerOf(stream: Stream<WriteRequest, WriteAnswer>): Promise<WriteAnswer> {
  const answer = await stream.next();
  if (answer !== undefined) return answer;
  throw new ContainerdError(
    'OBD_CONTAINERD_REFUSED',
    'Cannot write content: containerd ended the conversation',
  );
}

/** Reads a blob for {@link ContentWrite.read}. */
export function bytesOf(blob: ReadableBlob): ContentWrite['read'] {
  return async function* (offset, signal) {
    for (let at = offset; at < blob.size; at += CHUNK) {
      const bytes = new Uint8Array(Math.min(CHUNK, blob.size - at));
      await blob.read(at, bytes, { signal });
      yield bytes;
    }
  };
}
