/** Measuring: loads on images and devices, opening, indexes, caches, conversion, many devices. For `obd bench` and bench/. */
export * from './attach.js';
export * from './cache.js';
export * from './conversion.js';
export * from './device-load.js';
export * from './load.js';
export * from './lsmt-index.js';
export * from './opening.js';
export * from './report.js';
export * from './ring-load.js';
export * from './stack-load.js';
export * from './yardstick.js';
