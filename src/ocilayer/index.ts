/** One layer of an OCI image: its blob unpacked, and its members put into an ext4 by the rules of the image specification. */
export * from './apply-layer.js';
export * from './unpack-layer.js';
