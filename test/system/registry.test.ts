/** Our client against Debian's docker-registry, and our server against skopeo: nothing here is a stand-in but the token server. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer, request as httpRequest } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { MemoryBlob } from '../../src/blob/index.js';
import {
  digestOf,
  MediaType,
  openImageSource,
  openImageTarget,
  resolveManifest,
  type Descriptor,
} from '../../src/oci/index.js';
import {
  CoalescingBlob,
  DockerConfigCredentials,
  FileCredentials,
  RegistryClient,
  ServiceCredentials,
  StaticCredentials,
  type RegistryClientOptions,
} from '../../src/registryblob/index.js';
import { startRegistryServer } from '../../src/registryserver/index.js';
import { makeCertificates, type Certificates } from '../support/certificates.js';
import { missing } from '../support/commands.js';
import { dockerRegistry } from '../support/docker-registry.js';
import { patternBytes, scriptedServer, sendRange } from '../support/scripted-server.js';
import { tokenServer } from '../support/token-server.js';

const run = promisify(execFile);
const skip = missing({
  'docker-registry': 'docker-registry',
  openssl: 'openssl',
  htpasswd: 'apache2-utils',
  skopeo: 'skopeo',
});

const layers = [patternBytes(1_500_000, 1), patternBytes(300_000, 2)];
const describeBytes = (bytes: Uint8Array, mediaType: string): Descriptor => ({
  mediaType,
  digest: digestOf(bytes),
  size: bytes.byteLength,
});
const layerDescriptors = layers.map((bytes) => describeBytes(bytes, MediaType.OCI_LAYER));
const config = Buffer.from(
  JSON.stringify({
    architecture: 'amd64',
    os: 'linux',
    config: {},
    rootfs: { type: 'layers', diff_ids: layers.map(digestOf) },
  }),
);
const manifest = Buffer.from(
  JSON.stringify({
    schemaVersion: 2,
    mediaType: MediaType.OCI_MANIFEST,
    config: describeBytes(config, MediaType.OCI_CONFIG),
    layers: layerDescriptors,
  }),
);

let scratch = '';
let certificates: Certificates;
let count = 0;
async function directory(): Promise<string> {
  const path = join(scratch, String(++count));
  await mkdir(path);
  return path;
}

async function withClient(
  options: RegistryClientOptions,
  work: (client: RegistryClient) => Promise<void>,
): Promise<void> {
  const client = new RegistryClient({ retry: { baseMs: 10, maxPauseMs: 50 }, ...options });
  try {
    await work(client);
  } finally {
    await client.close();
  }
}

async function pushImage(client: RegistryClient, name: string): Promise<void> {
  const target = openImageTarget(name, client);
  for (const [i, bytes] of layers.entries())
    await target.pushBlob(describeBytes(bytes, ''), new MemoryBlob(layers[i] ?? bytes));
  await target.pushBlob(describeBytes(config, ''), new MemoryBlob(config));
  await target.tag(await target.pushManifest(manifest, MediaType.OCI_MANIFEST));
  await target.close();
}

/** Reads everything there is, in streams and in coalesced random reads. */
async function checkImage(client: RegistryClient, name: string): Promise<void> {
  const source = openImageSource(name, client);
  const { manifest: found, bytes } = await resolveManifest(source);
  assert.deepEqual(Buffer.from(bytes), manifest);
  assert.deepEqual(Buffer.from(await source.readBlob(found.config)), config);
  for (const [i, descriptor] of found.layers.entries()) {
    const want = layers[i] ?? Buffer.alloc(0);
    assert.deepEqual(Buffer.concat(await (await source.streamBlob(descriptor)).toArray()), want);
    const blob = new CoalescingBlob(await source.openBlob(descriptor), { unitSize: 65_536 });
    await Promise.all(
      [0, 1000, 65_530, 200_000, want.length - 4096].map(async (offset) => {
        const into = Buffer.alloc(4096);
        await blob.read(offset, into);
        assert.deepEqual(into, want.subarray(offset, offset + 4096));
      }),
    );
    await blob.close();
  }
}

describe('with docker-registry', { skip }, () => {
  before(async () => {
    scratch = await mkdtemp(join(tmpdir(), 'obd-registry-'));
    const path = join(scratch, 'certificates');
    await mkdir(path);
    certificates = makeCertificates(path);
  });
  after(() => rm(scratch, { recursive: true }));

  test('anonymous: an image is pushed, found by skopeo, and read back', async () => {
    await using registry = await dockerRegistry(await directory());
    await withClient({ plainHttpHosts: [registry.host] }, async (client) => {
      const name = `docker://${registry.host}/team/app:v1`;
      await pushImage(client, name);
      await checkImage(client, name);
      const { stdout } = await run('skopeo', ['inspect', '--tls-verify=false', '--raw', name]);
      assert.equal(stdout, manifest.toString());
      const blob = await client.openBlob(
        `http://${registry.host}/v2/team/app/blobs/${layerDescriptors[0]?.digest ?? ''}`,
      );
      assert.equal(blob.size, layers[0]?.length);
      const other = openImageTarget(`docker://${registry.host}/team/other:v1`, client);
      const [first = describeBytes(config, ''), second = first] = layerDescriptors;
      assert.equal(
        await other.pushBlob(first, new MemoryBlob(layers[0] ?? config), { mountFrom: 'team/app' }),
        'mounted',
      );
      assert.equal(
        await other.pushBlob(second, new MemoryBlob(layers[1] ?? config), { mountFrom: 'team/none' }),
        'pushed',
      );
      await assert.rejects(openImageSource(`docker://${registry.host}/team/none:v1`, client).resolve(), {
        code: 'OBD_REGISTRY_NOT_FOUND',
      });
    });
  });

  test('chunked: a large blob arrives whole', async () => {
    await using registry = await dockerRegistry(await directory());
    await withClient({ plainHttpHosts: [registry.host] }, async (client) => {
      const large = Buffer.alloc(70 * 1024 * 1024);
      layers[0]?.copy(large, 40_000_000);
      const target = openImageTarget(`docker://${registry.host}/big:1`, client);
      const descriptor = describeBytes(large, MediaType.OCI_LAYER);
      assert.equal(await target.pushBlob(descriptor, new MemoryBlob(large)), 'pushed');
      const stream = await openImageSource(`docker://${registry.host}/big:1`, client).streamBlob(descriptor);
      let size = 0;
      for await (const chunk of stream) size += (chunk as Uint8Array).byteLength;
      assert.equal(size, large.length);
    });
  });

  test('basic authentication: from cred.json by path prefix, from a credential helper, refused without', async () => {
    const path = await directory();
    const { stdout } = await run('htpasswd', ['-Bbn', 'user', 'pass:word']);
    await writeFile(join(path, 'htpasswd'), stdout);
    await using registry = await dockerRegistry(
      path,
      `auth: { htpasswd: { realm: test, path: ${path}/htpasswd } }\n`,
    );
    const name = `docker://${registry.host}/team/app:v1`;
    const credFile = join(path, 'cred.json');
    const auth = (text: string): { auth: string } => ({ auth: Buffer.from(text).toString('base64') });
    await writeFile(
      credFile,
      JSON.stringify({
        auths: {
          [`${registry.host}/other`]: auth('user:wrong'),
          [`${registry.host}/team`]: auth('user:pass:word'),
          [registry.host]: auth('user:wrong'),
        },
      }),
    );
    await withClient(
      { plainHttpHosts: ['127.0.0.1'], credentials: [new FileCredentials(credFile)] },
      async (client) => {
        await pushImage(client, name);
        await checkImage(client, name);
        await assert.rejects(openImageSource(`docker://${registry.host}/other:v1`, client).resolve(), {
          code: 'OBD_REGISTRY_AUTH',
        });
      },
    );
    await writeFile(
      join(path, 'docker-credential-test'),
      '#!/bin/sh\nread -r server\necho \'{"Username":"user","Secret":"pass:word"}\'\n',
      { mode: 0o755 },
    );
    await writeFile(join(path, 'config.json'), JSON.stringify({ credHelpers: { [registry.host]: 'test' } }));
    const env = { PATH: `${path}:/usr/bin:/bin` };
    const helper = new DockerConfigCredentials(join(path, 'config.json'), env);
    await withClient({ plainHttpHosts: ['127.0.0.1'], credentials: [helper] }, (client) =>
      checkImage(client, name),
    );
    await withClient({ plainHttpHosts: ['127.0.0.1'] }, async (client) => {
      await assert.rejects(openImageSource(name, client).resolve(), {
        code: 'OBD_REGISTRY_AUTH',
        message: /none are known/,
      });
    });
  });

  test('token server: anonymous pull, push with a password, renewal while reading, identity token', async () => {
    const path = await directory();
    const { serverCert: certFile, serverKey: keyFile } = certificates;
    const user = { username: 'user', password: 'password' };
    await using tokens = await tokenServer({
      certFile,
      keyFile,
      lifetimeS: 2,
      user,
      identityToken: 'refresh-me',
    });
    await using registry = await dockerRegistry(
      path,
      `auth: { token: { realm: '${tokens.url}/token', service: 'test service', issuer: obd test, rootcertbundle: ${certFile} } }\n`,
    );
    const name = `docker://${registry.host}/team/app:v1`;
    const hosts = { plainHttpHosts: ['127.0.0.1'] };
    await withClient(
      { ...hosts, credentials: [new StaticCredentials(user, registry.host)] },
      async (client) => {
        await pushImage(client, name);
        const other = openImageTarget(`docker://${registry.host}/team/other:v1`, client);
        const [first = describeBytes(config, '')] = layerDescriptors;
        assert.equal(
          await other.pushBlob(first, new MemoryBlob(layers[0] ?? config), { mountFrom: 'team/app' }),
          'mounted',
        );
      },
    );
    await withClient(hosts, async (client) => {
      await checkImage(client, name);
      const before = tokens.seen.length;
      const blob = await client.openBlob(
        `http://${registry.host}/v2/team/app/blobs/${layerDescriptors[0]?.digest ?? ''}`,
      );
      const into = Buffer.alloc(1000);
      for (let i = 0; i < 40; i++) {
        await blob.read(i * 1000, into);
        await sleep(100);
      }
      const renewals = tokens.seen.length - before;
      assert.ok(renewals >= 2 && renewals <= 4, `${renewals} tokens in 4 s of reading with tokens of 2 s`);
      await assert.rejects(pushImage(client, `docker://${registry.host}/team/app:v2`), {
        code: 'OBD_REGISTRY_AUTH',
      });
    });
    await withClient(
      {
        ...hosts,
        credentials: [new StaticCredentials({ username: '', password: '', identityToken: 'refresh-me' })],
      },
      (client) => pushImage(client, `docker://${registry.host}/team/third:v1`),
    );
    await withClient(
      { ...hosts, credentials: [new StaticCredentials({ ...user, password: 'wrong' })] },
      async (client) => {
        await assert.rejects(openImageSource(name, client).resolve(), {
          code: 'OBD_REGISTRY_AUTH',
          message: /token.*UNAUTHORIZED: wrong password/,
        });
      },
    );
  });

  test('TLS under a private authority: refused until it is given', async () => {
    const { ca, serverCert, serverKey } = certificates;
    await using registry = await dockerRegistry(await directory(), '', {
      certificate: serverCert,
      key: serverKey,
    });
    const name = `docker://${registry.host}/team/app:v1`;
    await withClient({ tls: { ca: [ca] } }, async (client) => {
      await pushImage(client, name);
      await checkImage(client, name);
      await assert.rejects(openImageSource(name.replace('127.0.0.1', 'localhost'), client).resolve(), {
        code: 'OBD_REGISTRY_TLS',
      });
    });
    await withClient({ skipVerifyHosts: [registry.host] }, (client) => checkImage(client, name));
    await withClient({}, async (client) => {
      await assert.rejects(
        openImageSource(name, client).resolve(),
        (error: Error & { code?: string; hint?: string }) => {
          assert.equal(error.code, 'OBD_REGISTRY_TLS', error.message);
          assert.match(String(error.hint), /authority/);
          return true;
        },
      );
    });
    await withClient({ plainHttpHosts: [registry.host] }, async (client) => {
      await assert.rejects(openImageSource(name, client).resolve(), {
        code: 'OBD_REGISTRY_RESPONSE',
        message: /400/,
      });
    });
  });

  test('TLS with a client certificate: chain and key in one file', async () => {
    const { ca, serverCert, serverKey, clientPem } = certificates;
    await using registry = await dockerRegistry(await directory(), '', {
      certificate: serverCert,
      key: serverKey,
      clientCas: ca,
    });
    const name = `docker://${registry.host}/team/app:v1`;
    await withClient({ tls: { ca: [ca], certFile: clientPem } }, async (client) => {
      await pushImage(client, name);
      await checkImage(client, name);
    });
    await withClient({ tls: { ca: [ca] } }, async (client) => {
      await assert.rejects(
        openImageSource(name, client).resolve(),
        (error: Error & { code?: string; hint?: string }) => {
          // Under TLS 1.3 the refusal arrives after the handshake, sometimes as a mere end of the connection.
          assert.match(String(error.code), /^OBD_REGISTRY_(TLS|CONNECTION)$/);
          assert.match(String(error.hint), /client certificate/);
          return true;
        },
      );
    });
  });

  test('a credential service over https: verified, with a client certificate', async () => {
    const { ca, serverCert, serverKey, clientPem } = certificates;
    const [cert, key, trusted] = await Promise.all([serverCert, serverKey, ca].map((path) => readFile(path)));
    const auths = { 'r.example': { username: 'from service', password: 'x' } };
    await using service = await scriptedServer(
      (_, response) => {
        response.end(JSON.stringify({ success: true, data: { auths } }));
      },
      { cert, key, ca: trusted, requestCert: true, rejectUnauthorized: true },
    );
    const target = { host: 'r.example', repository: 'a', url: 'https://r.example/v2/a/blobs/x' };
    const common = { mode: 'https', path: `${service.url}/auth`, timeoutMs: 3000 } as const;
    const found = await new ServiceCredentials({
      ...common,
      serverCaPath: ca,
      clientCertPath: clientPem,
    }).find(target);
    assert.equal(found?.username, 'from service');
    assert.equal(service.seen[0]?.url, `/auth?remote_url=${target.url}`);
    await assert.rejects(new ServiceCredentials({ ...common, serverCaPath: ca }).find(target), {
      code: 'OBD_REGISTRY_AUTH',
    });
    await assert.rejects(
      new ServiceCredentials({ ...common, clientCertPath: clientPem }).find(target),
      /certificate/,
    );
    await assert.rejects(
      new ServiceCredentials({ ...common, path: 'http://127.0.0.1/auth' }).find(target),
      /needs an https URL/,
    );
  });

  test('TLS to a server that speaks plain HTTP says so', async () => {
    await using registry = await dockerRegistry(await directory());
    await withClient({}, async (client) => {
      await assert.rejects(
        openImageSource(`docker://${registry.host}/a:v1`, client).resolve(),
        (error: Error & { code?: string; hint?: string }) => {
          assert.equal(error.code, 'OBD_REGISTRY_TLS', error.message);
          assert.match(String(error.hint), /does not speak TLS/);
          return true;
        },
      );
    });
  });

  test('blobs on another host: signed URLs that expire, no credentials there', async () => {
    const path = await directory();
    const { stdout } = await run('htpasswd', ['-Bbn', 'user', 'password']);
    await writeFile(join(path, 'htpasswd'), stdout);
    await using registry = await dockerRegistry(
      path,
      `auth: { htpasswd: { realm: test, path: ${path}/htpasswd } }\n`,
    );
    let signature = 0;
    await using storage = await scriptedServer(async (request, response) => {
      const url = new URL(request.url, 'http://x');
      if (url.searchParams.get('signature') !== String(signature)) response.writeHead(403).end('expired');
      else {
        const hex = url.pathname.slice(1);
        sendRange(
          request,
          response,
          await readFile(
            join(registry.storage, 'docker/registry/v2/blobs/sha256', hex.slice(0, 2), hex, 'data'),
          ),
        );
      }
    });
    // docker-registry redirects with cloud storage only, so a proxy in front of it does.
    const front = createServer((request, response) => {
      const hex = /\/blobs\/sha256:([0-9a-f]{64})$/.exec(request.url ?? '')?.[1];
      const [host, port] = registry.host.split(':');
      const inner = httpRequest(
        { host, port, path: request.url, method: request.method, headers: request.headers },
        (answer) => {
          if (hex !== undefined && request.method === 'GET' && (answer.statusCode ?? 500) < 300) {
            answer.destroy();
            response.writeHead(307, { location: `${storage.url}/${hex}?signature=${signature}` }).end();
          } else {
            response.writeHead(answer.statusCode ?? 500, answer.headers);
            answer.pipe(response);
          }
        },
      );
      inner.on('error', () => response.destroy());
      request.pipe(inner);
    });
    await new Promise<void>((resolve) => front.listen(0, '127.0.0.1', resolve));
    try {
      const host = `127.0.0.1:${(front.address() as AddressInfo).port}`;
      const credentials = [new StaticCredentials({ username: 'user', password: 'password' })];
      await withClient({ plainHttpHosts: ['127.0.0.1'], credentials }, async (client) => {
        const direct = `docker://${registry.host}/team/app:v1`;
        await pushImage(client, direct);
        const name = `docker://${host}/team/app:v1`;
        await checkImage(client, name);
        const blob = await client.openBlob(
          `http://${host}/v2/team/app/blobs/${layerDescriptors[0]?.digest ?? ''}`,
        );
        const into = Buffer.alloc(10_000);
        for (let i = 0; i < 5; i++) {
          await blob.read(i * 10_000, into);
          assert.deepEqual(into, layers[0]?.subarray(i * 10_000, (i + 1) * 10_000));
          signature++;
        }
        assert.ok(storage.seen.length > 10);
        for (const request of storage.seen) assert.equal(request.headers.authorization, undefined);
      });
    } finally {
      front.closeAllConnections();
      front.close();
    }
  });

  test('our own server: skopeo pushes to it and pulls from it, with TLS and a password', async () => {
    const path = await directory();
    const { ca, serverCert, serverKey } = certificates;
    await using server = await startRegistryServer({
      directory: join(path, 'registry'),
      tls: { cert: await readFile(serverCert), key: await readFile(serverKey) },
      users: [{ username: 'user', password: 'password' }],
    });
    const name = `docker://${server.host}/team/app:v1`;
    const layout = `oci:${join(path, 'layout')}:v1`;
    await mkdir(join(path, 'certs'));
    await writeFile(join(path, 'certs', 'ca.crt'), await readFile(ca));
    await withClient(
      { tls: { ca: [ca] }, credentials: [new StaticCredentials({ username: 'user', password: 'password' })] },
      async (client) => {
        await pushImage(client, layout);
        const common = ['copy', '--preserve-digests'];
        await run('skopeo', [
          ...common,
          `--dest-cert-dir=${path}/certs`,
          '--dest-creds=user:password',
          layout,
          name,
        ]);
        await checkImage(client, name);
        await run('skopeo', [
          ...common,
          `--src-cert-dir=${path}/certs`,
          '--src-creds=user:password',
          name,
          `oci:${path}/back:v1`,
        ]);
        await checkImage(client, `oci:${path}/back:v1`);
        await assert.rejects(
          run('skopeo', [
            ...common,
            `--src-cert-dir=${path}/certs`,
            '--src-creds=user:wrong',
            name,
            `oci:${path}/no:v1`,
          ]),
        );
      },
    );
  });
});
