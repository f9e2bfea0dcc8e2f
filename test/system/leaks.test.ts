import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';

import { leftSince, takeSnapshot } from '../support/leaks.js';

const notRoot = process.getuid?.() !== 0 && 'mounting needs root';

test(
  'leftSince() names a mount, a loop device and a process, until they are gone',
  { skip: notRoot },
  async () => {
    const dir = mkdtempSync(join(tmpdir(), 'obd-leaks-'));
    const image = join(dir, 'image');
    writeFileSync(image, Buffer.alloc(1 << 20));
    const before = takeSnapshot();
    execFileSync('mount', ['-t', 'tmpfs', 'leak', dir]);
    execFileSync('umount', [dir]);
    const loop = execFileSync('losetup', ['--find', '--show', image], { encoding: 'utf8' }).trim();
    execFileSync('mount', ['-t', 'tmpfs', 'leak', dir]);
    const child = spawn('sleep', ['61'], { stdio: 'ignore' });
    try {
      const left = await leftSince(before, 0);
      for (const expected of [`mounts: leak ${dir} tmpfs`, `loopDevices: ${loop} <- `, 'sleep 61'])
        assert.ok(
          left.some((line) => line.includes(expected)),
          `${expected} in ${left.join('\n')}`,
        );
    } finally {
      child.kill();
      await once(child, 'exit');
      execFileSync('umount', [dir]);
      execFileSync('losetup', ['-d', loop]);
      rmSync(dir, { recursive: true });
    }
    const left = await leftSince(before);
    assert.ok(!left.some((line) => line.includes(dir) || line.includes('sleep 61')), left.join('\n'));
  },
);
