import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';
import { checkout } from '../support/fixtures.js';

/** Runs bin/obd in a Node.js that runs `prelude` first. */
function obd(prelude: string, ...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const preload = `data:text/javascript,${encodeURIComponent(prelude)}`;
  return spawnSync(process.execPath, ['--import', preload, join(checkout, 'bin/obd'), ...args], {
    encoding: 'utf8',
  });
}

test('obd help lists the commands', () => {
  const help = obd('', 'help');
  assert.equal(help.status, 0, help.stderr);
  for (const name of ['attach', 'convert', 'export', 'inspect', 'list', 'mount', 'registry', 'verify'])
    assert.match(help.stdout, new RegExp(`^ +${name}\\b`, 'm'));
});

test('obd says which Node.js it needs to one that is too old', () => {
  const old = (version: string): string =>
    `Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '${version}' } });`;
  for (const version of ['18.20.4', '20.18.0']) {
    const { status, stdout, stderr } = obd(old(version), 'help');
    assert.deepEqual([status, stdout], [1, '']);
    assert.match(stderr, /^Error: obd needs Node\.js 20\.19 or later, and this is v/);
  }
  assert.equal(obd(old('20.19.0'), 'help').status, 0);
});
