/** Takes a stream of bytes in order. Writers of formats write to one; files, hashes and compressors are ones. */
export interface ByteSink {
  /**
   * Appends `bytes`, which are not retained after the promise settles. The caller waits for each call before the
   * next: that is the back-pressure.
   */
  write(bytes: Uint8Array): Promise<void>;
}
