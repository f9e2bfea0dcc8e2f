/** What a hostile registry can make this program do: nothing with our credentials, nothing without bounds. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { RegistryClient, StaticCredentials } from '../../src/registryblob/index.js';
import { openImageSource, resolveManifest } from '../../src/oci/index.js';
import { scriptedServer, type Script, type ScriptedServer } from '../support/scripted-server.js';

const SECRET = { username: 'user', password: 'hunter2-secret' };
const BASIC = Buffer.from(`${SECRET.username}:${SECRET.password}`).toString('base64');

async function withClient(
  server: ScriptedServer,
  work: (client: RegistryClient) => Promise<void>,
): Promise<void> {
  const client = new RegistryClient({
    plainHttpHosts: [server.host],
    credentials: [new StaticCredentials(SECRET, server.host)],
    retry: { attempts: 1 },
  });
  try {
    await work(client);
  } finally {
    await client.close();
  }
}

const blobUrl = (server: ScriptedServer): string => `${server.url}/v2/a/blobs/sha256:${'0'.repeat(64)}`;

async function readBlob(server: ScriptedServer, client: RegistryClient): Promise<void> {
  const blob = await client.openBlob(blobUrl(server), { size: 1000 });
  try {
    await blob.read(0, Buffer.alloc(10));
  } finally {
    await blob.close();
  }
}

describe('a registry that wants what it should not have', () => {
  test('gets no credentials sent where it redirects documents to', async () => {
    await using elsewhere = await scriptedServer((_, response) => void response.writeHead(404).end());
    await using registry = await scriptedServer((request, response) => {
      if (request.headers.authorization === undefined)
        response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
      else response.writeHead(307, { location: `${elsewhere.url}/v2/a/manifests/x` }).end();
    });
    await withClient(registry, async (client) => {
      await assert.rejects(resolveManifest(openImageSource(`docker://${registry.host}/a:x`, client)));
      assert.ok(registry.seen.some(({ headers }) => headers.authorization === `Basic ${BASIC}`));
      assert.ok(elsewhere.seen.length > 0, 'the redirect is followed');
      for (const { url, headers } of elsewhere.seen)
        assert.doesNotMatch(JSON.stringify({ url, headers }), new RegExp(`${BASIC}|hunter2`));
    });
  });

  for (const place of [
    'http://169.254.169.254/latest/meta-data/iam/security-credentials/',
    'http://0xa9fea9fe/latest/meta-data/',
    'http://2852039166/latest/',
    'http://[::ffff:169.254.169.254]/latest/',
    'http://[fe80::1]/',
    'http://[fd00:ec2::254]/latest/',
  ])
    for (const way of ['redirect', 'realm'] as const)
      test(`cannot make us ask ${place} by ${way}`, async () => {
        await using registry = await scriptedServer((_, response) => {
          if (way === 'redirect') response.writeHead(307, { location: place }).end();
          else response.writeHead(401, { 'www-authenticate': `Bearer realm="${place}",service="x"` }).end();
        });
        await withClient(registry, async (client) => {
          await assert.rejects(readBlob(registry, client), {
            code: 'OBD_CONFIG_VALUE',
            message: /leads to a link-local address/,
          });
        });
      });

  for (const place of ['file:///etc/shadow', 'ftp://127.0.0.1/x', 'data:text/plain,x', 'unix:/run/x.sock'])
    test(`cannot make us open ${place}`, async () => {
      await using registry = await scriptedServer(
        (_, response) => void response.writeHead(307, { location: place }).end(),
      );
      await withClient(registry, async (client) => {
        await assert.rejects(readBlob(registry, client), { code: 'OBD_CONFIG_VALUE' });
      });
    });

  const endless =
    (status: number, headers: Record<string, string>): Script =>
    (_, response) => {
      response.writeHead(status, headers);
      const more = (): void => {
        while (response.writable && response.write(Buffer.alloc(65536, 0x20)));
      };
      response.on('drain', more);
      more();
    };

  for (const [what, script] of [
    ['manifest', endless(200, { 'content-type': 'application/vnd.oci.image.manifest.v1+json' })],
    ['error', endless(404, { 'content-type': 'application/json' })],
  ] as const)
    test(`an endless ${what} is dropped`, async () => {
      await using registry = await scriptedServer(script);
      await withClient(registry, async (client) => {
        const before = process.memoryUsage().rss;
        await assert.rejects(resolveManifest(openImageSource(`docker://${registry.host}/a:x`, client)), {
          code: /^OBD_/,
        });
        assert.ok(process.memoryUsage().rss - before < 200 << 20);
      });
    });

  test('endless headers are refused', async () => {
    await using registry = await scriptedServer((_, response) => {
      response.writeHead(206, { 'x-more': 'x'.repeat(100_000) }).end();
    });
    await withClient(registry, (client) =>
      assert.rejects(readBlob(registry, client), { code: /^OBD_REGISTRY/ }),
    );
  });
});
