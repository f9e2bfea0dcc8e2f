import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ServerResponse } from 'node:http';
import { inspect } from 'node:util';
import { RegistryClient, type Credential, type RegistryClientOptions } from '../../src/registryblob/index.js';
import { makeCertificates } from '../support/certificates.js';
import {
  patternBytes,
  scriptedServer,
  sendRange,
  type ScriptedServer,
  type SeenRequest,
} from '../support/scripted-server.js';

const content = patternBytes(10_000);
const path = `/v2/lib/app/blobs/sha256:${'ab'.repeat(32)}`;

interface Setup {
  credential?: Credential;
  /** The token server's answer number n, from 1. */
  token?: (n: number, request: SeenRequest, response: ServerResponse) => void;
  challenge?: (realm: string) => string;
  /** Which Authorization the registry takes. */
  accept: (authorization: string) => boolean;
  options?: RegistryClientOptions;
}

async function withRegistry(
  setup: Setup,
  body: (
    read: (signal?: AbortSignal) => Promise<void>,
    servers: { registry: ScriptedServer; tokens: ScriptedServer },
  ) => Promise<void>,
): Promise<void> {
  let issued = 0;
  await using tokens = await scriptedServer((request, response) =>
    setup.token?.(++issued, request, response),
  );
  await using registry = await scriptedServer((request, response) => {
    if (setup.accept(request.headers.authorization ?? '')) sendRange(request, response, content);
    else
      response
        .writeHead(401, {
          'www-authenticate':
            setup.challenge?.(`${tokens.url}/token`) ??
            `Basic realm="b", Bearer realm="${tokens.url}/token",service="reg,istry",scope="repository:lib/app:pull"`,
        })
        .end();
  });
  const client = new RegistryClient({
    plainHttpHosts: ['127.0.0.1'],
    retry: { baseMs: 2, maxPauseMs: 4 },
    ...(setup.credential === undefined ? {} : { credentials: [{ find: async () => setup.credential }] }),
    ...setup.options,
  });
  const blob = await client.openBlob(`${registry.url}${path}`, { size: content.length });
  try {
    await body(
      async (signal) => {
        const into = Buffer.alloc(100);
        await blob.read(50, into, signal === undefined ? {} : { signal });
        assert.deepEqual(into, content.subarray(50, 150));
      },
      { registry, tokens },
    );
  } finally {
    await client.close();
  }
}

const sendToken =
  (fields: (n: number) => object) =>
  (n: number, _: SeenRequest, response: ServerResponse): void => {
    response.end(JSON.stringify(fields(n)));
  };

describe('bearer tokens', () => {
  test('are fetched once, anonymously, with service and scope of the challenge', async () => {
    await withRegistry(
      { token: sendToken((n) => ({ token: `T${n}` })), accept: (header) => header === 'Bearer T1' },
      async (read, { registry, tokens }) => {
        await Promise.all([read(), read(), read()]);
        await read();
        assert.equal(tokens.seen.length, 1);
        assert.equal(tokens.seen[0]?.url, '/token?service=reg%2Cistry&scope=repository%3Alib%2Fapp%3Apull');
        assert.equal(tokens.seen[0].headers.authorization, undefined);
        assert.ok(registry.seen.length <= 7);
      },
    );
  });

  test('are asked for with the password, and access_token is as good as token', async () => {
    await withRegistry(
      {
        credential: { username: 'user', password: 'pä:ss' },
        token: sendToken(() => ({ access_token: 'A', expires_in: 300 })),
        accept: (header) => header === 'Bearer A',
      },
      async (read, { registry, tokens }) => {
        await read();
        const sent = String(tokens.seen[0]?.headers.authorization);
        assert.equal(Buffer.from(sent.replace('Basic ', ''), 'base64').toString(), 'user:pä:ss');
        assert.ok(
          registry.seen.every((request) => !String(request.headers.authorization).startsWith('Basic')),
          'the password stays off the registry',
        );
      },
    );
  });

  test('come from an identity token by POST', async () => {
    await withRegistry(
      {
        credential: { username: '', password: '', identityToken: 'ID T' },
        token: sendToken(() => ({ access_token: 'A' })),
        accept: (header) => header === 'Bearer A',
      },
      async (read, { tokens }) => {
        await read();
        assert.equal(tokens.seen[0]?.method, 'POST');
        const form = new URLSearchParams(tokens.seen[0].body.toString());
        assert.equal(form.get('grant_type'), 'refresh_token');
        assert.equal(form.get('refresh_token'), 'ID T');
        assert.equal(form.get('scope'), 'repository:lib/app:pull');
      },
    );
  });

  test('are renewed before they expire, without a refused request', async () => {
    await withRegistry(
      {
        token: sendToken((n) => ({ token: `T${n}`, expires_in: n === 1 ? 2 : 60 })),
        accept: (header) => header.startsWith('Bearer T'),
      },
      async (read, { registry, tokens }) => {
        await read();
        await sleep(1550);
        await Promise.all([read(), read(), read(), read()]);
        assert.equal(tokens.seen.length, 2, 'one renewal for all');
        assert.equal(
          registry.seen.filter((request) => request.headers.authorization === undefined).length,
          1,
        );
        assert.equal(registry.seen.at(-1)?.headers.authorization, 'Bearer T2');
      },
    );
  });

  test('are kept while they last if the token server is down', async () => {
    await withRegistry(
      {
        token: (n, _, response) => {
          if (n === 1) response.end('{"token":"T1","expires_in":6}');
          else response.writeHead(404).end();
        },
        accept: (header) => header === 'Bearer T1',
        options: { retry: { attempts: 1 } },
      },
      async (read, { tokens }) => {
        await read();
        await sleep(4550);
        await read();
        assert.equal(tokens.seen.length, 2);
      },
    );
  });

  test('refused early are replaced once for all readers', async () => {
    let valid = 'Bearer T1';
    await withRegistry(
      {
        token: sendToken((n) => ({ token: `T${n}`, expires_in: 300 })),
        accept: (header) => header === valid,
      },
      async (read, { tokens }) => {
        await read();
        valid = 'Bearer T2';
        await Promise.all([read(), read(), read(), read(), read()]);
        assert.equal(tokens.seen.length, 2);
      },
    );
  });

  test('that the registry refuses again are an error, not a loop', async () => {
    await withRegistry(
      { token: sendToken(() => ({ token: 'T' })), accept: () => false },
      async (read, { registry }) => {
        await assert.rejects(read(), { code: 'OBD_REGISTRY_AUTH', message: /401/ });
        assert.equal(registry.seen.length, 2);
      },
    );
  });

  test('wait for nobody who gave up: one abort does not disturb the others', async () => {
    await withRegistry(
      {
        token: (_, __, response) => void setTimeout(() => response.end('{"token":"T"}'), 100),
        accept: (header) => header === 'Bearer T',
      },
      async (read, { tokens }) => {
        const controller = new AbortController();
        const first = read(controller.signal);
        const second = read();
        setTimeout(() => {
          controller.abort();
        }, 50);
        await assert.rejects(first, { code: 'OBD_ABORTED' });
        await second;
        assert.equal(tokens.seen.length, 1);
      },
    );
  });

  test('a token server that fails for a moment is asked again', async () => {
    await withRegistry(
      {
        token: (n, _, response) => {
          if (n < 3) response.writeHead(502).end();
          else response.end('{"token":"T"}');
        },
        accept: (header) => header === 'Bearer T',
      },
      async (read) => {
        await read();
      },
    );
  });

  test('bad answers of the token server are errors that name it and hold no secret', async () => {
    const answers: [number, string, RegExp][] = [
      [401, '{}', /HTTP status 401/],
      [200, 'x', /not JSON/],
      [200, '{"token":""}', /neither "token" nor "access_token"/],
      [200, '{"token":"a\\r\\nevil: 1"}', /characters that no header may have/],
      [302, '', /HTTP status 302/],
    ];
    for (const [status, text, message] of answers)
      await withRegistry(
        {
          credential: { username: 'u', password: 'topsecret' },
          token: (_, __, response) => {
            response.writeHead(status, { location: 'http://127.0.0.1:1/' }).end(text);
          },
          accept: () => false,
        },
        async (read, { tokens }) => {
          await assert.rejects(read(), (error: Error & { source?: string; code?: string }) => {
            assert.match(error.message, message);
            assert.ok(error.code === 'OBD_REGISTRY_AUTH' || status === 302);
            assert.equal(error.source, `${tokens.url}/token`);
            assert.doesNotMatch(inspect(error, { depth: 5 }), /topsecret/);
            return true;
          });
        },
      );
  });

  test('a registry over TLS cannot name a realm over plain HTTP', async (t) => {
    const dir = mkdtempSync(join(tmpdir(), 'auth-'));
    const { ca, serverCert, serverKey } = makeCertificates(dir);
    const registry = createServer(
      { cert: readFileSync(serverCert), key: readFileSync(serverKey) },
      (_, response) => {
        response.writeHead(401, { 'www-authenticate': 'Bearer realm="http://tokens.example/token"' }).end();
      },
    );
    await new Promise<void>((resolve) => registry.listen(0, '127.0.0.1', resolve));
    const client = new RegistryClient({
      tls: { ca: [ca] },
      credentials: [{ find: async () => ({ username: 'u', password: 'p' }) }],
    });
    t.after(async () => {
      await client.close();
      registry.close();
      rmSync(dir, { recursive: true });
    });
    const { port } = registry.address() as AddressInfo;
    const blob = await client.openBlob(`https://127.0.0.1:${port}${path}`, { size: content.length });
    await assert.rejects(blob.read(0, Buffer.alloc(10)), {
      code: 'OBD_CONFIG_VALUE',
      message: /plain HTTP is refused for host "tokens.example"/,
    });
  });

  test('a registry named insecure may name a realm over plain HTTP on another port', async () => {
    await withRegistry(
      { token: sendToken((n) => ({ token: `T${n}` })), accept: (header) => header === 'Bearer T1' },
      async (_, { registry }) => {
        const client = new RegistryClient({ plainHttpHosts: [new URL(registry.url).host] });
        const blob = await client.openBlob(`${registry.url}${path}`, { size: content.length });
        const into = Buffer.alloc(100);
        await blob.read(50, into);
        assert.deepEqual(into, content.subarray(50, 150));
        await client.close();
      },
    );
  });
});

describe('basic authentication', () => {
  test('sends the credentials once challenged', async () => {
    await withRegistry(
      {
        credential: { username: 'u', password: 'p' },
        challenge: () => 'Basic realm="x"',
        accept: (header) => header === `Basic ${Buffer.from('u:p').toString('base64')}`,
      },
      async (read, { registry }) => {
        await read();
        await read();
        assert.deepEqual(
          registry.seen.map((request) => request.headers.authorization !== undefined),
          [false, true, true],
        );
      },
    );
  });

  test('without credentials is an error that says where to put them', async () => {
    await withRegistry({ challenge: () => 'Basic realm="x"', accept: () => false }, async (read) => {
      await assert.rejects(read(), (error: Error & { hint?: string }) => {
        assert.match(error.message, /wants a user name and password/);
        assert.match(String(error.hint), /cred\.json/);
        return true;
      });
    });
  });

  test('a scheme that we do not speak is an error that names it', async () => {
    await withRegistry({ challenge: () => 'Negotiate', accept: () => false }, async (read) => {
      await assert.rejects(read(), /schemes negotiate, expected Bearer or Basic/);
    });
  });
});
