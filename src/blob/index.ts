/** The words everything else is built from: blobs, errors, sectors, and the plan of a local read. Imports nothing of ours. */
export type * from './byte-sink.js';
export * from './chunk-ring.js';
export * from './errors.js';
export * from './extent-map.js';
export * from './file-blob.js';
export * from './file-chunks.js';
export * from './local-file.js';
export * from './make-directory.js';
export * from './memory-blob.js';
export * from './read-plan.js';
export * from './readable-blob.js';
export * from './refetchable-blob.js';
export * from './scratch.js';
export * from './sectors.js';
export * from './shared-copy.js';
export * from './slice-blob.js';
export * from './writable-blob.js';
