import assert from 'node:assert/strict';
import { test } from 'node:test';
import { silentLogger } from '../../src/log/index.js';
import {
  DockerConfigCredentials,
  FileCredentials,
  RegistryClient,
  registryOptionsOf,
  ServiceCredentials,
  type RegistryConfigKeys,
} from '../../src/registryblob/index.js';

const options = (keys: RegistryConfigKeys): ReturnType<typeof registryOptionsOf> =>
  registryOptionsOf(keys, silentLogger);

test('registryOptionsOf() asks the configured source before the login files', () => {
  const first = (keys: RegistryConfigKeys): unknown => options(keys).credentials?.[0];
  assert.ok(first({}) instanceof DockerConfigCredentials);
  assert.ok(first({ credentialFilePath: '/x', credentialConfig: { mode: '' } }) instanceof FileCredentials);
  assert.ok(
    first({ credentialFilePath: '/x', credentialConfig: { mode: 'uds', path: '/y' } }) instanceof
      ServiceCredentials,
  );
  assert.ok(options({ credentialFilePath: '/x' }).credentials?.at(-1) instanceof DockerConfigCredentials);
});

test('registryOptionsOf() takes a missing default file for no credentials', async () => {
  const [source] = options({ credentialFilePath: '/nowhere/cred.json' }).credentials ?? [];
  assert.equal(await source?.find({ host: 'a', repository: 'b', url: '' }), undefined);
  const [named] =
    options({ credentialConfig: { mode: 'file', path: '/nowhere/cred.json' } }).credentials ?? [];
  await assert.rejects(named?.find({ host: 'a', repository: 'b', url: '' }) ?? Promise.resolve(), {
    code: 'OBD_IO_NOT_FOUND',
  });
});

test('registryOptionsOf() names the key it cannot use', () => {
  const cases: [RegistryConfigKeys, RegExp][] = [
    [{ credentialConfig: { mode: 'ftp', path: '/x' } }, /credentialConfig\.mode.*found "ftp"/],
    [{ credentialConfig: { mode: 'http' } }, /credentialConfig\.path/],
    [{ credentialConfig: { mode: 'http', path: 'http://x', timeout: -1 } }, /credentialConfig\.timeout/],
  ];
  for (const [keys, message] of cases)
    assert.throws(() => options(keys), { code: 'OBD_CONFIG_VALUE', message });
});

test('RegistryClient refuses files and addresses that it cannot use', async () => {
  assert.equal(options({ p2pConfig: { enable: true } }).p2pAddress, 'http://localhost:9731/accelerator');
  assert.equal(options({ p2pConfig: { enable: false, address: 'http://x' } }).p2pAddress, undefined);
  const cases: [RegistryConfigKeys, string, RegExp][] = [
    [{ p2pConfig: { enable: true, address: 'nowhere' } }, 'OBD_CONFIG_VALUE', /p2pConfig\.address/],
    [
      { certConfig: { certFile: '/nowhere/cert.pem' } },
      'OBD_CONFIG_NOT_FOUND',
      /client certificate "\/nowhere\/cert\.pem"/,
    ],
    [{ certConfig: { certFile: import.meta.filename } }, 'OBD_CONFIG_VALUE', /not PEM/],
    [{ registryConfig: { caFiles: ['/nowhere/ca.pem'] } }, 'OBD_CONFIG_NOT_FOUND', /authority/],
  ];
  for (const [keys, code, message] of cases)
    assert.throws(() => new RegistryClient(options(keys)), { code, message });
  const client = new RegistryClient(options({ registryConfig: { plainHttpHosts: ['a.example'] } }));
  assert.equal(client.schemeOf('a.example:5000'), 'http');
  assert.equal(client.schemeOf('b.example'), 'https');
  await client.close();
  await client.close();
});
