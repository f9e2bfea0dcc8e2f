/** The service: devices of all front ends in one table, and an admin API to see and change them. */
export { activityOf, packMap, unpackMap, type DeviceActivity } from './activity.js';
export { AdminClient, NoServiceError } from './admin-client.js';
export { AdminServer, type AdminHandlers } from './admin-server.js';
export {
  DEVICE_STATES,
  TRANSPORT_CHOICES,
  isAttached,
  type AbortAnswer,
  type AttachBody,
  type DeviceInfo,
  type DeviceState,
  type ServiceInfo,
  type SnapshotInfo,
  type TrafficAnswer,
  type TransportChoice,
} from './api.js';
export { DeviceTotals, type MeteredDevice } from './device-totals.js';
export { ReferenceMetrics, type SeriesSample } from './reference-metrics.js';
export { commandMetrics, sourceMetrics } from './traffic-metrics.js';
export { prefetchMetrics } from './prefetch-metrics.js';
export { DeviceTable, type DeviceTableOptions, type TableRequest } from './device-table.js';
export { Openings, type ImageLoader, type ImageStats } from './openings.js';
export * from './mounts.js';
export * from './run-lock.js';
export type { ImageResolver } from './device-dirs.js';
export * from './service.js';
export { SnapshotServer, type SnapshotAddress } from './snapshot-server.js';
