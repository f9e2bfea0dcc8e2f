/** Images as registries and OCI layouts hold them: documents, sources and targets. */
export { digestOf, verifiedStream, verifyBytes } from './digest.js';
export { parseDocument } from './document.js';
export * from './image-store.js';
export { LayoutImage, REF_NAME } from './layout-image.js';
export * from './manifest.js';
export * from './open-image.js';
export * from './platform.js';
export { RegistryImage } from './registry-image.js';
