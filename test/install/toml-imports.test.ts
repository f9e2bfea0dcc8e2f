import assert from 'node:assert/strict';
import { test } from 'node:test';
import { configVersion, importsOf, isImported, withImport, withoutImport } from '../../src/install/index.js';

const PATTERN = '/etc/containerd/conf.d/overlaybd*.toml';
const MARKED = `imports = ["${PATTERN}"] # added by "obd install"\n`;

/** Text, and what it becomes with our import. */
const CASES: readonly [name: string, before: string, after: string][] = [
  ['an empty file', '', MARKED],
  ['a version', 'version = 2\n[grpc]\n', `version = 2\n${MARKED}[grpc]\n`],
  ['a version without an end of line', 'version = 2', `version = 2\n${MARKED}`],
  ['Windows line ends', 'version = 3\r\nroot = "/x"\r\n', `version = 3\r\n${MARKED}root = "/x"\r\n`],
  ['only tables', '# mine\n[plugins]\n', `${MARKED}# mine\n[plugins]\n`],
  ['an empty list', 'imports = []\n', `imports = ["${PATTERN}"]\n`],
  ['a list', 'imports = [\'/a\', "/b"] # c\n', `imports = ["${PATTERN}", '/a', "/b"] # c\n`],
  [
    'a list over several lines, with comments and brackets in them',
    'version = 2\nimports = [ # ] not the end\n  "/a", # "/b"\n]\n[x]\n',
    `version = 2\nimports = ["${PATTERN}",  # ] not the end\n  "/a", # "/b"\n]\n[x]\n`,
  ],
  [
    'values that look like something else',
    'root = "imports = [] # no"\nx = """\nversion = 9\n[t]\n"""\ny = {a = [1, {b = "]"}]}\nversion = 2\n',
    `root = "imports = [] # no"\nx = """\nversion = 9\n[t]\n"""\ny = {a = [1, {b = "]"}]}\nversion = 2\n${MARKED}`,
  ],
  ['a quoted key', '"imports" = [ ]\n', `"imports" = ["${PATTERN}" ]\n`],
  [
    'imports of a table, which are none of the file',
    '[x]\nimports = ["/a"]\n',
    `${MARKED}[x]\nimports = ["/a"]\n`,
  ],
];
for (const [name, before, after] of CASES)
  test(`an import is added to ${name}, and taken out again`, () => {
    const added = withImport(before, PATTERN);
    assert.equal(added, after);
    assert.equal(importsOf(added)?.[0], PATTERN);
    assert.equal(withImport(added, PATTERN), added, 'once');
    const out = withoutImport(added, PATTERN);
    assert.ok(out !== undefined);
    assert.ok(!out.includes(PATTERN));
    assert.deepEqual(importsOf(out), importsOf(before));
    assert.equal(out.replace(/[ \t]/g, '').trimEnd(), before.replace(/[ \t]/g, '').trimEnd());
  });

test('a file that is not understood is not changed', () => {
  for (const text of [
    'imports = "x"\n',
    'imports = ["a" "b"]\n',
    'imports = ["a\\u0041"]\n',
    'imports = [["a"]]\n',
    'imports = []\nimports = []\n',
    'version = "2"\n',
    'version\n',
    'a = [1\n',
    'a = "x\n',
    'a = """x\n',
    'a = 1 2 = 3 ]\n',
    'a =\n',
    '= 1\n',
  ])
    assert.equal(withImport(text, PATTERN), undefined, text);
  assert.equal(withImport('', '/with"quote'), undefined);
});

test('withoutImport() leaves the others of a list as they are', () => {
  const list = (...items: string[]): string => `imports = [${items.map((i) => `"${i}"`).join(', ')}]\n`;
  assert.equal(withoutImport(list('/a', '/b', '/c'), '/b'), list('/a', '/c'));
  assert.equal(withoutImport(list('/a', '/b'), '/b'), list('/a'));
  assert.equal(withoutImport(list('/a'), '/b'), list('/a'));
  assert.equal(withoutImport(list('/b'), '/b'), 'imports = []\n');
  assert.equal(withoutImport('root = "/"\n', '/b'), 'root = "/"\n');
});

test('configVersion() is 1 where a file does not say it, as for containerd', () => {
  assert.equal(configVersion('[grpc]\nversion = 2\n'), 1);
  assert.equal(configVersion('\uFEFF# x\nversion = 3 # y\n'), 3);
});

test('isImported() knows names and patterns', () => {
  const path = '/etc/containerd/conf.d/overlaybd.toml';
  for (const entry of [path, PATTERN, '/etc/containerd/conf.d/*.toml', '/etc/containerd/*/*'])
    assert.equal(isImported([entry], path), true, entry);
  for (const entry of [
    '/etc/*',
    '/etc/containerd/conf.d/overlaybd',
    'conf.d/*.toml',
    '*',
    '/etc/containerd/conf.d/.*',
  ])
    assert.equal(isImported([entry], path), false, entry);
});
