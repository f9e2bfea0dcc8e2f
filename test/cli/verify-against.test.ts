import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { memberBytes, tarOf, writeLayout, type Member } from '../convert/make-image.js';
import { checkout, fixture, noFixtures } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';

function obd(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [join(checkout, 'bin', 'obd'), ...args], { encoding: 'utf8' });
}

interface Found {
  readonly ok: boolean;
  readonly names: number;
  readonly count: number;
  readonly differences: readonly Record<string, unknown>[];
}

function compare(source: string, target: string, ...more: string[]): Found & { status: number | null } {
  const run = obd('verify', '--against', source, target, '--json', ...more);
  assert.ok(run.status === 0 || run.status === 3, run.stderr);
  return { ...(JSON.parse(run.stdout) as Found), status: run.status };
}

const LOWER: readonly Member[] = [
  { path: 'etc/' },
  { path: 'etc/hosts', content: 'localhost\n' },
  { path: 'etc/gone', content: 'x' },
  { path: 'caf\xe9', content: 'a name that is no UTF-8' },
];
const UPPER: readonly Member[] = [
  { path: 'etc/.wh.gone' },
  { path: 'bin/tool', content: 'binary', mode: 0o755, mtime: 1_700_000_001 },
];

test('obd verify --against says what is not as the layers say, where, and whose it is', (t) => {
  const dir = tempDir(t);
  const image = (name: string, layers: readonly (readonly Member[])[]): string => {
    mkdirSync(join(dir, name));
    return writeLayout(join(dir, name), layers.map(tarOf));
  };
  const source = image('src', [LOWER, UPPER]);
  const broken = image('broken', [
    [...LOWER.slice(0, 1), { path: 'etc/hosts', content: 'localhosT\n' }, ...LOWER.slice(2, 3)],
    [{ path: 'bin/tool', content: 'binary', mode: 0o4755, mtime: 1_700_000_001 }],
  ]);
  for (const name of [source, broken]) {
    const run = obd('convert', name, `${name}_obd`, '--vsize', '1', '--quiet', '--workdir', dir);
    assert.equal(run.status, 0, run.stderr);
  }
  const right = compare(source, `${source}_obd`, '--workdir', dir);
  assert.deepEqual([right.status, right.ok, right.differences], [0, true, []]);
  // etc, hosts, the name that is no UTF-8, bin, tool
  assert.equal(right.names, 5);

  const wrong = compare(source, `${broken}_obd`, '--workdir', dir);
  assert.equal(wrong.status, 3);
  assert.deepEqual(wrong.differences.map(({ path, kind, layer }) => [path, kind, layer].join(' ')).sort(), [
    '/bin/tool mode 1',
    '/caf\ufffd missing 0',
    '/etc/gone unexpected ',
    '/etc/hosts content 0',
  ]);
  const missing = wrong.differences.find(({ kind }) => kind === 'missing');
  assert.equal(Buffer.from(String(missing?.['pathBase64']), 'base64').toString('latin1'), '/caf\xe9');
  assert.match(String(missing?.['layerDigest']), /^sha256:[0-9a-f]{64}$/);
  assert.deepEqual(
    readdirSync(dir).filter((name) => name.startsWith('.')),
    [],
    'no work file is left',
  );

  const text = obd('verify', '--against', source, `${broken}_obd`, '--quiet', '--ignore', 'mode,unexpected');
  assert.equal(text.status, 3);
  assert.match(text.stdout, /^\/etc\/hosts: content: expected sha256:\w+, found sha256:\w+ {2}\(layer 0\)$/m);
  assert.match(text.stdout, /: 2 differences in 5 names, /);
  assert.doesNotMatch(text.stdout, /mode|gone/);
});

test('obd verify --against accepts what the reference converted', { skip: noFixtures }, () => {
  const images = (name: string): string => {
    const { manifests } = JSON.parse(readFileSync(fixture('debian', name, 'index.json'), 'utf8')) as {
      manifests: { annotations: Record<string, string> }[];
    };
    return `oci:${fixture('debian', name)}:${manifests[0]?.annotations['org.opencontainers.image.ref.name'] ?? ''}`;
  };
  const { ok, names, differences } = compare(images('oci-src'), images('oci-obd'));
  assert.deepEqual(differences, []);
  assert.ok(ok);
  assert.ok(names > 1000);
});

test('obd verify --against says what cannot be compared', (t) => {
  const dir = tempDir(t);
  const source = writeLayout(dir, [Buffer.concat([...LOWER.map(memberBytes), Buffer.alloc(1024)])]);
  const ordinary = obd('verify', '--against', source, source);
  assert.notEqual(ordinary.status, 0);
  assert.match(ordinary.stderr, /layer 0 is an ordinary layer, expected an overlaybd layer/);
  const noImage = obd('verify', '--against', join(dir, 'index.json'), source);
  assert.notEqual(noImage.status, 0);
  assert.match(noImage.stderr, /expected an image/);
  const noKind = obd('verify', '--against', source, source, '--ignore', 'colour');
  assert.notEqual(noKind.status, 0);
  assert.match(noKind.stderr, /Cannot ignore "colour": expected some of missing, /);
});
