import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { ConfigError } from '../../src/blob/index.js';
import { silentLogger, type Logger } from '../../src/log/index.js';
import {
  defaultServiceConfig,
  loadServiceConfig,
  parseImageConfig,
  parseServiceConfig,
} from '../../src/image/index.js';
import { checkout } from '../support/fixtures.js';

/** A logger that keeps its warnings. */
function collecting(): { log: Logger; warnings: Record<string, unknown>[] } {
  const warnings: Record<string, unknown>[] = [];
  const log = Object.create(silentLogger) as Logger;
  log.warn = (fields: unknown) => {
    warnings.push(fields as Record<string, unknown>);
  };
  return { log, warnings };
}

test('config/overlaybd.json is what packages ship, without a warning', async () => {
  const { log, warnings } = collecting();
  const shipped = await loadServiceConfig(join(checkout, 'config', 'overlaybd.json'), log);
  assert.deepEqual(warnings, []);
  const defaults = defaultServiceConfig(silentLogger);
  assert.equal(defaults.download.enable, false);
  assert.equal(defaults.download.delay, 300);
  assert.equal(shipped.download.enable, true);
  assert.equal(shipped.download.delay, 600);
  assert.equal(shipped.gzipCacheConfig.enable, true);
  assert.equal(shipped.cacheConfig.cacheType, 'file');
  assert.equal(shipped.credentialConfig.mode, 'file');
  assert.equal(shipped.transport, 'auto');
  assert.equal(shipped.apiSocket, '/run/overlaybd/overlaybd.sock');
  // Apart from those, the file says the defaults.
  const same = {
    ...shipped,
    download: { ...shipped.download, enable: false, delay: 300 },
    gzipCacheConfig: { ...shipped.gzipCacheConfig, enable: false },
    credentialConfig: { ...shipped.credentialConfig, mode: '' as const, path: '' },
  };
  assert.deepEqual(same, defaults);
});

test('config/overlaybd.json names every key that has a block of its own', () => {
  const shipped = JSON.parse(readFileSync(join(checkout, 'config', 'overlaybd.json'), 'utf8')) as object;
  const legacy = [
    'registryCacheDir',
    'registryCacheSizeGB',
    'cacheType',
    'credentialFilePath',
    'logLevel',
    'logPath',
  ];
  const all = Object.keys(defaultServiceConfig(silentLogger));
  assert.deepEqual(
    all.filter((key) => !(key in shipped) && !legacy.includes(key)),
    ['enableThread', 'registryConfig'],
  );
});

test('parseServiceConfig() takes the older single keys while the blocks are absent', () => {
  const old = parseServiceConfig(
    '{"registryCacheDir":"/c","registryCacheSizeGB":9,"cacheType":"download","logPath":"/l","logLevel":3}',
    'x',
    silentLogger,
  );
  assert.deepEqual(
    [old.cacheConfig.cacheDir, old.cacheConfig.cacheSizeGB, old.cacheConfig.cacheType],
    ['/c', 9, 'download'],
  );
  assert.deepEqual([old.logConfig.logPath, old.logConfig.logLevel], ['/l', 3]);
  const both = parseServiceConfig(
    '{"registryCacheDir":"/c","cacheConfig":{"cacheType":"file","cacheDir":"/d"},"logConfig":{"logPath":"/m"}}',
    'x',
    silentLogger,
  );
  assert.equal(both.cacheConfig.cacheDir, '/d');
  assert.equal(both.logConfig.logPath, '/m');
});

test('parseServiceConfig() names key, expected and found of a wrong value', () => {
  for (const [json, message] of [
    ['{"download":{"delay":"soon"}}', /"download\.delay" is "soon", expected a number/],
    ['{"enableAudit":1}', /"enableAudit" is 1, expected true or false/],
    ['{"cacheConfig":{"cacheSizeGB":-1}}', /"cacheConfig\.cacheSizeGB" is -1, expected at least 0/],
    ['{"cacheConfig":{"refillSize":5000}}', /"cacheConfig\.refillSize" is 5000, expected a power of two/],
    ['{"ioEngine":3}', /"ioEngine" is 3, expected at most 2/],
    ['{"transport":"ublk"}', /"transport" is "ublk", expected one of "auto", "tcmu", "fuse", "nbd"/],
    ['{"download":[]}', /"download" is \[\], expected an object/],
    ['[]', /the file is \[\], expected an object/],
    ['{"logLevel":1.5}', /"logLevel" is 1.5, expected a whole number/],
  ] as const)
    assert.throws(
      () => parseServiceConfig(json, '/etc/x.json', silentLogger),
      (error: unknown) =>
        error instanceof ConfigError &&
        error.code === 'OBD_CONFIG_VALUE' &&
        error.message.includes('/etc/x.json') &&
        message.test(error.message),
      json,
    );
  assert.throws(() => parseServiceConfig('{', 'x', silentLogger), { code: 'OBD_CONFIG_SYNTAX' });
});

test('parseServiceConfig() warns about unknown keys, with the nearest name, and about unsupported values', () => {
  const { log, warnings } = collecting();
  parseServiceConfig('{"cacheConfig":{"cachDir":"/x"},"hello":1,"Download":{},"ioEngine":1}', 'x', log);
  assert.deepEqual(
    warnings.map(({ key, nearest }) => [key, nearest]),
    [
      ['cacheConfig.cachDir', 'cacheDir'],
      ['hello', undefined],
      ['Download', 'download'],
      ['ioEngine', undefined],
    ],
  );
});

test('parseImageConfig() fills in what is absent, takes null as absent, and knows what cannot be', () => {
  const config = parseImageConfig(
    '{"repoBlobUrl":"https://h/v2/r/blobs","lowers":[{"digest":"sha256:00","size":5,"dir":"/d","file":null}],"upper":null}',
    'x',
    silentLogger,
  );
  assert.deepEqual(config.lowers, [
    { file: '', dir: '/d', digest: 'sha256:00', size: 5, targetFile: '', targetDigest: '', gzipIndex: '' },
  ]);
  assert.equal(config.accelerationLayer, false);
  assert.equal(config.download, undefined);
  const bad = (json: unknown, message: RegExp): void => {
    assert.throws(() => parseImageConfig(JSON.stringify(json), 'x', silentLogger), {
      code: 'OBD_CONFIG_VALUE',
      message,
    });
  };
  bad({}, /neither "lowers" nor a complete "upper"/);
  bad({ lowers: [{}] }, /"lowers\[0\]" has none of/);
  bad({ lowers: Array.from({ length: 257 }, () => ({ file: '/x' })) }, /"lowers" is .* at most 256 entries/);
  bad({ lowers: [{ file: 1 }] }, /"lowers\[0\]\.file" is 1, expected a string/);
  bad({ lowers: [{ file: '/a', gzipIndex: '/b' }] }, /"lowers\[0\]\.gzipIndex" is set/);
  bad({ lowers: [{ file: '/a' }], accelerationLayer: true, recordTracePath: '/t' }, /at most one/);
});
