/** Structured logs with secrets taken out. */
export * from './audit-log.js';
export * from './logger.js';
export * from './rotating-file.js';
