/** ZFile: a file cut into blocks that are compressed one by one, with a table of their lengths at the end. */
export * from './format.js';
export * from './jump-table.js';
export * from './zfile-file.js';
export * from './zfile-planner.js';
export * from './zfile-reader.js';
export * from './zfile-writer.js';
