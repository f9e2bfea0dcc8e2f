/** Offline work on layers and images, each a function from files to files. The commands are in src/cli. */
export * from './apply-layer.js';
export * from './block-source.js';
export * from './commit-file.js';
export * from './compact-layer.js';
export * from './create-layer.js';
export * from './import-disk.js';
export * from './merge-image.js';
export * from './output-file.js';
export * from './packing.js';
export * from './qemu-img.js';
export * from './raw-disk.js';
export * from './resize-image.js';
export * from './run-program.js';
export * from './zfile-file.js';
