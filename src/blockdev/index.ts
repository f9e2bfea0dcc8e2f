/** Block devices: a blob with geometry, the I/O workers that serve it, and the front ends that show it to the machine. */
export * from './block-device.js';
export * from './front-end.js';
export * from './fuse/front-end.js';
export * from './fuse/support.js';
export * from './nbd/front-end.js';
export * from './device-meter.js';
export { readNbdStart } from './nbd/read-start.js';
export { readNbdRecords } from './nbd/records.js';
export { nbdSocketOf, nbdUri } from './nbd/uri.js';
export { IoGuard, type DeviceHealth, type IoState } from './io-guard.js';
export { DEFAULT_POLICY, type IoPolicy } from './io-policy.js';
export * from './io-workers.js';
export { imageOf } from './late-device.js';
export * from './memory-front-end.js';
export { ReadRecord, type FirstRead } from './read-record.js';
export { Status } from './sense.js';
export * from './tcmu/index.js';
