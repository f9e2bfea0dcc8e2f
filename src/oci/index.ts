/** Images as registries and OCI layouts hold them: documents, sources and targets. */
export * from './image-store.js';
export * from './manifest.js';
