import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FaultyRegistry } from '../support/faulty-registry.js';
import { NbdReader } from '../support/nbd-reader.js';
import { randomLayer } from '../support/random-image.js';
import { ServiceNode } from '../support/service-node.js';
import { tempDir } from '../support/unpack.js';

const UNIT = 65536;

async function until(what: string, condition: () => boolean): Promise<void> {
  for (let waited = 0; !condition(); waited += 20) {
    assert.ok(waited < 20_000, `waited 20 s for: ${what}`);
    await sleep(20);
  }
}

test('SIGHUP has the service reopen its log and its audit log, and ends nothing', async (t) => {
  const layer = await randomLayer(2, 5);
  const registry = await FaultyRegistry.start(layer.stored);
  t.after(() => registry.close());
  const auditPath = join(tempDir(t), 'audit', 'log');
  const node = await ServiceNode.start(t, { config: { enableAudit: true, auditPath } });
  const { pid } = node;
  const { devicePath = '' } = await node.attach(
    'app',
    node.image('app', {
      repoBlobUrl: `${registry.url}/v2/team/app/blobs`,
      lowers: [{ digest: layer.digest, size: layer.stored.length, dir: '' }],
    }),
  );
  const reader = await NbdReader.connect(devicePath);
  t.after(() => {
    reader.close();
  });
  const read = async (offset: number): Promise<void> => {
    const { data } = await reader.read(offset, UNIT);
    assert.ok(data?.equals(layer.plain.subarray(offset, offset + UNIT)));
  };
  await read(0);

  // What logrotate does.
  renameSync(node.at('log'), node.at('log.old'));
  renameSync(auditPath, `${auditPath}.old`);
  await read(16 * UNIT);
  assert.ok(!existsSync(node.at('log')) && !existsSync(auditPath));
  const audited = readFileSync(`${auditPath}.old`, 'utf8');
  assert.ok(audited.trimEnd().split('\n').length >= 2);
  process.kill(pid, 'SIGHUP');
  await until('the new log', () => node.log().some(({ msg }) => msg === 'logs are reopened'));
  await read(24 * UNIT);
  await until('the new audit log', () => readFileSync(auditPath, 'utf8').includes('download['));
  assert.equal(readFileSync(`${auditPath}.old`, 'utf8'), audited, 'nothing more goes to the old file');

  // Where there can be no file the old one is gone on with.
  renameSync(node.at('log'), node.at('log.older'));
  mkdirSync(node.at('log'));
  process.kill(pid, 'SIGHUP');
  await until('the complaint', () =>
    readFileSync(node.at('log.older'), 'utf8').includes('a log cannot be reopened'),
  );
  rmSync(node.at('log'), { recursive: true });
  process.kill(pid, 'SIGHUP');
  await until('a log again', () => node.log().some(({ msg }) => msg === 'logs are reopened'));
  await read(8 * UNIT);
  assert.equal((await node.client.info()).pid, pid);
});
