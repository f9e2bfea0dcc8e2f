/** Turns OCI images into overlaybd images: layer tars into ext4, its changes into LSMT layers. */
export * from './decompress.js';
export * from './oci-layer.js';
