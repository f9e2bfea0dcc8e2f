/** Whether a disk holds what layers describe: the layers' tree in memory, the disk's read in user space. */
export * from './compare-trees.js';
export * from './disk-tree.js';
export * from './layer-tree.js';
export type { DiskName } from './disk-worker.js';
