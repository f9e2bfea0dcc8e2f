/** Images: a configuration becomes a stack of blobs, and a stack becomes something that I/O workers can plan. */
export * from './background-compaction.js';
export * from './image-config.js';
export * from './fetch-record.js';
export { ImageError } from './image-error.js';
export * from './image-opener.js';
export { loadJson } from './json-schema.js';
export * from './layer-source.js';
export {
  finishSnapshot,
  type SnapshotHooks,
  type SnapshotResult,
  type SnapshotStep,
} from './live-snapshot.js';
export * from './open-image.js';
export type { ImageDescription } from './planner.js';
export * from './result-file.js';
export * from './service-config.js';
export { SourceTraffic } from './source-traffic.js';
export * from './unwrap-layer.js';

/** URL of the module that I/O workers import for `createPlanner`. */
export const plannerModule: string = new URL('./planner.js', import.meta.url).href;
