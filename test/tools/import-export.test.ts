import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  ftruncateSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { missing } from '../support/commands.js';
import { noFixtures } from '../support/fixtures.js';
import { unpackedFixtures } from '../support/golden-images.js';
import { tempDir } from '../support/unpack.js';
import { runTool } from './run-tool.js';

const noQemu = missing({ 'qemu-img': 'qemu-utils' });

function ok(name: string, ...args: string[]): string {
  const { status, stdout, stderr } = runTool(name, args);
  assert.equal(status, 0, `${name} ${args.join(' ')}: ${stderr}`);
  return stdout;
}

/** A disk with data at odd places, holes, stored zeroes, and a size that is no multiple of a block. */
function makeDisk(path: string): void {
  const fd = openSync(path, 'w');
  ftruncateSync(fd, (100 << 20) + 512);
  writeSync(fd, Buffer.alloc(3000, 'a'), 0, 3000, 0);
  writeSync(fd, Buffer.alloc(5 << 20, 'b'), 0, 5 << 20, (10 << 20) + 700);
  writeSync(fd, Buffer.alloc(9 << 20), 0, 9 << 20, 40 << 20);
  writeSync(fd, Buffer.alloc(100, 'c'), 0, 100, (100 << 20) + 412);
  closeSync(fd);
}

function exported(dir: string, layer: string): Buffer {
  const config = join(dir, 'image.json');
  const out = join(dir, 'out.raw');
  writeFileSync(config, JSON.stringify({ lowers: [{ file: layer }] }));
  ok('obd', 'export', '--quiet', '--force', '--config', config, out);
  return readFileSync(out);
}

test('obd import makes a layer of a raw disk, without its zeroes', (t) => {
  const dir = tempDir(t);
  const [disk, layer] = [join(dir, 'disk'), join(dir, 'layer')];
  makeDisk(disk);
  assert.match(ok('obd', 'import', '--algorithm', 'zstd', disk, layer), /5\.0 MiB of data/);
  ok('obd', 'verify', layer);
  assert.ok(exported(dir, layer).equals(readFileSync(disk)));
  assert.equal(runTool('obd', ['import', disk, layer]).status, 7);
  // The same content is the same layer, wherever the disk has holes.
  const copy = join(dir, 'copy');
  writeFileSync(copy, readFileSync(disk));
  ok('obd', 'import', '--algorithm', 'zstd', copy, join(dir, 'layer2'));
  assert.ok(readFileSync(join(dir, 'layer2')).equals(readFileSync(layer)));
});

test('obd import takes a qcow2, and obd export gives one', { skip: noQemu }, (t) => {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  makeDisk(at('disk'));
  execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', '-c', at('disk'), at('disk.qcow2')]);
  ok('obd', 'import', '--workdir', dir, at('disk.qcow2'), at('layer'));
  ok('obd', 'import', at('disk'), at('same'));
  assert.ok(readFileSync(at('layer')).equals(readFileSync(at('same'))));
  writeFileSync(at('image.json'), JSON.stringify({ lowers: [{ file: at('layer') }] }));
  ok('obd', 'export', '--quiet', '--format', 'qcow2', '--config', at('image.json'), at('out.qcow2'));
  execFileSync('qemu-img', ['compare', '-f', 'raw', '-F', 'qcow2', at('disk'), at('out.qcow2')]);
  assert.equal(runTool('obd', ['export', '--format', 'qcow2', '--config', at('image.json'), '-']).status, 2);
  writeFileSync(at('bad.qcow2'), Buffer.from('QFI\xfb and nothing else', 'latin1'));
  const { status, stderr } = runTool('obd', ['import', '--workdir', dir, at('bad.qcow2'), at('bad')]);
  assert.equal(status, 3);
  assert.match(stderr, /qemu-img convert failed/);
  assert.deepEqual(
    readdirSync(dir).filter((name) => name.startsWith('.') || name === 'bad'),
    [],
  );
});

test(
  'obd export --format qcow2 writes 64 GiB with little data in seconds',
  { skip: noQemu || noFixtures },
  (t) => {
    const dir = tempDir(t);
    const from = join(unpackedFixtures(), 'debian');
    const config = join(dir, 'image.json');
    writeFileSync(config, readFileSync(join(from, 'image.json'), 'utf8').replaceAll('@DIR@', from));
    const started = Date.now();
    ok('obd', 'export', '--quiet', '--format', 'qcow2', '--config', config, join(dir, 'disk.qcow2'));
    assert.ok(Date.now() - started < 60_000);
    assert.ok(statSync(join(dir, 'disk.qcow2')).size < 2 ** 30);
    const info = execFileSync('qemu-img', ['info', '--output=json', join(dir, 'disk.qcow2')], {
      encoding: 'utf8',
    });
    assert.equal((JSON.parse(info) as { 'virtual-size': number })['virtual-size'], 64 * 2 ** 30);
  },
);
