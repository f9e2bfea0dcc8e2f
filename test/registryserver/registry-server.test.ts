import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { cp, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import {
  parseDuration,
  parseFault,
  parseRate,
  startRegistryServer,
  type RegistryServer,
  type RegistryServerOptions,
} from '../../src/registryserver/index.js';
import { patternBytes } from '../support/scripted-server.js';

const sha256 = (bytes: Uint8Array | string): string =>
  `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const blob = patternBytes(300_000);
const digest = sha256(blob);

let scratch = '';
before(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'obd-registryserver-'));
});
after(() => rm(scratch, { recursive: true }));

let count = 0;
async function start(options: Partial<RegistryServerOptions> = {}): Promise<RegistryServer> {
  return startRegistryServer({ directory: join(scratch, `registry-${++count}`), ...options });
}

async function push(server: RegistryServer, repository: string, bytes: Uint8Array): Promise<string> {
  const begun = await fetch(`${server.url}/v2/${repository}/blobs/uploads/`, { method: 'POST' });
  assert.equal(begun.status, 202);
  const place = new URL(begun.headers.get('location') ?? '', server.url);
  place.searchParams.set('digest', sha256(bytes));
  const done = await fetch(place, { method: 'PUT', body: Buffer.from(bytes) });
  assert.equal(done.status, 201, await done.text());
  return sha256(bytes);
}

async function errorCode(response: Response): Promise<string> {
  const { errors } = (await response.json()) as { errors: { code: string }[] };
  return errors[0]?.code ?? '';
}

describe('the registry server', () => {
  test('says which API it speaks', async () => {
    await using server = await start();
    const response = await fetch(`${server.url}/v2/`);
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('docker-distribution-api-version'), 'registry/2.0');
  });

  test('keeps a pushed blob over a restart, for its repository only', async () => {
    const directory = join(scratch, 'restart');
    {
      await using server = await start({ directory });
      await push(server, 'team/app', blob);
    }
    await using server = await start({ directory });
    const found = await fetch(`${server.url}/v2/team/app/blobs/${digest}`);
    assert.deepEqual(Buffer.from(await found.arrayBuffer()), blob);
    assert.equal(found.headers.get('docker-content-digest'), digest);
    const other = await fetch(`${server.url}/v2/other/blobs/${digest}`);
    assert.equal(other.status, 404);
    assert.equal(await errorCode(other), 'BLOB_UNKNOWN');
  });

  test('answers ranges, and 416 outside of the blob', async () => {
    await using server = await start();
    await push(server, 'a', blob);
    const cases: [string, number, string | null, Uint8Array | undefined][] = [
      ['bytes=0-0', 206, 'bytes 0-0/300000', blob.subarray(0, 1)],
      ['bytes=100-199', 206, 'bytes 100-199/300000', blob.subarray(100, 200)],
      ['bytes=299990-', 206, 'bytes 299990-299999/300000', blob.subarray(299_990)],
      ['bytes=299990-400000', 206, 'bytes 299990-299999/300000', blob.subarray(299_990)],
      ['bytes=-5', 206, 'bytes 299995-299999/300000', blob.subarray(-5)],
      ['bytes=300000-300001', 416, 'bytes */300000', undefined],
      ['bytes=0-1,5-6', 200, null, blob],
      ['lines=1-2', 200, null, blob],
    ];
    for (const [range, status, contentRange, bytes] of cases) {
      const response = await fetch(`${server.url}/v2/a/blobs/${digest}`, { headers: { range } });
      const body = Buffer.from(await response.arrayBuffer());
      assert.equal(response.status, status, range);
      assert.equal(response.headers.get('content-range'), contentRange, range);
      if (bytes !== undefined) assert.deepEqual(body, bytes, range);
    }
    const head = await fetch(`${server.url}/v2/a/blobs/${digest}`, { method: 'HEAD' });
    assert.equal(head.headers.get('content-length'), '300000');
    assert.deepEqual(server.stats, {
      requests: 11,
      blobRequests: 8,
      blobBytes: 1 + 100 + 10 + 10 + 5 + 600_000,
    });
  });

  test('takes a blob in chunks, says how far it got, and refuses a gap', async () => {
    await using server = await start();
    const begun = await fetch(`${server.url}/v2/a/blobs/uploads/`, { method: 'POST' });
    const place = new URL(begun.headers.get('location') ?? '', server.url);
    const patch = (from: number, to: number): Promise<Response> =>
      fetch(place, {
        method: 'PATCH',
        headers: { 'content-range': `${from}-${to - 1}` },
        body: blob.subarray(from, to),
      });
    assert.equal((await patch(0, 100_000)).headers.get('range'), '0-99999');
    const gap = await patch(200_000, 300_000);
    assert.equal(gap.status, 416);
    assert.equal(gap.headers.get('range'), '0-99999');
    const status = await fetch(place);
    assert.equal(status.status, 204);
    assert.equal(status.headers.get('range'), '0-99999');
    assert.equal((await patch(100_000, 300_000)).status, 202);
    place.searchParams.set('digest', digest);
    assert.equal((await fetch(place, { method: 'PUT' })).status, 201);
    assert.equal((await fetch(`${server.url}/v2/a/blobs/${digest}`, { method: 'HEAD' })).status, 200);
    assert.equal((await fetch(place, { method: 'PUT' })).status, 404, 'the upload is over');
  });

  test('refuses content of another digest and keeps nothing of it', async () => {
    const directory = join(scratch, 'wrong');
    await using server = await start({ directory });
    const response = await fetch(`${server.url}/v2/a/blobs/uploads/?digest=${digest}`, {
      method: 'POST',
      body: 'something else',
    });
    assert.equal(response.status, 400);
    assert.equal(await errorCode(response), 'DIGEST_INVALID');
    assert.deepEqual(await readdir(join(directory, '.obd-uploads')), []);
    assert.equal((await fetch(`${server.url}/v2/a/blobs/${digest}`)).status, 404);
  });

  test('stores manifests that name what it has, by tag and digest', async () => {
    await using server = await start();
    const config = await push(server, 'a', Buffer.from('{}'));
    const manifest = JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: config, size: 2 },
      layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', digest, size: blob.length }],
    });
    const put = (name: string, body: string): Promise<Response> =>
      fetch(`${server.url}/v2/a/manifests/${name}`, {
        method: 'PUT',
        headers: { 'content-type': 'application/vnd.oci.image.manifest.v1+json' },
        body,
      });
    assert.equal(await errorCode(await put('v1', manifest)), 'MANIFEST_BLOB_UNKNOWN');
    await push(server, 'a', blob);
    assert.equal((await put('v1', manifest)).status, 201);
    assert.equal(await errorCode(await put(sha256('x'), manifest)), 'DIGEST_INVALID');
    assert.equal(await errorCode(await put('v2', 'no json')), 'MANIFEST_INVALID');
    for (const name of ['v1', sha256(manifest)]) {
      const got = await fetch(`${server.url}/v2/a/manifests/${name}`);
      assert.equal(await got.text(), manifest);
      assert.equal(got.headers.get('content-type'), 'application/vnd.oci.image.manifest.v1+json');
      assert.equal(got.headers.get('docker-content-digest'), sha256(manifest));
    }
    await put('v0', manifest);
    await put('v3', manifest);
    assert.deepEqual(await (await fetch(`${server.url}/v2/a/tags/list`)).json(), {
      name: 'a',
      tags: ['v0', 'v1', 'v3'],
    });
    const page = await fetch(`${server.url}/v2/a/tags/list?n=2`);
    assert.deepEqual(await page.json(), { name: 'a', tags: ['v0', 'v1'] });
    assert.equal(page.headers.get('link'), '</v2/a/tags/list?n=2&last=v1>; rel="next"');
    assert.deepEqual(await (await fetch(`${server.url}/v2/_catalog`)).json(), { repositories: ['a'] });
    assert.equal((await fetch(`${server.url}/v2/a/manifests/v3`, { method: 'DELETE' })).status, 202);
    assert.equal((await fetch(`${server.url}/v2/a/manifests/v3`)).status, 404);
    assert.equal(
      (await fetch(`${server.url}/v2/a/manifests/${sha256(manifest)}`, { method: 'DELETE' })).status,
      202,
    );
    assert.equal((await fetch(`${server.url}/v2/a/manifests/v1`)).status, 404);
    assert.equal(await errorCode(await fetch(`${server.url}/v2/nope/tags/list`)), 'NAME_UNKNOWN');
  });

  test('mounts blobs of other repositories', async () => {
    await using server = await start();
    await push(server, 'a', blob);
    const mount = (from: string): Promise<Response> =>
      fetch(`${server.url}/v2/b/blobs/uploads/?mount=${digest}&from=${from}`, { method: 'POST' });
    assert.equal((await mount('nothing')).status, 202, 'an upload instead');
    assert.equal((await mount('a')).status, 201);
    assert.equal((await fetch(`${server.url}/v2/b/blobs/${digest}`, { method: 'HEAD' })).status, 200);
  });

  test('lets no name leave its directory', async () => {
    await using server = await start({ directory: join(scratch, 'inside') });
    await writeFile(join(scratch, 'secret'), 'secret');
    const paths = [
      '/v2/..%2f..%2fsecret/tags/list',
      '/v2/a/manifests/..%2f..%2f..%2fsecret',
      '/v2/../../secret',
      '/v2/a/blobs/sha256:..%2f..%2f..%2fsecret',
      '/v2/a/blobs/uploads/..%2f..%2fsecret',
      '/v2/_catalog/../../secret',
      '/v2/.obd-uploads/tags/list',
      '/v2/a%00/tags/list',
      '/v2/%ff/tags/list',
    ];
    for (const path of paths) {
      const response = await fetch(server.url + path);
      assert.ok(response.status === 400 || response.status === 404, `${path}: ${response.status}`);
      assert.doesNotMatch(await response.text(), /^secret/);
    }
  });

  test('serves layouts that lie in its directory, and does not write when read-only', async () => {
    const directory = join(scratch, 'layouts');
    const manifest = JSON.stringify({ schemaVersion: 2, config: { digest, size: 1 }, layers: [] });
    for (const name of ['My Image', 'other']) {
      await mkdir(join(directory, name, 'blobs', 'sha256'), { recursive: true });
      await writeFile(join(directory, name, 'oci-layout'), '{}');
      await writeFile(join(directory, name, 'blobs', 'sha256', sha256(manifest).slice(7)), manifest);
      const entry = {
        digest: sha256(manifest),
        size: manifest.length,
        mediaType: 'application/vnd.oci.image.manifest.v1+json',
      };
      const ref = { 'org.opencontainers.image.ref.name': name === 'other' ? 'r.example/lib/app:1' : 'v7' };
      await writeFile(
        join(directory, name, 'index.json'),
        JSON.stringify({ manifests: [{ ...entry, annotations: ref }] }),
      );
    }
    const copy = join(scratch, 'layouts-copy');
    await cp(directory, copy, { recursive: true });
    await using server = await start({ directory: copy, readOnly: true });
    assert.deepEqual(await (await fetch(`${server.url}/v2/_catalog`)).json(), {
      repositories: ['lib/app', 'my-image', 'other'],
    });
    for (const path of ['my-image/manifests/v7', 'lib/app/manifests/1', 'other/manifests/1'])
      assert.equal(await (await fetch(`${server.url}/v2/${path}`)).text(), manifest, path);
    assert.equal((await fetch(`${server.url}/v2/other/blobs/uploads/`, { method: 'POST' })).status, 405);
    assert.deepEqual((await readdir(copy)).sort(), ['My Image', 'other']);
  });

  test('asks for a password where it has users', async () => {
    await using server = await start({
      users: [
        { username: 'u', password: 'p:q' },
        { username: 'v', password: 'w' },
      ],
    });
    const get = (text: string | undefined): Promise<Response> =>
      fetch(
        `${server.url}/v2/`,
        text === undefined
          ? {}
          : { headers: { authorization: `Basic ${Buffer.from(text).toString('base64')}` } },
      );
    const refused = await get(undefined);
    assert.equal(refused.status, 401);
    assert.equal(refused.headers.get('www-authenticate'), 'Basic realm="obd registry"');
    assert.equal((await get('u:wrong')).status, 401);
    assert.equal((await get('u:p:q')).status, 200);
    assert.equal((await get('v:w')).status, 200);
  });

  test('fails on request', async () => {
    await using server = await start({
      faults: [
        parseFault('status=503,every=3,on=blobs,retry-after=7'),
        parseFault('truncate,after=3,count=1,on=blobs'),
      ],
    });
    await push(server, 'a', blob);
    const get = (): Promise<Response> => fetch(`${server.url}/v2/a/blobs/${digest}`);
    for (const status of [200, 200, 503]) {
      const response = await get();
      assert.equal(response.status, status);
      assert.equal(response.headers.get('retry-after'), status === 503 ? '7' : null);
      await response.arrayBuffer();
    }
    const cut = await get();
    await assert.rejects(cut.arrayBuffer(), TypeError);
    assert.equal((await (await get()).arrayBuffer()).byteLength, blob.length);
    await using reset = await start({ faults: [parseFault('reset')] });
    await assert.rejects(fetch(`${reset.url}/v2/`), TypeError);
    await using stall = await start({ faults: [parseFault('stall,on=blobs')] });
    await push(stall, 'a', blob);
    const stalled = await fetch(`${stall.url}/v2/a/blobs/${digest}`, { signal: AbortSignal.timeout(300) });
    await assert.rejects(stalled.arrayBuffer(), { name: 'TimeoutError' });
  });

  test('is as slow as asked, for all requests together', async () => {
    await using server = await start({ latencyMs: 50, bytesPerSecond: 1_000_000 });
    await push(server, 'a', blob);
    const begin = performance.now();
    await Promise.all(
      [1, 2].map(async () => (await fetch(`${server.url}/v2/a/blobs/${digest}`)).arrayBuffer()),
    );
    const took = performance.now() - begin;
    assert.ok(took > 600 && took < 10_000, `${took} ms for 600000 bytes`);
  });

  test('redirects reads of blobs on request', async () => {
    await using server = await start({ redirectBlobs: 'https://storage.example/' });
    await push(server, 'a', blob);
    const response = await fetch(`${server.url}/v2/a/blobs/${digest}`, { redirect: 'manual' });
    assert.equal(response.status, 307);
    assert.equal(response.headers.get('location'), `https://storage.example/v2/a/blobs/${digest}`);
  });

  test('stops with a request under way', async () => {
    const server = await start({ faults: [parseFault('stall,on=blobs')] });
    await push(server, 'a', blob);
    const stalled = fetch(`${server.url}/v2/a/blobs/${digest}`).then((response) => response.arrayBuffer());
    stalled.catch(() => undefined);
    const begin = performance.now();
    await server.close();
    assert.ok(performance.now() - begin < 10_000);
    await assert.rejects(stalled);
  });
});

describe('options', () => {
  test('rates, durations and failures are parsed, and refused with what is expected', () => {
    assert.equal(parseRate('25Mbit'), 3_125_000);
    assert.equal(parseRate('3MB'), 3_000_000);
    assert.equal(parseRate('512k'), 512_000);
    assert.equal(parseDuration('20ms'), 20);
    assert.equal(parseDuration('1.5s'), 1500);
    for (const text of ['', 'fast', '0', '-1M', '5Mbyte'])
      assert.throws(() => parseRate(text), { code: 'OBD_CONFIG_VALUE' });
    for (const text of ['', '5h', '-1', '9999999s'])
      assert.throws(() => parseDuration(text), { code: 'OBD_CONFIG_VALUE' });
    for (const text of [
      '',
      'explode',
      'status',
      'status=200',
      'stall,every=0',
      'stall,on=x',
      'stall,foo=1',
      'stall,every=x',
    ])
      assert.throws(() => parseFault(text), { code: 'OBD_CONFIG_VALUE' });
  });
});
