/** The golden Debian image, exported as a whole device from Debian's docker-registry in every way that users protect one. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';
import { openImageSource, openImageTarget, resolveManifest, type Descriptor } from '../../src/oci/index.js';
import {
  RegistryClient,
  StaticCredentials,
  type RegistryClientOptions,
} from '../../src/registryblob/index.js';
import { parseFault, startRegistryServer } from '../../src/registryserver/index.js';
import { makeCertificates, type Certificates } from '../support/certificates.js';
import { missing } from '../support/commands.js';
import { differingChunks, readDeviceDump } from '../support/device-dump.js';
import { dockerRegistry } from '../support/docker-registry.js';
import { checkout, fixture, noFixtures } from '../support/fixtures.js';
import { tokenServer } from '../support/token-server.js';

const run = promisify(execFile);
const skip =
  missing({ 'docker-registry': 'docker-registry', openssl: 'openssl', htpasswd: 'apache2-utils' }) ||
  noFixtures;
const user = { username: 'user', password: 'pass:word' };
const auth = Buffer.from(`${user.username}:${user.password}`).toString('base64');

let scratch = '';
let certificates: Certificates;

/** Copies the golden image to a registry. @returns its layers. */
async function push(host: string, options: RegistryClientOptions): Promise<readonly Descriptor[]> {
  const client = new RegistryClient({ credentials: [new StaticCredentials(user, host)], ...options });
  try {
    const source = openImageSource(`oci:${fixture('debian', 'oci-obd')}`, client);
    const target = openImageTarget(`docker://${host}/team/debian:obd`, client);
    const { manifest, bytes, descriptor } = await resolveManifest(source);
    for (const part of [manifest.config, ...manifest.layers]) {
      const blob = await source.openBlob(part);
      await target.pushBlob(part, blob);
      await blob.close();
    }
    await target.tag(await target.pushManifest(bytes, descriptor.mediaType));
    return manifest.layers;
  } finally {
    await client.close();
  }
}

/** Exports the device lazily and compares it with the golden one. */
async function exportDevice(
  name: string,
  base: string,
  layers: readonly Descriptor[],
  service: object,
): Promise<void> {
  const directory = join(scratch, name);
  await mkdir(directory, { recursive: true });
  const at = (file: string): string => join(directory, file);
  const lowers = layers.map(({ digest, size }) => ({ digest, size, dir: '' }));
  await writeFile(at('image.json'), JSON.stringify({ repoBlobUrl: `${base}/v2/team/debian/blobs`, lowers }));
  const cacheConfig = { cacheType: 'file', cacheDir: at('cache'), cacheSizeGB: 1 };
  await writeFile(
    at('overlaybd.json'),
    JSON.stringify({ cacheConfig, gzipCacheConfig: { enable: false }, ...service }),
  );
  const args = [
    'export',
    '--quiet',
    '--config',
    at('image.json'),
    '--service-config',
    at('overlaybd.json'),
    at('disk.raw'),
  ];
  // Without a home nobody's login helps.
  const env = { PATH: process.env['PATH'], HOME: directory };
  await run(process.execPath, [join(checkout, 'bin', 'obd'), ...args], { env });
  const dump = readDeviceDump(fixture('debian', 'device.json'));
  assert.equal((await stat(at('disk.raw'))).size, dump.virtualSize);
  assert.deepEqual(differingChunks(at('disk.raw'), dump), []);
}

describe('the Debian image as a device', { skip, timeout: 300_000 }, () => {
  before(async () => {
    scratch = await mkdtemp(join(tmpdir(), 'obd-registry-device-'));
    await mkdir(join(scratch, 'certificates'));
    certificates = makeCertificates(join(scratch, 'certificates'));
  });
  after(() => rm(scratch, { recursive: true }));

  test('basic authentication from cred.json, over plain HTTP to a host named insecure', async () => {
    const directory = join(scratch, 'basic-registry');
    await mkdir(directory);
    await writeFile(
      join(directory, 'htpasswd'),
      (await run('htpasswd', ['-Bbn', user.username, user.password])).stdout,
    );
    await using registry = await dockerRegistry(
      directory,
      `auth: { htpasswd: { realm: test, path: ${directory}/htpasswd } }\n`,
    );
    const layers = await push(registry.host, { plainHttpHosts: [registry.host] });
    const path = join(directory, 'cred.json');
    await writeFile(path, JSON.stringify({ auths: { [`${registry.host}/team`]: { auth } } }));
    const registryConfig = { plainHttpHosts: [registry.host] };
    await exportDevice('basic', `http://${registry.host}`, layers, {
      registryConfig,
      credentialConfig: { mode: 'file', path },
    });
    await assert.rejects(
      exportDevice('basic-without', `http://${registry.host}`, layers, { registryConfig }),
      (error: { stderr?: string }) => {
        assert.match(String(error.stderr), /OBD_REGISTRY_AUTH/);
        return true;
      },
    );
    await exportDevice('named-by-url', `http://${registry.host}`, layers, {
      credentialConfig: { mode: 'file', path },
    });
  });

  test('a token server with short tokens, and TLS under a private authority', async () => {
    const { ca, serverCert: certFile, serverKey: keyFile } = certificates;
    const directory = join(scratch, 'token-registry');
    await mkdir(directory);
    await using tokens = await tokenServer({ certFile, keyFile, lifetimeS: 2, user });
    await using registry = await dockerRegistry(
      directory,
      `auth: { token: { realm: '${tokens.url}/token', service: test, issuer: obd test, rootcertbundle: ${certFile} } }\n`,
      { certificate: certFile, key: keyFile },
    );
    const layers = await push(registry.host, { plainHttpHosts: [tokens.host], tls: { ca: [ca] } });
    const registryConfig = { plainHttpHosts: [tokens.host], caFiles: [ca] };
    await exportDevice('token', `https://${registry.host}`, layers, { registryConfig });
    await assert.rejects(
      exportDevice('untrusted', `https://${registry.host}`, layers, {}),
      (error: { stderr?: string }) => {
        assert.match(String(error.stderr), /OBD_REGISTRY_TLS/);
        return true;
      },
    );
  });

  test('blobs on another host, which fails now and then', async () => {
    const directory = join(scratch, 'redirect-registry');
    const layers = await (async () => {
      await using registry = await startRegistryServer({ directory });
      return await push(registry.host, { plainHttpHosts: [registry.host] });
    })();
    const faults = [
      'status=503,every=9,on=blobs',
      'truncate,every=7,on=blobs',
      'reset,every=11,on=blobs',
    ].map(parseFault);
    await using storage = await startRegistryServer({
      directory,
      readOnly: true,
      faults,
      latencyMs: 5,
    });
    await using registry = await startRegistryServer({
      directory,
      readOnly: true,
      users: [user],
      redirectBlobs: storage.url,
    });
    const path = join(scratch, 'redirect-cred.json');
    await writeFile(path, JSON.stringify({ auths: { [registry.host]: user } }));
    const registryConfig = { plainHttpHosts: ['127.0.0.1'] };
    await exportDevice('redirect', registry.url, layers, { registryConfig, credentialFilePath: path });
    const size = layers.reduce((sum, layer) => sum + layer.size, 0);
    assert.ok(
      storage.stats.blobBytes >= size * 0.9 && storage.stats.blobBytes < size * 1.4,
      `${storage.stats.blobBytes} of ${size} bytes`,
    );
    assert.equal(registry.stats.blobBytes, 0);
  });
});
