import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { createHash } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import {
  RegistryClient,
  type RegistryClientOptions,
  type RegistryBlob,
} from '../../src/registryblob/index.js';
import {
  patternBytes,
  scriptedServer,
  sendRange,
  type Script,
  type ScriptedServer,
} from '../support/scripted-server.js';

const content = patternBytes(1_000_000);
const digest = `sha256:${createHash('sha256').update(content).digest('hex')}`;
const path = `/v2/lib/app/blobs/${digest}`;

async function withBlob(
  script: Script,
  body: (blob: RegistryBlob, server: ScriptedServer, client: RegistryClient) => Promise<void>,
  options: RegistryClientOptions & { size?: number | undefined } = {},
): Promise<void> {
  await using server = await scriptedServer(script);
  const client = new RegistryClient({
    plainHttpHosts: ['127.0.0.1'],
    retry: { baseMs: 5, maxPauseMs: 10 },
    ...options,
  });
  try {
    const size = 'size' in options ? options.size : content.byteLength;
    const blob = await client.openBlob(`${server.url}${path}`, { size });
    await body(blob, server, client);
    await blob.close();
  } finally {
    await client.close();
  }
}

async function readAt(blob: RegistryBlob, offset: number, length: number): Promise<Buffer> {
  const into = Buffer.alloc(length);
  await blob.read(offset, into);
  return into;
}

async function rejects(work: Promise<unknown>, code: string, message: RegExp): Promise<void> {
  await assert.rejects(work, (error: Error & { code?: string }) => {
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  });
}

/** Cuts the connection in the middle of a body that promised more. */
function cut(response: ServerResponse, headers: Record<string, string | number>, body: Buffer): void {
  response.writeHead(206, headers);
  response.write(body, () => setTimeout(() => response.destroy(), 5));
}

describe('RegistryBlob', () => {
  test('reads ranges with one request each', async () => {
    await withBlob(
      (request, response) => {
        sendRange(request, response, content);
      },
      async (blob, server) => {
        assert.deepEqual(await readAt(blob, 12_345, 70_000), content.subarray(12_345, 82_345));
        assert.deepEqual(await readAt(blob, content.length - 1, 1), content.subarray(-1));
        assert.equal(server.seen.length, 2);
        assert.equal(server.seen[0]?.headers.range, 'bytes=12345-82344');
        assert.match(String(server.seen[0].headers['user-agent']), /^overlaybd-ts\//);
        await assert.rejects(readAt(blob, content.length - 1, 2), RangeError);
      },
    );
  });

  test('asks for the size if it is not known, and of an empty blob too', async () => {
    await withBlob(
      (request, response) => {
        sendRange(request, response, content);
      },
      async (blob) => {
        assert.equal(blob.size, content.byteLength);
      },
      { size: undefined },
    );
    await withBlob(
      (request, response) => {
        sendRange(request, response, Buffer.alloc(0));
      },
      async (blob) => {
        assert.equal(blob.size, 0);
      },
      { size: undefined },
    );
  });

  test('takes a broken body up where it ended', async () => {
    let requests = 0;
    await withBlob(
      (request, response) => {
        if (++requests > 1) {
          sendRange(request, response, content);
          return;
        }
        cut(
          response,
          { 'content-length': 500_000, 'content-range': `bytes 0-499999/${content.length}` },
          content.subarray(0, 100_000),
        );
      },
      async (blob, server) => {
        assert.deepEqual(await readAt(blob, 0, 500_000), content.subarray(0, 500_000));
        assert.equal(server.seen[1]?.headers.range, 'bytes=100000-499999');
      },
    );
  });

  test('gives up a stalled body after the limit and takes it up', async () => {
    let requests = 0;
    await withBlob(
      (request, response) => {
        if (++requests > 1) {
          sendRange(request, response, content);
          return;
        }
        response.writeHead(206, { 'content-length': 1000, 'content-range': `bytes 0-999/${content.length}` });
        response.write(content.subarray(0, 10));
      },
      async (blob) => {
        const start = performance.now();
        assert.deepEqual(await readAt(blob, 0, 1000), content.subarray(0, 1000));
        assert.ok(performance.now() - start < 10_000);
      },
      { timeoutMs: 300 },
    );
  });

  test('a server that never answers is a timeout after the tries', async () => {
    await withBlob(
      () => undefined,
      async (blob, server) => {
        await rejects(readAt(blob, 0, 10), 'OBD_REGISTRY_TIMEOUT', /no answer within 100 ms/);
        assert.equal(server.seen.length, 4);
      },
      { timeoutMs: 100 },
    );
  });

  test('waits as long as Retry-After says, and refuses to wait much longer', async () => {
    let requests = 0;
    await withBlob(
      (request, response) => {
        if (++requests > 1) sendRange(request, response, content);
        else
          response
            .writeHead(429, { 'retry-after': '1' })
            .end('{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}');
      },
      async (blob) => {
        const start = performance.now();
        assert.deepEqual(await readAt(blob, 5, 5), content.subarray(5, 10));
        assert.ok(performance.now() - start >= 990);
      },
    );
    await withBlob(
      (_, response) => {
        response
          .writeHead(429, { 'retry-after': '3600' })
          .end('{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}');
      },
      async (blob, server) => {
        await rejects(readAt(blob, 5, 5), 'OBD_REGISTRY_THROTTLED', /429.*TOOMANYREQUESTS: slow down/);
        assert.equal(server.seen.length, 1);
      },
    );
  });

  test('retries 5xx and reports the last one', async () => {
    let requests = 0;
    await withBlob(
      (request, response) => {
        if (++requests > 2) sendRange(request, response, content);
        else response.writeHead(503).end();
      },
      async (blob) => {
        assert.deepEqual(await readAt(blob, 5, 5), content.subarray(5, 10));
      },
    );
    await withBlob(
      (_, response) => {
        response.writeHead(500).end('<html>secret</html>');
      },
      async (blob, server) => {
        await rejects(readAt(blob, 5, 5), 'OBD_REGISTRY_SERVER', /HTTP status 500 \(the server failed\)$/);
        assert.equal(server.seen.length, 4);
      },
    );
  });

  test('404 and 416 are errors at once', async () => {
    await withBlob(
      (_, response) => {
        response.writeHead(404).end();
      },
      async (blob, server) => {
        await rejects(readAt(blob, 5, 5), 'OBD_REGISTRY_NOT_FOUND', /404/);
        assert.equal(server.seen.length, 1);
      },
    );
    await withBlob(
      (request, response) => {
        sendRange(request, response, Buffer.alloc(5));
      },
      async (blob) => {
        await rejects(readAt(blob, 100, 5), 'OBD_REGISTRY_RESPONSE', /416/);
      },
    );
  });

  test('skips to the offset if the server ignores ranges', async () => {
    await withBlob(
      (_, response) => {
        response.writeHead(200, { 'content-length': content.length }).end(content);
      },
      async (blob) => {
        assert.deepEqual(await readAt(blob, 300_000, 1000), content.subarray(300_000, 301_000));
        assert.deepEqual(await readAt(blob, 0, 10), content.subarray(0, 10));
      },
    );
  });

  test('refuses a 200 or 206 that is not about the bytes asked for', async () => {
    const cases: [number, Record<string, string | number>, RegExp][] = [
      [206, { 'content-range': `bytes 0-9/${content.length}` }, /Content-Range is "bytes 0-9/],
      [206, {}, /Content-Range is "", expected bytes 100-109/],
      [206, { 'content-range': 'bytes 100-109/500' }, /the blob has 500 bytes, expected 1000000/],
      [
        206,
        { 'content-range': `bytes 100-109/${content.length}`, 'content-encoding': 'gzip' },
        /Content-Encoding is gzip/,
      ],
      [200, { 'content-length': 10 }, /the blob has 10 bytes/],
    ];
    for (const [status, headers, message] of cases)
      await withBlob(
        (_, response) => {
          response.writeHead(status, headers).end(content.subarray(100, 110));
        },
        async (blob) => {
          await rejects(readAt(blob, 100, 10), 'OBD_REGISTRY_RESPONSE', message);
        },
      );
  });

  test('refuses a far offset of a server that ignores ranges', async () => {
    const size = 1e9;
    await withBlob(
      (_, response) => {
        response.writeHead(200, { 'content-length': size }).write(content);
      },
      async (blob) => {
        await rejects(readAt(blob, 5e8, 10), 'OBD_REGISTRY_RESPONSE', /ignores ranges/);
      },
      { size },
    );
  });

  test('follows redirects to another host without credentials and remembers the target', async () => {
    let signature = 1;
    await using storage = await scriptedServer((request, response) => {
      if (request.url === `/data?sig=${signature}`) sendRange(request, response, content);
      else response.writeHead(403).end('<Error>Request has expired</Error>');
    });
    await withBlob(
      (request, response) => {
        if (request.headers.authorization === undefined)
          response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
        else if (request.url === path) response.writeHead(307, { location: '../hop' }).end();
        else response.writeHead(302, { location: `${storage.url}/data?sig=${signature}` }).end();
      },
      async (blob, server) => {
        for (let offset = 0; offset < 50; offset += 10)
          assert.deepEqual(await readAt(blob, offset, 10), content.subarray(offset, offset + 10));
        assert.deepEqual(
          server.seen.map((request) => request.url),
          [path, path, '/v2/lib/app/hop'],
          'the registry is asked once',
        );
        assert.equal(storage.seen.length, 5);
        signature = 2;
        assert.deepEqual(
          await readAt(blob, 7, 10),
          content.subarray(7, 17),
          'an expired URL is asked for again',
        );
        assert.equal(server.seen.length, 5);
        for (const request of storage.seen) assert.equal(request.headers.authorization, undefined);
        assert.ok(server.seen.slice(1).every((request) => request.headers.authorization !== undefined));
      },
      { credentials: [{ find: async () => ({ username: 'u', password: 'p' }) }] },
    );
  });

  test('refuses redirects that go nowhere, in circles, or to another protocol', async () => {
    const cases: [string | undefined, string, RegExp][] = [
      [undefined, 'OBD_REGISTRY_RESPONSE', /without a usable Location/],
      ['loop', 'OBD_REGISTRY_RESPONSE', /more than 8 redirects/],
      ['ftp://storage.example/x', 'OBD_CONFIG_VALUE', /scheme is not https or http/],
    ];
    for (const [location, code, message] of cases)
      await withBlob(
        (_, response) => {
          response.writeHead(302, location === undefined ? {} : { location }).end();
        },
        async (blob) => {
          await rejects(readAt(blob, 0, 10), code, message);
        },
      );
  });

  test('follows a registry named insecure to plain HTTP, but never from TLS', () => {
    const client = new RegistryClient({ plainHttpHosts: ['r.example'] });
    client.checkScheme('http://storage.example/x', 'http://r.example/v2/');
    assert.throws(
      () => {
        client.checkScheme('http://storage.example/x?secret=1', 'https://r.example/v2/');
      },
      { code: 'OBD_CONFIG_VALUE', message: /"http:\/\/storage.example\/x": plain HTTP is refused/ },
    );
  });

  test('plain HTTP is refused for a host that was not named', async () => {
    const client = new RegistryClient();
    await rejects(
      client.openBlob(`http://127.0.0.1:5000${path}`, { size: 1 }),
      'OBD_CONFIG_VALUE',
      /plain HTTP is refused/,
    );
    await client.close();
  });

  test('a refused connection is an error with the address', async () => {
    const client = new RegistryClient({ plainHttpHosts: ['127.0.0.1:1'], retry: { attempts: 2, baseMs: 1 } });
    const blob = await client.openBlob(`http://127.0.0.1:1${path}`, { size: 100 });
    await rejects(readAt(blob, 0, 10), 'OBD_REGISTRY_CONNECTION', /ECONNREFUSED/);
    await client.close();
  });

  test('an abort ends the request and says so', async () => {
    await withBlob(
      () => undefined,
      async (blob) => {
        const controller = new AbortController();
        const work = blob.read(0, Buffer.alloc(10), { signal: controller.signal });
        setTimeout(() => {
          controller.abort();
        }, 20);
        await rejects(work, 'OBD_ABORTED', /Cancelled/);
      },
    );
  });

  test('streams the whole blob over a broken connection', async () => {
    let requests = 0;
    await withBlob(
      (request, response) => {
        const first = Number(/=(\d+)-/.exec(String(request.headers.range))?.[1]);
        if (++requests > 3) sendRange(request, response, content);
        else
          cut(
            response,
            {
              'content-length': content.length - first,
              'content-range': `bytes ${first}-${content.length - 1}/${content.length}`,
            },
            content.subarray(first, first + 100_000),
          );
      },
      async (blob) => {
        const chunks: Uint8Array[] = [];
        for await (const chunk of blob.stream(0)) chunks.push(Buffer.from(chunk));
        assert.deepEqual(Buffer.concat(chunks), content);
      },
    );
  });

  test('limits the requests to one host', async () => {
    let now = 0;
    let most = 0;
    await withBlob(
      (request, response) => {
        most = Math.max(most, ++now);
        setTimeout(() => {
          now--;
          sendRange(request, response, content);
        }, 5);
      },
      async (blob) => {
        await Promise.all(Array.from({ length: 40 }, (_, i) => readAt(blob, i * 100, 100)));
        assert.equal(most, 3);
      },
      { connectionsPerHost: 3 },
    );
  });

  test('reads through a p2p proxy by the final URL, and directly while the proxy is down', async () => {
    const proxied: string[] = [];
    await using proxy = await scriptedServer((request, response) => {
      proxied.push(request.url);
      sendRange(request, response, content);
    });
    await using storage = await scriptedServer((request, response) => {
      sendRange(request, response, content);
    });
    const script: Script = (_, response) => {
      response.writeHead(307, { location: `${storage.url}/data?sig=1` }).end();
    };
    await withBlob(
      script,
      async (blob) => {
        assert.deepEqual(await readAt(blob, 10, 10), content.subarray(10, 20));
        assert.deepEqual(await readAt(blob, 20, 10), content.subarray(20, 30));
        assert.deepEqual(proxied, Array(2).fill(`/accelerator/${storage.url}/data?sig=1`));
        assert.equal(storage.seen.length, 0);
      },
      { p2pAddress: `${proxy.url}/accelerator` },
    );
    await withBlob(
      script,
      async (blob) => {
        assert.deepEqual(await readAt(blob, 10, 10), content.subarray(10, 20));
        assert.equal(storage.seen.length, 1);
      },
      { p2pAddress: 'http://127.0.0.1:1/accelerator' },
    );
  });

  test('reads what the registry itself has through the p2p proxy, asking the registry once', async () => {
    await using proxy = await scriptedServer((request, response) => {
      if (request.headers.authorization === undefined) response.writeHead(401).end();
      else sendRange(request, response, content);
    });
    await withBlob(
      (request, response) => {
        if (request.headers.authorization === undefined)
          response.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
        else sendRange(request, response, content);
      },
      async (blob, server) => {
        for (let i = 0; i < 3; i++) assert.deepEqual(await readAt(blob, 10, 10), content.subarray(10, 20));
        assert.equal(proxy.seen.length, 3);
        assert.equal(server.seen.length, 2);
      },
      { p2pAddress: proxy.url, credentials: [{ find: async () => ({ username: 'u', password: 'p' }) }] },
    );
  });
});
