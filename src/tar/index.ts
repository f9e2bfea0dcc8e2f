/** The tar wrapper around a layer: recognised and looked through when reading, put on when writing. */
export type { SkippableChunks } from './byte-reader.js';
export * from './header.js';
export * from './tar-reader.js';
export { badTar, type TarPlace, type TarTime } from './tar-fields.js';
export * from './tar-payload.js';
export * from './wrapper.js';
export * from './write-member.js';
