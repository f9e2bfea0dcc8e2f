import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { checkout } from '../support/fixtures.js';

let scratch = '';
before(async () => {
  scratch = await mkdtemp(join(tmpdir(), 'obd-registry-cli-'));
});
after(() => rm(scratch, { recursive: true }));

function obd(...args: string[]): {
  child: ChildProcess;
  ended: Promise<{ status: number | null; stderr: string }>;
  line: Promise<string>;
} {
  const child = spawn(process.execPath, [join(checkout, 'bin/obd'), 'registry', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const ended = once(child, 'close').then(([status]) => ({ status: status as number | null, stderr }));
  const line = new Promise<string>((resolve, reject) => {
    child.stdout.once('data', (chunk: Buffer) => {
      resolve(chunk.toString().trim());
    });
    void ended.then(({ stderr: said }) => {
      reject(new Error(`ended without a word: ${said}`));
    });
  });
  line.catch(() => undefined);
  return { child, ended, line };
}

describe('obd registry', () => {
  test('prints where it listens, asks for the password of its file, and stops on SIGTERM', async () => {
    const users = join(scratch, 'users');
    await writeFile(users, '# comment\nuser:pass:word\n');
    const { child, ended, line } = obd(
      join(scratch, 'store'),
      '--listen',
      '127.0.0.1:0',
      '--basic',
      users,
      '--verbose',
    );
    const url = await line;
    assert.match(url, /^http:\/\/127\.0\.0\.1:\d+$/);
    assert.equal((await fetch(`${url}/v2/`)).status, 401);
    const authorization = `Basic ${Buffer.from('user:pass:word').toString('base64')}`;
    assert.equal((await fetch(`${url}/v2/`, { headers: { authorization } })).status, 200);
    child.kill('SIGTERM');
    const { status, stderr } = await ended;
    assert.equal(status, 0);
    assert.match(stderr, /"path":"\/v2\/"/);
    assert.doesNotMatch(stderr, /pass:word|dXNlc/);
  });

  test('refuses what it cannot do, with the reason and an exit status', async () => {
    const busy = obd(join(scratch, 'store'), '--listen', '127.0.0.1:0');
    const { host } = new URL(await busy.line);
    const cases: [string[], number, RegExp][] = [
      [['store', '--listen', host], 7, /listen on .*EADDRINUSE/],
      [['store', '--listen', 'nowhere'], 2, /expected HOST:PORT/],
      [['store', '--fail', 'explode'], 2, /"explode" is no kind of failure/],
      [['store', '--rate', 'fast'], 2, /Cannot parse rate/],
      [['store', '--tls-cert', 'x'], 2, /belong together/],
      [['missing', '--read-only', '--listen', '127.0.0.1:0'], 7, /ENOENT/],
    ];
    await Promise.all(
      cases.map(async ([[directory = '', ...args], status, message]) => {
        const result = await obd(join(scratch, directory), ...args).ended;
        assert.equal(result.status, status, result.stderr);
        assert.match(result.stderr, message);
      }),
    );
    busy.child.kill('SIGTERM');
    assert.equal((await busy.ended).status, 0);
  });
});
