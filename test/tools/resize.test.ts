import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { assertTree, expectedTree } from '../convert/tree.js';
import { missing } from '../support/commands.js';
import { fixture, noFixtures } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';
import { openDiskFileSystem } from './disk-image.js';
import { runTool } from './run-tool.js';

const noTools = missing({ resize2fs: 'e2fsprogs', e2fsck: 'e2fsprogs', dumpe2fs: 'e2fsprogs' });
const GIB = 2 ** 30;

function ok(name: string, ...args: string[]): string {
  const { status, stdout, stderr } = runTool(name, args);
  assert.equal(status, 0, `${name} ${args.join(' ')}: ${stderr}`);
  return stdout;
}

function blocks(disk: string): number {
  const { stdout } = spawnSync('dumpe2fs', ['-h', disk], { encoding: 'utf8' });
  return Number(/^Block count: *([0-9]+)$/m.exec(stdout)?.[1]);
}

for (const kind of ['append', 'sparse'] as const)
  test(
    `overlaybd-resize shrinks and grows the disk and its ext4 (${kind} upper)`,
    { skip: noTools || noFixtures },
    async (t) => {
      const dir = tempDir(t);
      const at = (name: string): string => join(dir, name);
      ok('overlaybd-create', at('data'), at('index'), '0', ...(kind === 'sparse' ? ['-s'] : []));
      const config = at('image.json');
      writeFileSync(
        config,
        JSON.stringify({
          lowers: [{ file: fixture('small/base/base16.zf') }],
          upper: { data: at('data'), index: at('index') },
        }),
      );
      ok('overlaybd-apply', fixture('small/layers/layer1.tar'), config);
      const files = readdirSync(dir).sort();
      for (const size of [3, 20, 2]) {
        ok('overlaybd-resize', '--config', config, '--size', String(size));
        assert.deepEqual(readdirSync(dir).sort(), files, 'no work file is left');
        ok('obd', 'export', '--quiet', '--force', '--config', config, at('disk'));
        assert.equal(statSync(at('disk')).size, size * GIB);
        assert.equal(blocks(at('disk')), (size * GIB) / 4096);
        const fsck = spawnSync('e2fsck', ['-fn', at('disk')], { encoding: 'utf8' });
        assert.equal(fsck.status, 0, fsck.stdout);
        const image = await openDiskFileSystem(t, at('disk'), dir);
        await assertTree(image, expectedTree(fixture('small/expected.json'), 1), `${size} GiB`);
        spawnSync('rm', [at('disk')]);
      }
      // What is committed has the new size.
      ok('overlaybd-commit', '-z', '-t', at('data'), at('index'), at('layer'));
      assert.match(ok('obd', 'inspect', '--json', at('layer')), new RegExp(String(2 * GIB)));
    },
  );

test(
  'overlaybd-resize mends the one fault that file systems made by the reference have',
  { skip: noTools || noFixtures },
  (t) => {
    const dir = tempDir(t);
    const at = (name: string): string => join(dir, name);
    ok('overlaybd-create', at('data'), at('index'), '0');
    const golden = fixture('small/native-mkfs');
    const text = readFileSync(join(golden, 'image.json'), 'utf8').replaceAll('@DIR@', golden);
    const { lowers } = JSON.parse(text) as { lowers: unknown };
    const config = at('image.json');
    writeFileSync(config, JSON.stringify({ lowers, upper: { data: at('data'), index: at('index') } }));
    ok('overlaybd-resize', '--config', config, '--size', '20');
    ok('obd', 'export', '--quiet', '--config', config, at('disk'));
    const fsck = spawnSync('e2fsck', ['-fn', at('disk')], { encoding: 'utf8' });
    assert.equal(fsck.status, 0, fsck.stdout);
    assert.equal(blocks(at('disk')), (20 * GIB) / 4096);
  },
);

test('overlaybd-resize refuses what cannot be, and changes nothing', { skip: noTools || noFixtures }, (t) => {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  const config = at('image.json');
  const fails = (message: RegExp, ...args: string[]): void => {
    const { status, stderr } = runTool('overlaybd-resize', args);
    assert.equal(status, 1, stderr);
    assert.match(stderr, message);
  };
  writeFileSync(config, JSON.stringify({ lowers: [{ file: fixture('small/base/base16.zf') }] }));
  fails(/has no upper/, '--config', config, '--size', '20');
  ok('overlaybd-create', at('data'), at('index'), '1');
  const before = readFileSync(at('data'));
  writeFileSync(config, JSON.stringify({ lowers: [], upper: { data: at('data'), index: at('index') } }));
  fails(/e2fsck finds faults|superblock/i, '--config', config, '--size', '2');
  assert.ok(readFileSync(at('data')).equals(before));
  assert.deepEqual(readdirSync(dir).sort(), ['data', 'image.json', 'index']);
  ok('obd', 'resize', '--device-only', '--config', config, '--size', '2');
  ok('obd', 'export', '--quiet', '--config', config, at('disk'));
  assert.equal(statSync(at('disk')).size, 2 * GIB);
  assert.equal(runTool('overlaybd-resize', ['--config', config]).status, 2);
});
