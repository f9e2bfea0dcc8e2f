/**
 * The digest of a file's content, given in ascending pieces with holes between them. Up to {@link PLAIN_LIMIT} it is the
 * sha256 that sha256sum gives. Beyond, that of the file's {@link PIECE}s that are not all zeros, each behind its number:
 * a file of terabytes that is nearly all hole then costs what it holds. Both sides of a comparison use the same.
 */
import { createHash } from 'node:crypto';

const PLAIN_LIMIT = 2 ** 30;
const PIECE = 64 * 1024;
const ZEROS = Buffer.alloc(PIECE);

/** One file's digest. Memory: one piece. */
export class ContentDigest {
  readonly #hash = createHash('sha256');
  readonly #size: number;
  readonly #plain: boolean;
  /** First byte not given yet. */
  #position = 0;
  readonly #piece: Buffer;
  /** The piece holds content. */
  #used = false;

  /** @param size bytes of the file. */
  constructor(size: number) {
    this.#size = size;
    this.#plain = size <= PLAIN_LIMIT;
    this.#piece = this.#plain ? ZEROS : Buffer.alloc(PIECE);
  }

  /** Takes content; what was left out before it is a hole. `data` is not kept. */
  add(offset: number, data: Uint8Array): void {
    if (offset < this.#position || offset + data.byteLength > this.#size)
      throw new RangeError(
        `Content at ${offset} of a file of ${this.#size} bytes, ${this.#position} are given`,
      );
    this.#hole(offset);
    if (this.#plain) this.#hash.update(data);
    else this.#cut(data);
    this.#position = offset + data.byteLength;
  }

  /** `sha256:...`, or `pieces-sha256:...` of a large file. */
  end(): string {
    this.#hole(this.#size);
    if (!this.#plain) this.#endPiece();
    return `${this.#plain ? 'sha256' : 'pieces-sha256'}:${this.#hash.digest('hex')}`;
  }

  #hole(end: number): void {
    if (this.#plain) {
      for (let at = this.#position; at < end; at += PIECE)
        this.#hash.update(ZEROS.subarray(0, Math.min(PIECE, end - at)));
    } else if (Math.floor(end / PIECE) !== Math.floor(this.#position / PIECE)) {
      this.#endPiece();
    }
    this.#position = end;
  }

  #cut(data: Uint8Array): void {
    for (let done = 0; done < data.byteLength;) {
      const at = this.#position + done;
      const inPiece = at % PIECE;
      const take = Math.min(PIECE - inPiece, data.byteLength - done);
      this.#used = true;
      this.#piece.set(data.subarray(done, done + take), inPiece);
      done += take;
      if (inPiece + take === PIECE) this.#endPiece(Math.floor(at / PIECE));
    }
  }

  #endPiece(number = Math.floor(this.#position / PIECE)): void {
    const piece = this.#piece;
    if (!this.#used) return;
    if (!piece.equals(ZEROS)) {
      const head = Buffer.alloc(8);
      head.writeBigUInt64LE(BigInt(number));
      this.#hash.update(head).update(piece);
    }
    piece.fill(0);
    this.#used = false;
  }
}
