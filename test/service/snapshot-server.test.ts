/** The live-snapshot API (src/service/snapshot-server.ts) says what the reference says (service.md D.6). */
import assert from 'node:assert/strict';
import { request } from 'node:http';
import test, { type TestContext } from 'node:test';
import { ConfigError, DeviceError } from '../../src/blob/index.js';
import { silentLogger } from '../../src/log/index.js';
import { SnapshotServer } from '../../src/service/index.js';

const LOOPBACK = { address: 'http://127.0.0.1:0', allowRemote: false };

async function serve(t: TestContext, take: (id: string, config: string) => Promise<unknown>) {
  const server = await SnapshotServer.listen(LOOPBACK, take, silentLogger);
  t.after(() => server.close());
  return (path: string, method = 'GET', headers: Record<string, string> = {}): Promise<[number, string]> =>
    new Promise((resolve, reject) => {
      const call = request({ host: '127.0.0.1', port: server.port, path, method, headers, agent: false });
      call.on('error', reject).on('response', (response) => {
        let text = '';
        response.on('data', (chunk: Buffer) => (text += chunk.toString()));
        response.on('end', () => {
          resolve([response.statusCode ?? 0, text]);
        });
      });
      call.end();
    });
}

test('Requests and answers are those of the reference', async (t) => {
  const calls: string[][] = [];
  const call = await serve(t, async (id, config) => {
    calls.push([id, config]);
    if (id === 'none') throw new DeviceError('OBD_DEVICE_NOT_FOUND', 'no');
    if (id === 'bad') throw new ConfigError('OBD_CONFIG_VALUE', 'no');
  });
  const made: [number, string] = [200, '{"success": true, "message": "Snapshot created successfully"}'];
  const missing: [number, string] = [
    400,
    '{"success": false, "message": "Missing dev_id or config in snapshot request"}',
  ];
  assert.deepEqual(await call('/snapshot?dev_id=a%2Fb&config=%2Fx%20y.json'), made);
  for (const method of ['POST', 'PUT', 'DELETE'])
    assert.deepEqual(await call('/snapshot/more?config=/y&dev_id=c', method), made);
  assert.deepEqual(calls, [['a/b', '/x y.json'], ...Array.from({ length: 3 }, () => ['c', '/y'])]);
  // After a request that had both: nothing of it is left.
  for (const query of ['', '?', '?dev_id=a', '?config=/x', '?dev_id=&config=/x', '?dev_id=a&config='])
    assert.deepEqual(await call(`/snapshot${query}`), missing, query);
  assert.deepEqual(await call('/snapshot?dev_id=none&config=/x'), [
    404,
    '{"success": false, "message": "Image file not found"}',
  ]);
  assert.deepEqual(await call('/snapshot?dev_id=bad&config=/x'), [
    500,
    '{"success": false, "message": "Failed to create snapshot`"}',
  ]);
  assert.equal((await call('/other?dev_id=a&config=/x'))[0], 404);
});

test('Browsers get no answer', async (t) => {
  const call = await serve(t, async () => assert.fail('asked for by a browser'));
  const path = '/snapshot?dev_id=a&config=/x';
  for (const headers of [
    { origin: 'http://evil.example' },
    { origin: 'null' },
    { 'sec-fetch-site': 'cross-site' },
    { host: 'rebound.example:9862' },
  ])
    assert.equal((await call(path, 'GET', headers))[0], 403, JSON.stringify(headers));
});

test('Addresses that others can reach must be asked for, and names are no addresses', async () => {
  const listen = (address: string, allowRemote = false): Promise<SnapshotServer> =>
    SnapshotServer.listen({ address, allowRemote }, async () => undefined, silentLogger);
  for (const address of [
    'http://0.0.0.0:0',
    'http://[::]:0',
    'http://192.0.2.1:9862',
    'http://[::ffff:1.2.3.4]:1',
  ])
    await assert.rejects(listen(address), /reached from other machines/, address);
  for (const address of [
    'http://localhost:0',
    '127.0.0.1:0',
    'https://127.0.0.1:0',
    'http://127.0.0.1:99999',
    '',
  ])
    await assert.rejects(listen(address), { code: 'OBD_CONFIG_VALUE' }, address);
  await (await listen('http://0.0.0.0:0', true)).close();
  await (await listen('http://127.0.0.1:0/')).close();
});
