/** Images as registries and OCI layouts hold them: documents, sources and targets. */
export { OciArchiveSource } from './archive-image.js';
export { ArchiveTarget } from './archive-target.js';
export { chainIds } from './chain-ids.js';
export { digestOf, verifiedStream, verifyBytes } from './digest.js';
export { readSmallBlob } from './read-blob.js';
export { DockerArchiveSource } from './docker-archive.js';
export { parseDocument } from './document.js';
export * from './image-store.js';
export { LayoutImage } from './layout-image.js';
export * from './manifest.js';
export * from './open-image.js';
export * from './platform.js';
export { RegistryImage } from './registry-image.js';
export { chooseEntry, REF_NAME, StoredImage } from './stored-image.js';
