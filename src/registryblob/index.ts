/** Blobs in registries: names, credentials, the HTTP client, ranged reads and their coalescing. Knows no format. */
export * from './client.js';
export * from './coalescing-blob.js';
export * from './config.js';
export * from './credential-service.js';
export * from './credentials.js';
export * from './docker-config.js';
export { HttpStatusError, isRetryable } from './failures.js';
export { HostSet } from './hosts.js';
export * from './reference.js';
export { RegistryBlob } from './registry-blob.js';
export { DEFAULT_RETRY, pause, withRetries, type RetryPolicy } from './retry.js';
export { type TlsFiles } from './tls.js';
export { discardBody, readBody, type HttpRequest, type HttpResponse } from './transport.js';
