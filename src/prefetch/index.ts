/** Traces of what a workload reads: recorded, and replayed so that it is there before it is read. docs/prefetch.md tells how. */
export { parseFileList, findFiles, MAX_LIST_BYTES, type DiskRange, type ListEntry } from './file-list.js';
export * from './plan.js';
export * from './prefetch.js';
export * from './recording.js';
export * from './replay.js';
export * from './totals.js';
export * from './trace-file.js';
export * from './trace-layer.js';
