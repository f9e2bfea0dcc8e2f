import { resolve } from 'node:path';

const PREFIX = 'nbd+unix:///?socket=';

/** The URI by which NBD clients know a socket. Source: the NBD project's doc/uri.md. */
export function nbdUri(socketPath: string): string {
  return PREFIX + encodeURIComponent(resolve(socketPath)).replaceAll('%2F', '/');
}

/** The socket of a URI that {@link nbdUri} made; undefined for anything else. */
export function nbdSocketOf(uri: string): string | undefined {
  return uri.startsWith(PREFIX) ? decodeURIComponent(uri.slice(PREFIX.length)) : undefined;
}
