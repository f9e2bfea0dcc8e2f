import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  isRetryable,
  parseRetryAfter,
  registryMessage,
  statusError,
  transportError,
} from '../../src/registryblob/failures.js';
import { pauseBefore } from '../../src/registryblob/retry.js';

const url = 'https://user:secret@r.example/v2/a/blobs/x?X-Signature=secret#secret';
const answer = (status: number, retryAfter?: string): ReturnType<typeof statusError> =>
  statusError('read blob', url, { status, retryAfter, body: undefined });

test('statuses have codes, and those that can pass are tried again', () => {
  const cases: [number, string, boolean][] = [
    [400, 'OBD_REGISTRY_RESPONSE', false],
    [401, 'OBD_REGISTRY_AUTH', false],
    [403, 'OBD_REGISTRY_AUTH', false],
    [404, 'OBD_REGISTRY_NOT_FOUND', false],
    [408, 'OBD_REGISTRY_TIMEOUT', true],
    [416, 'OBD_REGISTRY_RESPONSE', false],
    [429, 'OBD_REGISTRY_THROTTLED', true],
    [500, 'OBD_REGISTRY_SERVER', true],
    [501, 'OBD_REGISTRY_SERVER', false],
    [503, 'OBD_REGISTRY_SERVER', true],
  ];
  for (const [status, code, again] of cases) {
    const error = answer(status);
    assert.deepEqual([error.code, isRetryable(error), error.actual], [code, again, status]);
    assert.doesNotMatch(`${error.message} ${error.source ?? ''}`, /secret|user/);
  }
});

test('parseRetryAfter() reads seconds and dates', () => {
  const now = Date.parse('2030-01-01T00:00:00Z');
  assert.equal(parseRetryAfter('7', now), 7000);
  assert.equal(parseRetryAfter('Tue, 01 Jan 2030 00:00:05 GMT', now), 5000);
  assert.equal(parseRetryAfter('Mon, 01 Jan 2029 00:00:05 GMT', now), 0);
  for (const value of [undefined, 'soon', '-1', '1.5'])
    assert.equal(parseRetryAfter(value, Date.parse('2031-01-01')) ?? 0, 0);
});

test('pauseBefore() grows within bounds, obeys Retry-After within bounds, and ends', () => {
  const policy = { attempts: 5, baseMs: 100, maxPauseMs: 300, maxRetryAfterMs: 2000 };
  for (let attempt = 2; attempt <= 5; attempt++) {
    const pause = pauseBefore(attempt, answer(503), policy) ?? -1;
    assert.ok(pause >= 0 && pause <= Math.min(300, 100 * 2 ** (attempt - 2)));
  }
  assert.equal(pauseBefore(6, answer(503), policy), undefined);
  assert.ok((pauseBefore(2, answer(429, '2'), policy) ?? 0) >= 2000);
  assert.equal(pauseBefore(2, answer(429, '3'), policy), undefined);
  assert.equal(pauseBefore(2, answer(404), policy), undefined);
  assert.equal(pauseBefore(2, new Error('bug'), policy), undefined);
});

test('registryMessage() takes one bounded line from an answer', () => {
  const body = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
  assert.equal(
    registryMessage(body({ errors: [{ code: 'DENIED', message: 'no\n\u001b[31maccess' }] })),
    'DENIED: no [31maccess',
  );
  assert.equal(registryMessage(body({ errors: [{ code: 'X', message: 'y'.repeat(1000) }] }))?.length, 200);
  for (const value of [{}, { errors: [] }, { errors: ['x'] }, null, 'text'])
    assert.equal(registryMessage(body(value)), undefined);
  assert.equal(registryMessage(Buffer.from('<html>')), undefined);
});

test('transportError() names the cause behind wrappers, without the query', () => {
  const coded = (code: string, message = code): Error => Object.assign(new Error(message), { code });
  const cases: [unknown, string, RegExp][] = [
    [coded('ECONNREFUSED'), 'OBD_REGISTRY_CONNECTION', /ECONNREFUSED/],
    [
      new AggregateError([coded('ENETUNREACH'), coded('ECONNREFUSED')]),
      'OBD_REGISTRY_CONNECTION',
      /ECONNREFUSED/,
    ],
    [
      new TypeError('fetch failed', { cause: coded('ENOTFOUND') }),
      'OBD_REGISTRY_CONNECTION',
      /does not resolve/,
    ],
    [coded('UND_ERR_BODY_TIMEOUT'), 'OBD_REGISTRY_TIMEOUT', /BODY_TIMEOUT/],
    [coded('SELF_SIGNED_CERT_IN_CHAIN', 'self-signed'), 'OBD_REGISTRY_TLS', /self-signed/],
    [coded('EPROTO', 'write EPROTO ... wrong version number'), 'OBD_REGISTRY_TLS', /wrong version/],
    [coded('HPE_INVALID_CONSTANT'), 'OBD_REGISTRY_RESPONSE', /not HTTP/],
  ];
  for (const [error, code, message] of cases) {
    const made = transportError(error, 'read blob', url);
    assert.equal(made.code, code);
    assert.match(made.message, message);
    assert.doesNotMatch(`${made.message} ${made.source ?? ''}`, /secret|user/);
  }
  const gone = AbortSignal.abort();
  assert.equal(transportError(coded('ECONNRESET'), 'read blob', url, { signal: gone }).code, 'OBD_ABORTED');
});
