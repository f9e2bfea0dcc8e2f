import assert from 'node:assert/strict';
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { checkout } from '../support/fixtures.js';

const run = promisify(execFile);
const noRegistry =
  spawnSync('npm', ['ping', '--fetch-retries=0', '--fetch-timeout=5000'], { cwd: checkout }).status !== 0 &&
  'the npm registry cannot be reached, and a package cannot be installed without it';

test(
  'npm pack gives a package that installs and runs elsewhere',
  { skip: noRegistry, timeout: 300_000 },
  async (t) => {
    const dir = mkdtempSync(join(tmpdir(), 'package-'));
    t.after(() => {
      rmSync(dir, { recursive: true });
    });
    await run('npm', ['pack', '--ignore-scripts', '--pack-destination', dir], { cwd: checkout });
    const [archive] = readdirSync(dir);
    assert.ok(archive?.endsWith('.tgz'));
    writeFileSync(join(dir, 'package.json'), '{"name":"somewhere-else","private":true}');
    await run('npm', ['install', `./${archive}`], { cwd: dir });
    for (const bin of ['obd', 'obdconv', 'overlaybd-tcmu', 'overlaybd-create', 'overlaybd-apply']) {
      const { stdout } = await run(join(dir, 'node_modules', '.bin', bin), ['--help'], { cwd: '/' });
      assert.match(stdout, /Usage: /, bin);
    }
    const shipped = readdirSync(join(dir, 'node_modules', 'overlaybd-ts'));
    for (const name of ['README.md', 'LICENSE', 'CHANGELOG.md', 'config', 'systemd', 'docs'])
      assert.ok(shipped.includes(name), `${name} is in the package`);
    assert.ok(!shipped.includes('test'), 'tests stay at home');
  },
);
