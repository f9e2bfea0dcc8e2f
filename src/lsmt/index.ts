/** LSMT: layers of a virtual disk, their indexes, and stacks of them. */
export * from './append-layer.js';
export * from './commit-layer.js';
export * from './format.js';
export type { Recovery } from './index-log.js';
export type * from './layer.js';
export * from './layer-stack.js';
export * from './merge-index.js';
export * from './open-writable.js';
export type { NewLayerOptions } from './rw-header.js';
export * from './scratch-layer.js';
export { unsealDataFile } from './seal-layer.js';
export * from './sealed-layer.js';
export * from './segment.js';
export * from './segment-index.js';
export * from './segment-map.js';
export * from './sparse-layer.js';
export type * from './writable-layer.js';
export * from './writable-stack.js';
