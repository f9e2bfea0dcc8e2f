/**
 * What registries do on bad days, one row each: how to bring it about, and what the reader of a device, the log and
 * `obd doctor` make of it. test/faults/registry.test.ts plays every row; docs/failures.md is made of them.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { ErrorCode } from '../../src/blob/index.js';
import type { FaultyRegistry } from './faulty-registry.js';

/** Seconds that a request may take in the test; 30 in the product. Silence counts as a stall after half of it. */
export const TEST_TIMEOUT_S = 3;

/** Beyond what a row needs: a redirect's other ends. */
export interface Elsewhere {
  /** A storage that has the same blob, over plain HTTP. */
  readonly storage: FaultyRegistry;
  /** Over TLS, with a certificate of an authority that nobody knows. */
  readonly untrusted: FaultyRegistry;
}

/** A row. */
export interface Cause {
  readonly id: string;
  /** As an operator would say it. */
  readonly cause: string;
  /** Answers while all is well, if that is not simply the blob. */
  well?(registry: FaultyRegistry, elsewhere: Elsewhere): void;
  /** Brings it about; undoing it is `well` (or an open listener and no fault). */
  begin(registry: FaultyRegistry, elsewhere: Elsewhere): void | Promise<void>;
  /** The code of one attempt's failure; undefined: the reader gets its bytes all the same. */
  readonly code?: ErrorCode;
  /** Part of the sentence. */
  readonly says?: RegExp;
  /** Seconds that one attempt takes, with the product's limits on time; `stall` counts in units of those limits. */
  readonly takes: readonly [least: number, most: number];
  /** How many limits on silence (15 s) are in `takes`, and so are shorter in the test. */
  readonly silences?: number;
  /** How many whole requests that time out. */
  readonly timeouts?: number;
  /** What an operator does. */
  readonly help: string;
}

const status =
  (code: number, headers: Record<string, string> = {}) =>
  (registry: FaultyRegistry): void => {
    registry.fault = (_request, response) => void response.writeHead(code, headers).end();
  };

/** The first `count` requests from now on are answered so, the others well. */
function first(
  registry: FaultyRegistry,
  count: number,
  answer: (request: IncomingMessage, response: ServerResponse) => void,
): void {
  const healthy = registry.fault;
  let left = count;
  registry.fault = (request, response) => {
    if (left-- > 0) answer(request, response);
    else if (healthy === undefined) registry.well(request, response);
    else healthy(request, response);
  };
}

const redirect =
  (place: () => string) =>
  (_request: IncomingMessage, response: ServerResponse): void =>
    void response.writeHead(307, { location: place() }).end();

/** Takes bearer tokens `valid-N` with the N that counts now, and gives those out. */
function bearer(registry: FaultyRegistry, gives: () => number | undefined, takes: () => number): void {
  registry.other = (_request, response) => {
    const token = gives();
    response.writeHead(token === undefined ? 401 : 200, { 'content-type': 'application/json' });
    response.end(JSON.stringify(token === undefined ? {} : { token: `valid-${token}`, expires_in: 3600 }));
  };
  registry.fault = (request, response) => {
    if (request.headers.authorization === `Bearer valid-${takes()}`) registry.well(request, response);
    else
      response
        .writeHead(401, {
          'www-authenticate': `Bearer realm="http://${registry.host}/token",service="registry"`,
        })
        .end();
  };
}

function damaged(registry: FaultyRegistry) {
  return (request: IncomingMessage, response: ServerResponse): void => {
    const bytes = Buffer.from(registry.range(request).bytes);
    for (let i = 0; i < bytes.length; i += 100) bytes[i] = (bytes[i] ?? 0) ^ 0x40;
    registry.well(request, response, { bytes });
  };
}

/** Four tries with pauses of up to 0.2, 0.4 and 0.8 s; and what a busy machine adds. */
const TRIES: readonly [number, number] = [0, 1.4];
const AT_ONCE: readonly [number, number] = [0, 0.1];

/** See the head of this file. */
export const CAUSES: readonly Cause[] = [
  {
    id: 'refused',
    cause: 'refuses connections',
    begin: (registry) => registry.close(),
    code: 'OBD_REGISTRY_CONNECTION',
    says: /ECONNREFUSED/,
    takes: TRIES,
    help: 'start it; check host, port and firewall',
  },
  {
    id: 'reset',
    cause: 'resets connections without an answer',
    begin(registry) {
      registry.fault = (_request, response) => void response.destroy();
    },
    code: 'OBD_REGISTRY_CONNECTION',
    says: /other side closed|ECONNRESET|socket hang up/,
    takes: TRIES,
    help: "look at the registry's log, and at proxies in between",
  },
  {
    id: 'midway',
    cause: 'breaks every answer off midway',
    begin(registry) {
      registry.fault = (request, response) => {
        const { first: from, last, bytes } = registry.range(request);
        response.writeHead(206, {
          'content-length': bytes.length,
          'content-range': `bytes ${from}-${last}/${registry.blob.length}`,
        });
        response.write(bytes.subarray(0, Math.ceil(bytes.length / 2)), () =>
          setTimeout(() => response.destroy(), 2),
        );
      };
    },
    takes: [0, 10],
    help: 'nothing: each try goes on where the one before ended',
  },
  {
    id: 'stall',
    cause: 'begins to answer, then is silent',
    begin(registry) {
      registry.fault = (request, response) => {
        const { first: from, last, bytes } = registry.range(request);
        response.writeHead(206, {
          'content-length': bytes.length,
          'content-range': `bytes ${from}-${last}/${registry.blob.length}`,
        });
        response.flushHeaders();
      };
    },
    code: 'OBD_REGISTRY_TIMEOUT',
    says: /Body Timeout|no answer within/i,
    takes: TRIES,
    silences: 4,
    help: 'look at the network between here and there',
  },
  {
    id: 'silent',
    cause: 'takes requests and never answers',
    begin(registry) {
      registry.fault = () => undefined;
    },
    code: 'OBD_REGISTRY_TIMEOUT',
    says: /no answer within|Headers Timeout/i,
    takes: TRIES,
    timeouts: 4,
    help: 'look at the load of the registry',
  },
  {
    id: 'token',
    cause: '401: the token has expired or was revoked',
    well(registry) {
      bearer(
        registry,
        () => 1,
        () => 1,
      );
    },
    begin(registry) {
      bearer(
        registry,
        () => 2,
        () => 2,
      );
    },
    takes: AT_ONCE,
    help: 'nothing: one new token is fetched for all who wait',
  },
  {
    id: 'no-token',
    cause: '401, and the token server refuses a new token',
    well(registry) {
      bearer(
        registry,
        () => 1,
        () => 1,
      );
    },
    begin(registry) {
      bearer(
        registry,
        () => undefined,
        () => 2,
      );
    },
    code: 'OBD_REGISTRY_AUTH',
    says: /HTTP status 401/,
    takes: AT_ONCE,
    help: '`cred.json`, `docker login`; both are read again for each token',
  },
  {
    id: '403',
    cause: '403',
    begin: status(403),
    code: 'OBD_REGISTRY_AUTH',
    says: /HTTP status 403/,
    takes: AT_ONCE,
    help: 'give this user the right to pull',
  },
  {
    id: '404',
    cause: '404',
    begin: status(404),
    code: 'OBD_REGISTRY_NOT_FOUND',
    says: /HTTP status 404/,
    takes: AT_ONCE,
    help: 'push the image again; was it garbage-collected?',
  },
  {
    id: '429',
    cause: '429 without Retry-After',
    begin: status(429),
    code: 'OBD_REGISTRY_THROTTLED',
    says: /HTTP status 429/,
    takes: TRIES,
    help: 'wait; log in; raise the limit',
  },
  {
    id: '429-short',
    cause: '429 with `Retry-After: 1`, then well',
    begin(registry) {
      first(registry, 1, (_request, response) => void response.writeHead(429, { 'retry-after': '1' }).end());
    },
    takes: [1, 2],
    help: 'nothing: what it asks for is waited, up to 20 s',
  },
  {
    id: '429-long',
    cause: '429 with `Retry-After: 3600`',
    begin: status(429, { 'retry-after': '3600' }),
    code: 'OBD_REGISTRY_THROTTLED',
    says: /HTTP status 429/,
    takes: AT_ONCE,
    help: 'wait; log in; raise the limit',
  },
  {
    id: '500',
    cause: '500, 502, 503, 504',
    begin: status(500),
    code: 'OBD_REGISTRY_SERVER',
    says: /HTTP status 500/,
    takes: TRIES,
    help: "look at the registry's log",
  },
  {
    id: 'length',
    cause: 'answers about a blob of another length',
    begin(registry) {
      registry.fault = (request, response) => {
        const { first: from, last } = registry.range(request);
        registry.well(request, response, { range: `bytes ${from}-${last}/${registry.blob.length + 1}` });
      };
    },
    code: 'OBD_REGISTRY_RESPONSE',
    says: /the blob has \d+ bytes, expected \d+/,
    takes: AT_ONCE,
    help: 'a proxy, or the size in the image configuration, is wrong',
  },
  {
    id: 'bytes-once',
    cause: 'sends wrong bytes once',
    begin(registry) {
      first(registry, 1, damaged(registry));
    },
    takes: AT_ONCE,
    help: 'nothing: the checksum fails, the bytes are dropped and fetched again',
  },
  {
    id: 'bytes',
    cause: 'sends wrong bytes',
    begin(registry) {
      registry.fault = damaged(registry);
    },
    code: 'OBD_FORMAT_CHECKSUM',
    says: /crc/i,
    takes: AT_ONCE,
    help: 'mend the registry or the proxy; push the image again',
  },
  {
    id: 'redirect',
    cause: 'sends readers to a storage whose signed URL has expired',
    well(registry, { storage }) {
      storage.fault = undefined;
      registry.fault = redirect(() => `${storage.url}/blobs/x?sig=1`);
    },
    begin(registry, { storage }) {
      storage.fault = (request, response) => {
        if (request.url?.endsWith('sig=2') === true) storage.well(request, response);
        else response.writeHead(403).end();
      };
      registry.fault = redirect(() => `${storage.url}/blobs/x?sig=2`);
    },
    takes: AT_ONCE,
    help: 'nothing: the registry is asked for a new URL',
  },
  {
    id: 'storage',
    cause: 'sends readers to a storage that refuses every URL',
    well(registry, { storage }) {
      storage.fault = undefined;
      registry.fault = redirect(() => `${storage.url}/blobs/x?sig=1`);
    },
    begin(registry, { storage }) {
      registry.fault = redirect(() => `${storage.url}/blobs/x?sig=1`);
      storage.fault = (_request, response) => void response.writeHead(403).end();
    },
    code: 'OBD_REGISTRY_AUTH',
    says: /HTTP status 403/,
    takes: AT_ONCE,
    help: "look at the registry's storage, and at its clock",
  },
  {
    id: 'dns',
    cause: 'has (or leads to) a name that does not resolve',
    begin(registry) {
      registry.fault = redirect(() => `http://storage.invalid/blobs/x`);
    },
    code: 'OBD_REGISTRY_CONNECTION',
    says: /does not resolve/,
    takes: [0, 10],
    help: 'mend DNS',
  },
  {
    id: 'tls',
    cause: 'has (or leads to) a certificate of an unknown authority',
    begin(registry, { untrusted }) {
      registry.fault = redirect(() => `${untrusted.url}/blobs/x`);
    },
    code: 'OBD_REGISTRY_TLS',
    says: /self-signed certificate|unable to verify/i,
    takes: AT_ONCE,
    help: '`registryConfig.caFiles`; this is read at the start of the service',
  },
];

const seconds = ([least, most]: readonly [number, number], more: number): string =>
  most <= 0.1 ? 'at once' : `${least + more} to ${most + more} s`;

/** The rows as a table for operators: what one attempt at a read comes to, and when. */
export function causesTable(): string {
  const rows = CAUSES.map(({ cause, code, takes, silences = 0, timeouts = 0, help }) => {
    const more = silences * 15 + timeouts * 30;
    return `| ${cause} | ${code === undefined ? 'succeeds' : `\`${code}\``} | ${seconds(takes, more)} | ${help} |`;
  });
  return ['| the registry | the attempt | after | what to do |', '|---|---|---|---|', ...rows, ''].join('\n');
}
