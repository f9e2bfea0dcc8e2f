/** Offline work on layers and images, each a function from files to files. The commands are in src/cli. */
export * from './commit-file.js';
export * from './create-layer.js';
export * from './merge-image.js';
export * from './output-file.js';
export * from './packing.js';
export * from './zfile-file.js';
