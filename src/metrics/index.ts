/** Numbers for Prometheus: the text format, instruments, what every process has to say, and an HTTP server. */
export * from './exporter.js';
export * from './instruments.js';
export * from './process-metrics.js';
export * from './text.js';
