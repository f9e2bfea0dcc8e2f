/**
 * The command lines that overlaybd's Go programs use, word by word and in their order (service.md, E): who has them in his
 * scripts can put our tools in the place of overlaybd's.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { tempDir } from '../support/unpack.js';
import { runTool } from './run-tool.js';

const UUID = '1B671A64-40D5-491E-99B0-DA01FF1F3341';
const PARENT = '2B671A64-40D5-491E-99B0-DA01FF1F3342';

function ok(name: string, ...args: string[]): string {
  const { status, stdout, stderr } = runTool(name, args);
  assert.equal(status, 0, `${name} ${args.join(' ')}: ${stderr}`);
  return stdout;
}

const sha256 = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');

/** A layer of an image: a file of its own, and one that every layer replaces. */
function layerTar(dir: string, name: string): string {
  const tree = join(dir, `tree-${name}`);
  mkdirSync(tree);
  writeFileSync(join(tree, name), name.repeat(5000));
  writeFileSync(join(tree, 'last'), name);
  const tar = join(dir, `${name}.tar`);
  execFileSync('tar', ['-C', tree, '--sort=name', '--owner=0', '--group=0', '--mtime=@1', '-cf', tar, '.']);
  return tar;
}

test('The convertor: create, apply and commit of a chain, the same from append and sparse layers', (t) => {
  const dir = tempDir(t);
  const tars = ['one', 'two'].map((name) => layerTar(dir, name));
  const disks = new Set<string>();
  const digests = ['append', 'sparse'].map((kind) => {
    const lowers: { file: string }[] = [];
    for (const [i, tar] of tars.entries()) {
      const d = join(dir, `${kind}-${i}`);
      mkdirSync(d);
      const at = (name: string): string => join(d, name);
      ok(
        'overlaybd-create',
        ...[at('writable_data'), at('writable_index'), i === 0 ? '1' : '0'],
        ...(kind === 'sparse' ? ['-s'] : []),
        ...(i === 0 ? ['--mkfs'] : []),
      );
      const upper = { data: at('writable_data'), index: at('writable_index') };
      writeFileSync(
        at('config.json'),
        JSON.stringify({ repoBlobUrl: '', lowers, upper, resultFile: at('result') }),
      );
      assert.match(ok('overlaybd-apply', tar, at('config.json')), /overlaybd-apply done\n$/);
      ok(
        'overlaybd-commit',
        ...[at('writable_data'), at('writable_index'), at('overlaybd.commit'), '-z', '-t'],
        ...['--uuid', UUID, ...(i === 0 ? [] : ['--parent-uuid', PARENT])],
      );
      lowers.push({ file: at('overlaybd.commit') });
    }
    const config = join(dir, `${kind}.json`);
    writeFileSync(config, JSON.stringify({ lowers }));
    // Flattened, packed or not, it is the same layer.
    const merged = join(dir, `${kind}-merged`);
    ok('overlaybd-merge', config, merged);
    ok('overlaybd-merge', config, `${merged}.raw`, '--compress=false');
    ok('overlaybd-merge', config, `${merged}.tar`, '-t');
    ok('overlaybd-zfile', '-x', merged, `${merged}.extracted`);
    ok('obd', 'verify', `${merged}.tar`);
    disks.add(sha256(`${merged}.raw`)).add(sha256(`${merged}.extracted`));
    return lowers.map(({ file }) => sha256(file));
  });
  assert.deepEqual(digests[0], digests[1]);
  assert.equal(disks.size, 1);
});

test('The snapshotter and obdconv: a writable layer is sealed in place, renamed, committed and renamed', (t) => {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  for (const options of [[], ['-s']]) {
    ok('overlaybd-create', at('writable_data'), at('writable_index'), '1', ...options);
    ok('overlaybd-commit', '--seal', at('writable_data'), at('writable_index'));
    renameSync(at('writable_data'), at('overlaybd.sealed'));
    ok(
      'overlaybd-commit',
      ...['--commit_sealed', at('overlaybd.sealed'), at('overlaybd.commit.temp'), '-z', '-t'],
    );
    renameSync(at('overlaybd.commit.temp'), at('overlaybd.commit'));
    ok('obd', 'verify', at('overlaybd.commit'));
    for (const name of readdirSync(dir)) execFileSync('rm', [at(name)]);
  }
});

test('Every block size and algorithm gives the same layer', (t) => {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  ok('overlaybd-create', at('data'), at('index'), '1', '--mkfs');
  const upper = { data: at('data'), index: at('index') };
  writeFileSync(at('rw.json'), JSON.stringify({ lowers: [], upper }));
  ok('overlaybd-apply', layerTar(dir, 'one'), at('rw.json'));
  ok('overlaybd-commit', at('data'), at('index'), at('plain'));
  const expected = sha256(at('plain'));
  for (const algorithm of ['lz4', 'zstd'])
    for (const bs of algorithm === 'lz4' ? ['4', '8', '16', '32', '64'] : ['16', '64']) {
      const { status, stderr } = runTool('overlaybd-commit', [
        ...[at('data'), at('index'), at('layer'), '-f', '-z', '--algorithm', algorithm, '--bs', bs],
        ...['--compress_threads', '4', '--verbose'],
      ]);
      assert.equal(status, 0, stderr);
      assert.equal(/overlaybd cannot read/.test(stderr), bs === '64', stderr);
      ok('overlaybd-zfile', '-f', '-x', at('layer'), at('extracted'));
      assert.equal(sha256(at('extracted')), expected, `${algorithm}, ${bs} KiB`);
    }
});

test('What is not supported is refused in each form that the Go programs use, and nothing is made', (t) => {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  for (const [name, ...args] of [
    ['overlaybd-create', at('data'), at('index'), '256', '-s', '--turboOCI', '--mkfs'],
    ['overlaybd-create', at('data'), at('index'), '-s', '64', '--turboOCI', '--mkfs'],
    ['overlaybd-create', at('data'), at('index'), '-s', '64', '--fastoci'],
    ['overlaybd-commit', at('data'), at('index'), at('overlaybd.commit'), '-z', '--turboOCI'],
    ['overlaybd-commit', at('data'), at('index'), at('overlaybd.commit'), '-z', '--fastoci'],
  ] as const) {
    const { status, stderr } = runTool(name, args);
    assert.equal(status, 255, `${name} ${args.join(' ')}`);
    assert.match(stderr, /TurboOCI layers .* not supported/);
  }
  assert.deepEqual(readdirSync(dir), []);
});
