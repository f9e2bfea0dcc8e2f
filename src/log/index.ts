/** Structured logs with secrets taken out. */
export * from './logger.js';
export * from './rotating-file.js';
