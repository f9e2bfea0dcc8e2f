/**
 * The audit log: a line for each read of a registry, in overlaybd's format, so that the same scripts read it.
 *
 *   2026/11/28 18:40:00.123456|AUDIT|th=0000000000000000|download[pathname=URL][offset=0][size=262144][latency=20345]
 *
 * Bounded as every log ({@link RotatingFile}), and like it never in the way: a line that cannot be written is dropped.
 */
import { redactUrl } from './logger.js';
import { RotatingFile, type Rotation } from './rotating-file.js';

/** What was read: for somebody who waits or may come, or in the background for the whole layer. */
export type AuditOperation = 'download' | 'bk_download';

/** See the head of this file. One writer. */
export class AuditLog {
  #file: RotatingFile | undefined;

  /** @throws a system error if the file cannot be opened. */
  constructor(path: string, rotation: Rotation) {
    this.#file = new RotatingFile(path, rotation);
  }

  /**
   * Notes a read that ended well.
   * @param blob its URL or name; user information and query of a URL are left out.
   * @param offset in bytes, as is `size`.
   */
  record(
    operation: AuditOperation,
    blob: string,
    offset: number,
    size: number,
    milliseconds: number,
    at = new Date(),
  ): void {
    // What could end the field or the line is escaped: names come from images.
    const name = (/^https?:/i.test(blob) ? redactUrl(blob) : blob).replace(
      /[[\]\p{Cc}]/gu,
      encodeURIComponent,
    );
    const latency = Math.round(milliseconds * 1000);
    this.#file?.write(
      `${time(at)}|AUDIT|th=0000000000000000|` +
        `${operation}[pathname=${name}][offset=${offset}][size=${size}][latency=${latency}]\n`,
    );
  }

  /** See {@link RotatingFile.reopen}. Nothing after {@link close}. */
  reopen(): void {
    this.#file?.reopen();
  }

  /** Reads that end later are not noted: their descriptor may be another file's by then. Idempotent. */
  close(): void {
    this.#file?.close();
    this.#file = undefined;
  }
}

/** Local time, as overlaybd's; microseconds that the clock does not have are zero. */
function time(at: Date): string {
  const two = (value: number): string => String(value).padStart(2, '0');
  return (
    `${at.getFullYear()}/${two(at.getMonth() + 1)}/${two(at.getDate())} ` +
    `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, '0')}000`
  );
}
