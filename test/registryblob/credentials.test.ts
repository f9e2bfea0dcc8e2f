import assert from 'node:assert/strict';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';
import { after, before, describe, test } from 'node:test';
import {
  CredentialChain,
  DockerConfigCredentials,
  FileCredentials,
  findInAuths,
  loginFiles,
  ServiceCredentials,
  type CredentialTarget,
} from '../../src/registryblob/index.js';
import { silentLogger, type Logger } from '../../src/log/index.js';
import { scriptedServer } from '../support/scripted-server.js';

const target: CredentialTarget = {
  host: 'r.example:5000',
  repository: 'team/app',
  url: 'https://r.example:5000/v2/team/app/blobs/sha256:00',
};
const basic = (text: string): string => Buffer.from(text).toString('base64');

let directory = '';
before(async () => {
  directory = await mkdtemp(join(tmpdir(), 'obd-credentials-'));
});
after(() => rm(directory, { recursive: true }));

async function file(name: string, content: unknown): Promise<string> {
  const path = join(directory, name);
  await writeFile(path, typeof content === 'string' ? content : JSON.stringify(content));
  return path;
}

describe('findInAuths()', () => {
  const find = (auths: Record<string, unknown>): string | undefined =>
    findInAuths({ auths }, target, 'test')?.username;
  test('the first matching key in file order wins, not the longest', () => {
    assert.equal(
      find({ 'r.example:5000': { auth: basic('a:x') }, 'r.example:5000/team/app': { auth: basic('b:x') } }),
      'a',
    );
    assert.equal(
      find({ 'r.example:5000/team': { auth: basic('c:x') }, 'r.example:5000': { auth: basic('a:x') } }),
      'c',
    );
  });
  test('a key covers whole path segments only', () => {
    for (const key of [
      'r.example',
      'r.example:5001',
      'r.example:5000/tea',
      'r.example:5000/team/app2',
      'https://r.example:5000',
      'team/app',
    ])
      assert.equal(find({ [key]: { auth: basic('a:x') } }), undefined, key);
    for (const key of [
      'r.example:5000/team',
      'r.example:5000/team/',
      'r.example:5000/team/app',
      'R.example:5000',
    ])
      assert.equal(find({ [key]: { auth: basic('a:x') } }), 'a', key);
  });
  test('broken entries are passed over', () => {
    assert.equal(
      find({
        'r.example:5000/team/app': { auth: '!!' },
        'r.example:5000/team': { auth: basic('nocolon') },
        'r.example:5000': { username: 'u', password: 'p' },
      }),
      'u',
    );
  });
  test('a password may hold colons, and an identity token is kept', () => {
    assert.deepEqual(findInAuths({ auths: { 'r.example:5000': { auth: basic('u:p:q') } } }, target, 't'), {
      username: 'u',
      password: 'p:q',
    });
    assert.equal(
      findInAuths({ auths: { 'r.example:5000': { auth: basic('u:'), identitytoken: 'T' } } }, target, 't')
        ?.identityToken,
      'T',
    );
  });
  test('Docker Hub is found under its names', () => {
    const hub = { host: 'registry-1.docker.io', repository: 'library/debian', url: '' };
    assert.equal(findInAuths({ auths: { 'docker.io': { auth: basic('h:x') } } }, hub, 't')?.username, 'h');
  });
});

describe('FileCredentials', () => {
  test('reads the file each time and never quotes it in errors', async () => {
    const path = await file('cred.json', { auths: { 'r.example:5000': { auth: basic('one:x') } } });
    const source = new FileCredentials(path);
    assert.equal((await source.find(target))?.username, 'one');
    await file('cred.json', { auths: { 'r.example:5000': { auth: basic('two:x') } } });
    assert.equal((await source.find(target))?.username, 'two');
    await file('cred.json', '{"auths": {"r.example:5000": {"auth": "c2VjcmV0"');
    await assert.rejects(source.find(target), (error: Error) => {
      assert.match(error.message, /not valid JSON/);
      assert.doesNotMatch(inspect(error, { depth: 5 }), /c2VjcmV0/);
      return true;
    });
  });
});

describe('CredentialChain', () => {
  test('goes on without a source that fails, and says so once', async () => {
    const warnings: unknown[] = [];
    const log: Logger = Object.assign(Object.create(silentLogger) as Logger, {
      warn: (...all: unknown[]) => warnings.push(all),
    });
    const chain = new CredentialChain(
      [
        new FileCredentials(join(directory, 'missing')),
        { find: async () => ({ username: 'u', password: 'p' }) },
      ],
      log,
    );
    assert.equal((await chain.find(target))?.username, 'u');
    assert.equal(warnings.length, 1);
    assert.match(JSON.stringify(warnings), /ENOENT/);
  });
});

describe('ServiceCredentials', () => {
  const good = JSON.stringify({
    traceId: 't',
    success: true,
    data: { auths: { 'r.example:5000': { auth: basic('svc:x') } } },
  });

  test('http: asks with the URL unescaped', async () => {
    await using server = await scriptedServer((_, response) => response.end(good) as unknown as undefined);
    const source = new ServiceCredentials({ mode: 'http', path: `${server.url}/auth` });
    assert.equal((await source.find(target))?.username, 'svc');
    assert.equal(server.seen[0]?.url, `/auth?remote_url=${target.url}`);
  });

  test('uds: asks over the socket', async () => {
    const path = join(directory, 'auth.sock');
    let seen = '';
    const server = createServer((request, response) => {
      seen = request.url ?? '';
      response.end(good);
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    try {
      assert.equal((await new ServiceCredentials({ mode: 'uds', path }).find(target))?.username, 'svc');
      assert.equal(seen, `/auth?remote_url=${target.url}`);
    } finally {
      server.close();
    }
    await assert.rejects(new ServiceCredentials({ mode: 'uds', path }).find(target), {
      code: 'OBD_REGISTRY_AUTH',
    });
  });

  test('a service that refuses, fails or is silent is an error with the reason', async () => {
    const cases: [number, string, RegExp][] = [
      [500, good, /status 500/],
      [200, '{"success":false,"traceId":"t9"}', /success=false \(trace t9\)/],
      [200, 'x', /not valid JSON/],
      [200, '{"success":true}', /no object "auths"/],
    ];
    for (const [status, body, message] of cases) {
      await using server = await scriptedServer((_, response) => {
        response.writeHead(status).end(body);
      });
      await assert.rejects(new ServiceCredentials({ mode: 'http', path: server.url }).find(target), {
        code: 'OBD_REGISTRY_AUTH',
        message,
      });
    }
    await using silent = await scriptedServer(() => undefined);
    await assert.rejects(
      new ServiceCredentials({ mode: 'http', path: silent.url, timeoutMs: 50 }).find(target),
      /no answer within 50 ms/,
    );
  });
});

describe('DockerConfigCredentials', () => {
  async function helper(name: string, script: string): Promise<void> {
    const path = await file(`docker-credential-${name}`, `#!/bin/sh\n${script}\n`);
    await chmod(path, 0o755);
  }
  const env = (): NodeJS.ProcessEnv => ({ PATH: `${directory}:/usr/bin:/bin` });

  test('reads auths with and without scheme, longest key first', async () => {
    const path = await file('config.json', {
      auths: {
        'https://r.example:5000/v2/': { auth: basic('host:x') },
        'r.example:5000/team': { auth: basic('team:x') },
      },
    });
    const source = new DockerConfigCredentials(path, env());
    assert.equal((await source.find(target))?.username, 'team');
    assert.equal((await source.find({ ...target, repository: 'other' }))?.username, 'host');
    assert.equal(await new DockerConfigCredentials(join(directory, 'none')).find(target), undefined);
  });

  test('asks the helper of the host, else the store', async () => {
    await helper(
      'one',
      'read -r s; echo "{\\"ServerURL\\":\\"$s\\",\\"Username\\":\\"u-$s\\",\\"Secret\\":\\"p\\"}"',
    );
    await helper('store', 'cat >/dev/null; echo \'{"Username":"<token>","Secret":"IDT"}\'');
    const path = await file('config.json', { credsStore: 'store', credHelpers: { 'r.example:5000': 'one' } });
    const source = new DockerConfigCredentials(path, env());
    assert.deepEqual(await source.find(target), { username: 'u-r.example:5000', password: 'p' });
    assert.deepEqual(await source.find({ ...target, host: 'q.example' }), {
      username: '',
      password: '',
      identityToken: 'IDT',
    });
  });

  test('a helper that knows nothing is no error; one that is missing, fails, or talks too much is', async () => {
    await helper('none', 'echo "credentials not found in native keychain"; exit 1');
    await helper('fails', 'exit 3');
    await helper('floods', 'cat /dev/zero');
    const ask = async (name: string): Promise<unknown> =>
      new DockerConfigCredentials(await file('config.json', { credsStore: name }), env()).find(target);
    assert.equal(await ask('none'), undefined);
    await assert.rejects(ask('fails'), /exit status 3/);
    await assert.rejects(ask('floods'), /printed more than/);
    await assert.rejects(ask('absent'), /no such program in PATH/);
    await assert.rejects(ask('../x'), /characters that no helper has/);
  });

  test('login files come in the order of the tools', () => {
    assert.deepEqual(
      loginFiles({ DOCKER_CONFIG: '/d', XDG_RUNTIME_DIR: '/run/u', REGISTRY_AUTH_FILE: '/a' }, '/home/u'),
      ['/a', '/d/config.json', '/run/u/containers/auth.json', '/home/u/.config/containers/auth.json'],
    );
  });
});
