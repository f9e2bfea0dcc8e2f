import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { parseChallenges } from '../../src/registryblob/challenge.js';

function plain(header: string): unknown[] {
  return parseChallenges(header).map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]);
}

test('parseChallenges() keeps commas and escapes of quoted strings', () => {
  assert.deepEqual(
    plain('Bearer realm="https://a/t?x=1,2",service="s\\"q", scope="repository:a:pull,push"'),
    [['bearer', { realm: 'https://a/t?x=1,2', service: 's"q', scope: 'repository:a:pull,push' }]],
  );
});

test('parseChallenges() reads several challenges in one header', () => {
  assert.deepEqual(
    plain('Negotiate, Negotiate YIIabc==, Basic realm="x", charset=UTF-8 , Bearer realm = "y"'),
    [
      ['negotiate', {}],
      ['negotiate', {}],
      ['basic', { realm: 'x', charset: 'UTF-8' }],
      ['bearer', { realm: 'y' }],
    ],
  );
});

test('parseChallenges() ends on any input, with bounded output', () => {
  assert.deepEqual(plain(''), []);
  assert.deepEqual(plain('Bearer realm="unterminated'), [['bearer', { realm: 'unterminated' }]]);
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom(...Array.from('aB=," \\/;\t')), maxLength: 200 }),
      (text) => {
        assert.ok(parseChallenges(text).length <= 16);
      },
    ),
  );
});
