/** The seam: the only room that loads the compiled addon. Thin, typed, memory-safe; policy lives elsewhere. */
export * from './blocking.js';
export * from './codec.js';
export * from './digest.js';
export * from './ext4.js';
export * from './fake-ring.js';
export * from './file.js';
export * from './host.js';
export * from './io-loop.js';
export * from './fuse.js';
export * from './system-error.js';
export * from './load.js';
export * from './memory-queue.js';
export * from './inflate.js';
export * from './pack.js';
export * from './unzstd.js';
export * from './zfile-stream.js';
export * from './tcmu.js';
export { packageRoot } from './addon.js';
