/** containerd, as a client of its API: images in its store, pulling with and without fetching. */
export { ContainerdClient, type LeaseResource, type PrepareSnapshot } from './client.js';
export { ContainerdImage } from './containerd-image.js';
export { ContentStore, type ContentName, type ContentWrite } from './content.js';
export type { ContentInfo, ImageRecord, Labels, Mount, SnapshotInfo } from './messages.js';
export { isContainerdError, resolvePlace, type ContainerdPlace } from './names.js';
export * from './pull-image.js';
export type { LayerState } from './pull-layers.js';
