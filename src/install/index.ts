/** What an installation consists of: files, the kernel's features, containerd's configuration. */
export { programVersion, type ManualStep } from './containerd-config.js';
export { proxySnapshotters } from './containerd-dump.js';
export * from './containerd-snippet.js';
export { InstalledFiles, RECORD_PATH, type FileResult } from './files.js';
export * from './install.js';
export * from './kernel.js';
export * from './kernel-problems.js';
export { importsOf, isImported, withImport, withoutImport, configVersion } from './toml-imports.js';
export { UNITS, USUAL_PREFIX, nodeForUnits } from './units.js';
