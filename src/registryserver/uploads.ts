/** Uploads under way: where they stand, and the bytes that arrive. */
import { randomUUID } from 'node:crypto';
import { open, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { makeDirectory } from '../blob/index.js';
import { Refusal } from './answers.js';
import type { Store } from './store.js';

/** One upload. */
export interface Upload {
  readonly id: string;
  readonly repository: string;
  readonly path: string;
  /** Bytes on disk. */
  size: number;
  /** A request is writing to it. */
  busy: boolean;
  touchedAt: number;
}

/** An upload that nobody touches any more. */
const EXPIRES_MS = 3_600_000;
/** At once. */
const MAX_UPLOADS = 1000;

/** All uploads of one server. */
export class Uploads {
  readonly #store: Store;
  readonly #uploads = new Map<string, Upload>();

  constructor(store: Store) {
    this.#store = store;
  }

  /** @throws Refusal TOOMANYREQUESTS */
  async begin(repository: string): Promise<Upload> {
    const now = performance.now();
    for (const upload of this.#uploads.values())
      if (!upload.busy && now - upload.touchedAt > EXPIRES_MS) await this.cancel(upload);
    if (this.#uploads.size >= MAX_UPLOADS)
      throw new Refusal(429, 'TOOMANYREQUESTS', `${MAX_UPLOADS} uploads are under way`, {
        'retry-after': '60',
      });
    const id = randomUUID();
    const upload = { id, repository, path: this.#store.uploadPath(id), size: 0, busy: false, touchedAt: now };
    await makeDirectory(dirname(upload.path));
    await (await open(upload.path, 'wx')).close();
    this.#uploads.set(id, upload);
    return upload;
  }

  /** @throws Refusal BLOB_UPLOAD_UNKNOWN */
  get(repository: string, id: string): Upload {
    const upload = this.#uploads.get(id);
    if (upload?.repository !== repository) throw new Refusal(404, 'BLOB_UPLOAD_UNKNOWN', 'no such upload');
    return upload;
  }

  /** Appends a body. What arrived before a broken connection stays. */
  async append(upload: Upload, body: AsyncIterable<Buffer>): Promise<void> {
    if (upload.busy) throw new Refusal(409, 'BLOB_UPLOAD_INVALID', 'another request writes to this upload');
    upload.busy = true;
    try {
      const file = await open(upload.path, 'a');
      try {
        for await (const chunk of body) await file.appendFile(chunk);
      } finally {
        await file.close();
        upload.size = (await stat(upload.path)).size;
      }
    } finally {
      upload.busy = false;
      upload.touchedAt = performance.now();
    }
  }

  /** Makes it a blob; the upload is over, whatever happens. @throws Refusal DIGEST_INVALID */
  async finish(upload: Upload, digest: string): Promise<void> {
    this.#uploads.delete(upload.id);
    await this.#store.adopt(upload.repository, upload.path, digest);
  }

  async cancel(upload: Upload): Promise<void> {
    this.#uploads.delete(upload.id);
    await rm(upload.path, { force: true });
  }
}
