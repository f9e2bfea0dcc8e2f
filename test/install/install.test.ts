/** `obd install` below a directory of its own, with Debian's containerd as the judge of what it writes for it. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { installAsTold, type InstallFlags } from '../../src/cli/install.js';
import type { InstallReport } from '../../src/install/index.js';
import { missing } from '../support/commands.js';
import { checkout } from '../support/fixtures.js';
import { tempDir } from '../support/unpack.js';

/** A target directory, and the command on it. */
function target(t: TestContext) {
  const root = tempDir(t);
  const at = (path: string): string => join(root, path);
  return {
    root,
    at,
    read: (path: string): string => readFileSync(at(path), 'utf8'),
    write: (path: string, text: string): void => {
      mkdirSync(dirname(at(path)), { recursive: true });
      writeFileSync(at(path), text);
    },
    files: (): string[] =>
      readdirSync(root, { recursive: true, withFileTypes: true })
        .filter((entry) => !entry.isDirectory())
        .map((entry) => join(entry.parentPath, entry.name).slice(root.length))
        .sort(),
    obd: (...args: string[]) =>
      spawnSync(process.execPath, [join(checkout, 'bin', 'obd'), 'install', '--root', root, ...args], {
        encoding: 'utf8',
      }),
    run: (flags: Partial<InstallFlags> = {}): Promise<InstallReport> =>
      installAsTold({
        root,
        unitDir: '/etc/systemd/system',
        containerd: true,
        containerdConfig: MAIN,
        ...flags,
      }),
  };
}

function outcomes({ files }: InstallReport): Record<string, string> {
  return Object.fromEntries(files.map(({ path, outcome }) => [path, outcome]));
}

const UNIT = '/etc/systemd/system/overlaybd-tcmu.service';
const SERVICE = '/etc/overlaybd/overlaybd.json';
const SNAPSHOTTER = '/etc/overlaybd-snapshotter/config.json';
const MAIN = '/etc/containerd/config.toml';
const DROP_IN = '/etc/containerd/conf.d/overlaybd.toml';
const CREDENTIALS = '/opt/overlaybd/cred.json';
const RECORD = '/var/lib/overlaybd/install.json';

test('obd install puts everything where the reference has it, and a second time changes nothing', async (t) => {
  const { run, files, read, at } = target(t);
  const first = await run();
  assert.ok(first.files.every(({ outcome }) => outcome === 'written'));
  assert.deepEqual(
    files(),
    [
      UNIT,
      '/etc/systemd/system/overlaybd-snapshotter.service',
      SERVICE,
      SNAPSHOTTER,
      '/etc/modules-load.d/overlaybd.conf',
      DROP_IN,
      CREDENTIALS,
      RECORD,
    ].sort(),
  );
  assert.equal(read(SERVICE), readFileSync(join(checkout, 'config', 'overlaybd.json'), 'utf8'));
  assert.match(
    read(UNIT),
    /^ExecStart=\/opt\/overlaybd\/bin\/overlaybd-tcmu \/etc\/overlaybd\/overlaybd.json$/m,
  );
  assert.equal(statSync(at(CREDENTIALS)).mode & 0o777, 0o600);
  const record = read(RECORD);
  const second = await run();
  assert.ok(second.files.every(({ outcome }) => outcome === 'unchanged'));
  assert.equal(read(RECORD), record);
});

test('obd install writes units for another prefix, and links where the reference has its programs', async (t) => {
  const { run, read, at, obd } = target(t);
  await run({ prefix: '/usr/lib/overlaybd', unitDir: '/usr/lib/systemd/system' });
  const unit = read('/usr/lib/systemd/system/overlaybd-tcmu.service');
  assert.match(unit, /^ExecStart=\/usr\/lib\/overlaybd\/bin\/overlaybd-tcmu /m);
  assert.doesNotMatch(unit, /\/opt\/overlaybd/);
  assert.ok(existsSync(dirname(at('/opt/overlaybd/bin/overlaybd-create'))));
  assert.match(obd('--prefix', '/a b').stderr, /"\/a b"[^]*OBD_CONFIG_VALUE/);
  assert.equal(obd('--prefix', 'relative').status, 2);
});

test('obd install keeps what a person has changed, and says where the new text is', async (t) => {
  const { run, read, write, files } = target(t);
  write(SERVICE, '{"transport": "fuse"}\n');
  write(CREDENTIALS, '{"auths": {"h": {"auth": "eDp5"}}}\n');
  const before = await run();
  assert.equal(outcomes(before)[SERVICE], 'kept');
  assert.equal(outcomes(before)[CREDENTIALS], 'unchanged');
  assert.equal(read(SERVICE), '{"transport": "fuse"}\n');
  assert.match(read(`${SERVICE}.new`), /"registry_cache|registry_cache/);
  // Changed after it was installed: the text that it was made from is known, there is nothing to compare.
  write(SNAPSHOTTER, '{"root": "/r", "address": "/a.sock"}\n');
  const after = await run();
  assert.equal(outcomes(after)[SNAPSHOTTER], 'kept');
  assert.ok(!files().includes(`${SNAPSHOTTER}.new`));
  // containerd is told of the address that is configured, by a drop-in that nobody changed.
  assert.equal(outcomes(after)[DROP_IN], 'replaced');
  assert.match(read(DROP_IN), /address = "\/a\.sock"/);
  const forced = await run({ force: true });
  assert.equal(outcomes(forced)[SERVICE], 'replaced');
  assert.equal(read(`${SERVICE}.old`), '{"transport": "fuse"}\n');
  assert.match(read(SERVICE), /registry_cache/);
  assert.match(read(CREDENTIALS), /eDp5/);
  write(SERVICE, '{"transport": "nbd"}\n');
  await run({ force: true });
  assert.equal(read(`${SERVICE}.old`), '{"transport": "fuse"}\n');
  assert.equal(read(`${SERVICE}.old.2`), '{"transport": "nbd"}\n');
});

test('obd install replaces what an older version wrote and nobody changed', async (t) => {
  const { run, read, write } = target(t);
  await run();
  const old = '[Unit]\nDescription=older\n';
  write(UNIT, old);
  const record = JSON.parse(read(RECORD)) as { files: Record<string, string> };
  record.files[UNIT] = `sha256:${createHash('sha256').update(old).digest('hex')}`;
  write(RECORD, JSON.stringify(record));
  assert.equal(outcomes(await run())[UNIT], 'replaced');
  assert.match(read(UNIT), /ExecStart/);
});

test('obd install --dry-run says the same and changes nothing', async (t) => {
  const { run, files, write } = target(t);
  write(SERVICE, '{}');
  const dry = await run({ dryRun: true });
  assert.deepEqual(files(), [SERVICE]);
  assert.deepEqual(outcomes(await run()), outcomes(dry));
  const before = files();
  await run({ dryRun: true, uninstall: true });
  assert.deepEqual(files(), before);
});

test('obd install --uninstall removes its own and leaves the rest', async (t) => {
  const { run, files, write, obd } = target(t);
  await run();
  write(SERVICE, '{}');
  const report = await run({ uninstall: true });
  assert.equal(outcomes(report)[SERVICE], 'kept');
  assert.equal(outcomes(report)[UNIT], 'removed');
  assert.deepEqual(files(), [SERVICE, CREDENTIALS].sort());
  const again = obd('--uninstall');
  assert.equal(again.status, 0);
  assert.match(again.stdout, /Nothing is installed/);
});

test('obd install refuses to follow a link out of the root, and a damaged record only means that nothing is known', async (t) => {
  const { root, obd } = target(t);
  const outside = tempDir(t);
  mkdirSync(join(root, 'etc'));
  symlinkSync(outside, join(root, 'etc', 'overlaybd'));
  const { status, stderr } = obd();
  assert.equal(status, 7);
  assert.match(stderr, /outside of/);
  assert.deepEqual(readdirSync(outside), []);
  const other = target(t);
  other.write(RECORD, 'not JSON');
  other.write(UNIT, 'mine');
  assert.equal(outcomes(await other.run())[UNIT], 'kept');
  assert.equal(other.read(UNIT), 'mine');
});

test(
  'obd install says which file it cannot write',
  { skip: process.getuid?.() === 0 && 'root can write everywhere' },
  (t) => {
    const { at, obd } = target(t);
    mkdirSync(at('/etc'));
    chmodSync(at('/etc'), 0o500);
    const { status, stderr } = obd();
    chmodSync(at('/etc'), 0o700);
    assert.equal(status, 7);
    assert.match(stderr, /\/etc\/[^]*OBD_IO_PERMISSION/);
  },
);

test('without a containerd, its main file stays and the line for it is printed', async (t) => {
  const { obd, write, read, run } = target(t);
  write(MAIN, 'version = 3\n');
  const { status, stdout } = obd('--containerd-program', '/nonexistent/containerd');
  assert.equal(status, 1);
  assert.match(stdout, /imports = \["\/etc\/containerd\/conf\.d\/overlaybd\*\.toml"\]/);
  assert.equal(read(MAIN), 'version = 3\n');
  assert.match(read(DROP_IN), /^version = 3$/m);
  assert.equal((await run({ containerd: false })).manual.length, 0);
});

const noContainerd = missing({ containerd: 'containerd' });
const judge = { containerdProgram: 'containerd' } as const;

/** What containerd makes of a target's configuration: imports are looked up below the root. */
function dump({ root, read, write }: ReturnType<typeof target>): string {
  write('/check.toml', read(MAIN).replaceAll('"/etc/containerd/', `"${root}/etc/containerd/`));
  const { status, stdout, stderr } = spawnSync(
    'containerd',
    ['--config', join(root, 'check.toml'), 'config', 'dump'],
    {
      encoding: 'utf8',
    },
  );
  assert.equal(status, 0, stderr);
  return stdout;
}

const MAINS: readonly [name: string, text: string | undefined][] = [
  ['no configuration', undefined],
  [
    'a configuration of version 2',
    'version = 2\n\n[plugins]\n  [plugins."io.containerd.gc.v1.scheduler"]\n    startup_delay = "1s"\n',
  ],
  ['one of version 1', '# old\nroot = "/x"\n'],
  ['one with other imports', 'version = 2\nimports = ["/etc/containerd/conf.d/other*.toml"]\n'],
];
for (const [name, main] of MAINS)
  test(
    `containerd with ${name} gets the proxy plugin, and its configuration back`,
    { skip: noContainerd },
    async (t) => {
      const node = target(t);
      const other = '/etc/containerd/conf.d/other.toml';
      if (main !== undefined) node.write(MAIN, main);
      node.write(
        other,
        `${main?.includes('version') === true ? 'version = 2\n' : ''}[proxy_plugins.other]\n  type = "content"\n  address = "/o.sock"\n`,
      );
      const { manual } = await node.run({ ...judge, cri: true });
      assert.deepEqual(manual, []);
      const text = dump(node);
      assert.match(
        text,
        /\[proxy_plugins\.overlaybd\]\s+address = "\/run\/overlaybd-snapshotter\/overlaybd\.sock"/,
      );
      assert.match(text, /^\s*snapshotter = "overlaybd"$/m);
      assert.match(text, /disable_snapshot_annotations = false/);
      if (main?.includes('other') === true) assert.match(text, /proxy_plugins\.other/);
      if (main?.includes('startup') === true) assert.match(text, /startup_delay = "1s"/);
      assert.ok(
        (await node.run({ ...judge, cri: true })).files.every(({ outcome }) => outcome === 'unchanged'),
      );
      await node.run({ uninstall: true });
      if (main === undefined) assert.ok(!existsSync(node.at(MAIN)));
      else assert.equal(node.read(MAIN), main);
      assert.ok(existsSync(node.at(other)));
    },
  );

test(
  "an import that would cost containerd's CRI plugin its settings is not made",
  { skip: noContainerd },
  async (t) => {
    const node = target(t);
    const main =
      'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "registry.example/pause:1"\n';
    node.write(MAIN, main);
    const { manual } = await node.run({ ...judge, cri: true });
    // What is merged how depends on containerd; nothing may be lost in any.
    assert.match(dump(node), /registry\.example\/pause:1/);
    assert.match(dump(node), /proxy_plugins\.overlaybd/);
    if (manual.length > 0) {
      assert.match(manual[0]?.reason ?? '', /Kubernetes' settings cannot be imported: .*sandbox_image/);
      assert.match(manual[0]?.snippet ?? '', /disable_snapshot_annotations = false/);
      assert.doesNotMatch(node.read(DROP_IN), /plugins\."io\.containerd\.(grpc|cri)/);
    }
    assert.equal(node.obd('--containerd-program', 'containerd', '--cri').status, manual.length > 0 ? 1 : 0);
  },
);

test('a configuration that containerd does not take stays as it is', { skip: noContainerd }, async (t) => {
  for (const main of ['version = 2\nroot = [1, 2\n', 'version = 2\nimports = ["*.toml"]\n']) {
    const node = target(t);
    node.write(MAIN, main);
    const report = await node.run(judge);
    assert.ok(report.manual.length > 0, main);
    assert.equal(node.read(MAIN), main);
  }
});

test("the main file's mode stays, and nothing temporary is left", { skip: noContainerd }, async (t) => {
  const node = target(t);
  node.write(MAIN, 'version = 2\n');
  chmodSync(node.at(MAIN), 0o640);
  await node.run(judge);
  assert.match(node.read(MAIN), /imports/);
  assert.equal(statSync(node.at(MAIN)).mode & 0o777, 0o640);
  assert.deepEqual(readdirSync(dirname(node.at(MAIN))).sort(), ['conf.d', 'config.toml']);
});

test('systemd takes the units', { skip: missing({ 'systemd-analyze': 'systemd' }) }, async (t) => {
  const node = target(t);
  // The programs must exist for it: the checkout's own.
  await node.run({ prefix: checkout });
  for (const name of ['overlaybd-tcmu.service', 'overlaybd-snapshotter.service']) {
    const { status, stderr } = spawnSync(
      'systemd-analyze',
      ['verify', '--man=no', '--recursive-errors=no', join(dirname(node.at(UNIT)), name)],
      { encoding: 'utf8' },
    );
    assert.equal(status, 0, stderr);
    assert.equal(
      stderr
        .split('\n')
        .filter((line) => line.includes('overlaybd'))
        .join('\n'),
      '',
    );
  }
});
