import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { checkout } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';

function obd(t: TestContext, ...args: string[]) {
  const config = join(tempDir(t), 'overlaybd.json');
  writeFileSync(
    config,
    JSON.stringify({ apiSocket: `${config}.sock`, logConfig: { logPath: `${config}.log` } }),
  );
  return spawnSync(process.execPath, [join(checkout, 'bin', 'obd'), ...args, '--service-config', config], {
    encoding: 'utf8',
  });
}

test('obd list without a service shows nothing, and says so', (t) => {
  const { status, stdout, stderr } = obd(t, 'list');
  assert.equal(status, 0);
  assert.match(stdout, /^ID +DEVICE .*\n$/);
  assert.match(stderr, /No service listens on/);
  assert.equal(obd(t, 'list', '--json').stdout, '[]\n');
});

test('obd detach without a service fails with what to do', (t) => {
  const { status, stderr } = obd(t, 'detach', 'x');
  assert.equal(status, 7);
  assert.match(stderr, /No service listens on[^]*hint: [^]*OBD_IO_NOT_FOUND/);
});

test('obd attach and mount refuse what is not there before they start a service', (t) => {
  for (const args of [
    ['attach', '/nonexistent/config.v1.json'],
    ['mount', '/nonexistent/config.v1.json', '/tmp'],
    ['mount', 'docker://h/x', '/nonexistent'],
  ]) {
    const { status, stderr } = obd(t, ...args);
    assert.notEqual(status, 0);
    assert.match(stderr, /nonexistent/);
    assert.doesNotMatch(stderr, /Started a service/);
  }
});

test('every command of the service shows an example', () => {
  for (const command of ['attach', 'detach', 'list', 'mount', 'umount', 'service']) {
    const { status, stdout } = spawnSync(
      process.execPath,
      [join(checkout, 'bin', 'obd'), command, '--help'],
      { encoding: 'utf8' },
    );
    assert.equal(status, 0, command);
    assert.match(stdout, /Example:\n {2}\w/, command);
  }
});

test('overlaybd-tcmu refuses a configuration that is missing or wrong', (t) => {
  const path = join(tempDir(t), 'overlaybd.json');
  const run = () =>
    spawnSync(process.execPath, [join(checkout, 'bin', 'overlaybd-tcmu'), path], { encoding: 'utf8' });
  assert.equal(run().status, 2);
  assert.match(run().stderr, /OBD_CONFIG_NOT_FOUND/);
  writeFileSync(path, '{"logConfig": 3}');
  assert.equal(run().status, 2);
  assert.match(run().stderr, /logConfig/);
});
