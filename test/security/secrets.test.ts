/** Who can see what: modes of sockets and files, and where passwords, tokens and signed URLs do not appear. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { FaultyRegistry } from '../support/faulty-registry.js';
import { missing } from '../support/commands.js';
import { checkout } from '../support/fixtures.js';
import { NbdReader } from '../support/nbd-reader.js';
import { randomLayer } from '../support/random-image.js';
import { ServiceNode } from '../support/service-node.js';

const PASSWORD = 'pass-hunter2-word';
const TOKEN = 'token-hunter2-bearer';
const SIGNATURE = 'signature-hunter2-url';
const BASIC = Buffer.from(`user:${PASSWORD}`).toString('base64');
/** None of these may appear anywhere but on the wire, and in cred.json. */
const SECRETS = [PASSWORD, TOKEN, SIGNATURE, BASIC];

const mode = (path: string): number => statSync(path).mode & 0o777;

test('sockets, locks, logs, caches and state are their owner’s, whatever the umask', async (t) => {
  const node = await ServiceNode.start(t, { wrap: ['sh', '-c', 'umask 000; exec "$@"', 'sh'] });
  const layer = await randomLayer(1, 5);
  const registry = await FaultyRegistry.start(layer.stored);
  t.after(() => registry.close());
  const path = node.image('x', {
    repoBlobUrl: `${registry.url}/v2/a/blobs`,
    lowers: [{ digest: layer.digest, size: layer.stored.length, dir: '' }],
  });
  const { devicePath = '' } = await node.attach('x', path);
  assert.equal(mode(node.at('o.sock')), 0o600);
  assert.equal(mode(node.at('o.sock.lock')), 0o600);
  assert.equal(mode(devicePath), 0o600);
  assert.equal(mode(node.at('nbd')), 0o700);
  assert.equal(mode(node.at('log')) & 0o007, 0);
  for (const name of readdirSync(node.cacheDir))
    assert.equal(mode(join(node.cacheDir, name)) & 0o077, 0, name);
  assert.equal(mode(node.cacheDir) & 0o022, 0, 'nobody else writes to the cache');
});

const notRoot = process.getuid?.() !== 0 && 'needs root to become somebody else';

test(
  'another user cannot reach the admin API, nor a device',
  { skip: notRoot || missing({ setpriv: 'util-linux' }) },
  async (t) => {
    const node = await ServiceNode.start(t);
    // The directory is open on purpose: the sockets themselves must hold.
    spawnSync('chmod', ['755', node.dir]);
    const script = `require('net').connect(process.argv[1]).on('error', (e) => { console.log(e.code); }).on('connect', () => { console.log('in'); process.exit(); })`;
    const run = spawnSync(
      'setpriv',
      ['--reuid=65534', '--regid=65534', '--clear-groups', process.execPath, '-e', script, node.at('o.sock')],
      { encoding: 'utf8' },
    );
    assert.equal(run.stdout.trim(), 'EACCES', run.stderr);
  },
);

test('no password, token or signature is in logs, errors, lists, results or the process list', async (t) => {
  const node = await ServiceNode.start(t);
  const layer = await randomLayer(1, 6);
  const registry = await FaultyRegistry.start(layer.stored);
  t.after(() => registry.close());
  writeFileSync(node.at('cred.json'), JSON.stringify({ auths: { [registry.host]: { auth: BASIC } } }), {
    mode: 0o600,
  });
  let asked = '';
  registry.other = (request, response) => {
    asked = request.headers.authorization ?? '';
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ token: TOKEN, expires_in: 60 }));
  };
  let refuse = false;
  registry.fault = (request, response) => {
    if (request.url?.includes(SIGNATURE) === true) {
      if (refuse)
        response.writeHead(403, { 'content-type': 'application/json' }).end('{"errors":[{"code":"DENIED"}]}');
      else registry.well(request, response);
    } else if (request.headers.authorization !== `Bearer ${TOKEN}`)
      response
        .writeHead(401, { 'www-authenticate': `Bearer realm="${registry.url}/token",service="x"` })
        .end();
    else response.writeHead(307, { location: `${registry.url}/blobs/x?X-Signature=${SIGNATURE}` }).end();
  };
  const path = node.image('x', {
    repoBlobUrl: `http://someone:${PASSWORD}@${registry.host}/v2/a/blobs`,
    lowers: [{ digest: layer.digest, size: layer.stored.length, dir: '' }],
  });
  const said: string[] = [];
  // A password in the URL is refused or not used; either way it is not repeated.
  await node.attach('url', path).catch((error: unknown) => said.push(JSON.stringify(error), String(error)));
  said.push(readFileSync(`${path}.result`, 'utf8'));
  const good = node.image('good', {
    repoBlobUrl: `${registry.url}/v2/a/blobs`,
    lowers: [{ digest: layer.digest, size: layer.stored.length, dir: '' }],
  });
  const { devicePath = '' } = await node.attach('good', good);
  assert.equal(asked, `Basic ${BASIC}`, 'the password was used: nothing is tested otherwise');
  const reader = await NbdReader.connect(devicePath);
  t.after(() => {
    reader.close();
  });
  refuse = true;
  const { error } = await reader.read(1 << 19, 65536);
  assert.ok(error !== undefined);
  said.push(error.message, readFileSync(node.at('log'), 'utf8'), JSON.stringify(node.doctor()));
  said.push(JSON.stringify(await node.client.list()));
  for (const args of [['list'], ['list', '--json']])
    said.push(
      spawnSync(
        process.execPath,
        [join(checkout, 'bin/obd'), ...args, '--service-config', node.at('overlaybd.json')],
        {
          encoding: 'utf8',
        },
      ).stdout,
    );
  said.push(
    readFileSync(`/proc/${node.pid}/cmdline`, 'utf8'),
    readFileSync(`/proc/${node.pid}/environ`, 'utf8'),
  );
  const all = said.join('\n');
  assert.match(all, /HTTP status 403/, 'the failure is told');
  for (const secret of SECRETS)
    assert.ok(
      !all.includes(secret),
      `${secret} in: ${all.split('\n').find((l) => l.includes(secret)) ?? ''}`,
    );
});
