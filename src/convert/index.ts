/** Turns OCI images into overlaybd images: layer tars into ext4, its changes into LSMT layers, those into a manifest. */
export * from './chain.js';
export * from './convert-image.js';
export * from './layer-cache.js';
export { layerDescriptor } from './new-manifest.js';
export * from './options.js';
export * from './plan.js';
export * from './write-layer.js';
