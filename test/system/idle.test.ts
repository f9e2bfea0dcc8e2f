/** A service that has nothing to do does not wake up, however many devices it has. */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { readNbdStart } from '../../src/blockdev/index.js';
import { startRegistryServer } from '../../src/registryserver/index.js';
import { AdminClient } from '../../src/service/index.js';
import { checkout, fixture, noFixtures } from '../support/fixtures.js';
import { pushImage } from '../support/push-image.js';
import { tempDir } from '../support/unpack.js';

const run = promisify(execFile);
const WRITABLE_DEVICES = 10;
const WATCHED_MS = 5000;
/** Node.js looks at the connections of its HTTP server twice a minute, and counts as one or two. */
const FEW = 3;

/** How often threads of a process went to sleep so far. */
function sleeps(pid: number): number {
  return readdirSync(`/proc/${pid}/task`)
    .map((thread) => readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8'))
    .reduce((sum, text) => sum + Number(/^voluntary_ctxt_switches:\s*(\d+)/m.exec(text)?.[1]), 0);
}

test('an idle service comes to rest', { skip: noFixtures, timeout: 180_000 }, async (t) => {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  mkdirSync(at('run'));
  const socket = at('run/o.sock');
  writeFileSync(
    at('overlaybd.json'),
    JSON.stringify({
      apiSocket: socket,
      transport: 'nbd',
      logConfig: { logPath: at('log'), logLevel: 2 },
      cacheConfig: { cacheType: 'file', cacheDir: at('cache'), cacheSizeGB: 1, refillSize: 262144 },
      gzipCacheConfig: { enable: false },
    }),
  );
  await using registry = await startRegistryServer({ directory: at('registry') });
  const { layers } = await pushImage(fixture('debian', 'oci-obd'), `${registry.host}/team/debian:obd`);
  writeFileSync(
    at('remote.json'),
    JSON.stringify({
      repoBlobUrl: `http://${registry.host}/v2/team/debian/blobs`,
      lowers: layers.map(({ digest, size }) => ({ digest, size, dir: '' })),
    }),
  );

  const service = spawn(
    process.execPath,
    [join(checkout, 'bin', 'overlaybd-tcmu'), at('overlaybd.json'), '--state-dir', at('state')],
    { stdio: 'ignore' },
  );
  const ended = once(service, 'exit');
  try {
    const client = new AdminClient(socket);
    for (let tries = 0; ; tries++)
      try {
        await client.info();
        break;
      } catch (error) {
        if (tries === 200) throw error;
        await sleep(50);
      }
    const { devicePath } = await client.attach({ configPath: at('remote.json'), id: 'remote' });
    await readNbdStart(devicePath ?? '', 1 << 20, 10_000);
    for (let n = 0; n < WRITABLE_DEVICES; n++) {
      const upper = { data: at(`data${n}`), index: at(`index${n}`) };
      await run(join(checkout, 'bin', 'overlaybd-create'), [upper.data, upper.index, '1']);
      writeFileSync(at(`disk${n}.json`), JSON.stringify({ upper }));
      await client.attach({ configPath: at(`disk${n}.json`), id: `disk${n}` });
    }

    const { pid } = service;
    assert.ok(pid);
    // Not at once: V8 collects garbage for some time, and connections to the registry are kept for a while.
    const counts: number[] = [];
    do {
      const before = sleeps(pid);
      await sleep(WATCHED_MS);
      counts.push(sleeps(pid) - before);
    } while ((counts.at(-1) ?? 0) > FEW && counts.length < 20);
    t.diagnostic(`threads went to sleep ${counts.join(', ')} times in ${WATCHED_MS / 1000} s each`);
    assert.ok((counts.at(-1) ?? 0) <= FEW, counts.join(', '));
  } finally {
    service.kill('SIGTERM');
    await ended;
  }
});
