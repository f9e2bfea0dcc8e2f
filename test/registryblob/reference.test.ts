import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { formatReference, HostSet, parseBlobUrl, parseReference } from '../../src/registryblob/index.js';

const digest = `sha256:${'0123456789abcdef'.repeat(4)}`;

describe('parseReference()', () => {
  const good: [string, string, string, string, string | undefined, string | undefined][] = [
    ['debian', 'docker.io', 'registry-1.docker.io', 'library/debian', 'latest', undefined],
    ['debian:12', 'docker.io', 'registry-1.docker.io', 'library/debian', '12', undefined],
    ['user/app', 'docker.io', 'registry-1.docker.io', 'user/app', 'latest', undefined],
    ['docker.io/debian', 'docker.io', 'registry-1.docker.io', 'library/debian', 'latest', undefined],
    ['index.docker.io/a/b:x', 'docker.io', 'registry-1.docker.io', 'a/b', 'x', undefined],
    ['localhost/a', 'localhost', 'localhost', 'a', 'latest', undefined],
    ['localhost:5000/a:1', 'localhost:5000', 'localhost:5000', 'a', '1', undefined],
    ['ghcr.io/a/b_c/d.e:V-1', 'ghcr.io', 'ghcr.io', 'a/b_c/d.e', 'V-1', undefined],
    ['HOST.example/a', 'host.example', 'host.example', 'a', 'latest', undefined],
    ['[::1]:5000/a:1', '[::1]:5000', '[::1]:5000', 'a', '1', undefined],
    ['[fe80::1]/a', '[fe80::1]', '[fe80::1]', 'a', 'latest', undefined],
    [`r.example/a@${digest}`, 'r.example', 'r.example', 'a', undefined, digest],
    [`r.example:80/a:t@${digest}`, 'r.example:80', 'r.example:80', 'a', 't', digest],
  ];
  for (const [text, registry, host, repository, tag, wantDigest] of good)
    test(`reads ${text}`, () => {
      const parsed = parseReference(text);
      assert.deepEqual(parsed, { registry, host, repository, tag, digest: wantDigest });
      assert.deepEqual(parseReference(formatReference(parsed)), parsed);
    });

  const bad: [string, RegExp][] = [
    ['', /no repository/],
    ['Debian', /lower case/],
    ['a//b', /""/],
    ['a/../b', /"\.\."/],
    ['https://r.example/a', /no scheme/],
    ['r.example/a:', /"" is no tag/],
    [`r.example/a:${'x'.repeat(129)}`, /no tag/],
    ['r.example/a@sha256:12', /no digest/],
    ['r.example:99999/a', /no host/],
    [`r.example/${'a'.repeat(255)}`, /more than 255/],
    ['x'.repeat(700), /700 characters/],
    ['[::1/a', /no host/],
    ['a b', /no repository component/],
  ];
  for (const [text, message] of bad)
    test(`refuses "${text.slice(0, 40)}"`, () => {
      assert.throws(() => parseReference(text), { code: 'OBD_CONFIG_VALUE', message });
    });

  test('never fails in another way than with a ConfigError', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom(...Array.from('aZ0.:/@-_[] é')) }), (text) => {
        try {
          const parsed = parseReference(text);
          assert.deepEqual(parseReference(formatReference(parsed)), parsed);
        } catch (error) {
          assert.equal((error as { code?: string }).code, 'OBD_CONFIG_VALUE');
        }
      }),
    );
  });
});

describe('parseBlobUrl()', () => {
  test('takes a blob URL apart and writes it in one spelling', () => {
    assert.deepEqual(parseBlobUrl(`https://Host:5000/v2/a/b/blobs//${digest}`), {
      scheme: 'https',
      host: 'host:5000',
      repository: 'a/b',
      digest,
      url: `https://host:5000/v2/a/b/blobs/${digest}`,
    });
  });
  for (const [text, message] of [
    [`https://host/v2/a/manifests/${digest}`, /its path is not/],
    [`ftp://host/v2/a/blobs/${digest}`, /scheme/],
    [`https://u:secret@host/v2/a/blobs/${digest}`, /user name or password/],
    [`https://host/v2/a/blobs/${digest}?x=1`, /query/],
    ['https://host/v2/a/blobs/sha256:1', /no digest/],
    [`https://host/v2/A/blobs/${digest}`, /no repository/],
    ['host/a', /no URL/],
  ] as const)
    test(`refuses ${text.slice(0, 50)}`, () => {
      assert.throws(
        () => parseBlobUrl(text),
        (error: Error & { code?: string; hint?: string }) => {
          assert.equal(error.code, 'OBD_CONFIG_VALUE');
          assert.match(error.message, message);
          assert.doesNotMatch(`${error.message}${error.hint ?? ''}`, /secret/);
          return true;
        },
      );
    });
});

test('parseBlobUrl() refuses a digest with a broken escape', () => {
  // decodeURIComponent() in parseBlobUrl() threw a URIError, which nobody took for a wrong configuration.
  assert.throws(() => parseBlobUrl('https://host/v2/a/blobs/sha256%'), { code: 'OBD_CONFIG_VALUE' });
  assert.equal(parseBlobUrl(`https://host/v2/a/blobs/${digest.replace(':', '%3A')}`).digest, digest);
});

describe('HostSet', () => {
  test('has a host on all ports or on one', () => {
    const hosts = new HostSet(['a.example', 'B.example:5000', 'http://c.example/x', '[::1]:80']);
    for (const host of ['a.example', 'A.example:1', 'b.example:5000', 'c.example', '[::1]:80'])
      assert.ok(hosts.has(host), host);
    for (const host of ['b.example', 'b.example:5001', 'xa.example', 'localhost', '[::1]'])
      assert.ok(!hosts.has(host), host);
  });
});
