/** Random access into gzip files through an index of restart points ("ddgzidx"). */
export * from './gzip-index.js';
export * from './gzip-blob.js';
