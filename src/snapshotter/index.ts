/** The containerd snapshotter: Snapshots v1 over gRPC, metadata, directories and mounts. */
export * from './config.js';
export type { DeviceHost, DeviceTransport } from './device-host.js';
export type { FileSystemSpec } from './file-system-spec.js';
export * from './grpc-metrics.js';
export * from './grpc-server.js';
export type { LayerTools, NewWritableLayer, WritablePair } from './layer-tools.js';
export type { Mount } from './mounts.js';
export type { DiskUsage, Labels, SnapshotKind, SnapshotRecord } from './records.js';
export * from './snapshotter.js';
export type { LimitSpace } from './space-limits.js';
export { SnapshotsClient } from './wire.js';
