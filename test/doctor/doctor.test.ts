/** `obd doctor` on machines that are bare, well, ill, and hanging. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { diagnose, type DoctorOptions, type DoctorReport, type Finding } from '../../src/doctor/index.js';
import { silentLogger } from '../../src/log/index.js';
import { AdminClient, AdminServer, type DeviceInfo } from '../../src/service/index.js';
import { fakeContainerd } from '../containerd/fake-containerd.js';
import { checkout } from '../support/fixtures.js';
import { layerBytes } from '../support/layers.js';
import { startServer } from '../support/snapshots-client.js';
import { tempDir } from '../support/unpack.js';

/** Configurations and sockets of its own. */
function machine(t: TestContext, overlaybd: object = {}, snapshotter: object = {}) {
  const dir = tempDir(t);
  const at = (name: string): string => join(dir, name);
  writeFileSync(
    at('overlaybd.json'),
    JSON.stringify({
      apiSocket: at('o.sock'),
      transport: 'nbd',
      logConfig: { logPath: at('log') },
      cacheConfig: { cacheType: 'file', cacheDir: at('cache'), cacheSizeGB: 1 },
      credentialConfig: { mode: 'file', path: at('cred.json') },
      ...overlaybd,
    }),
  );
  writeFileSync(
    at('config.json'),
    JSON.stringify({
      root: at('snapshots'),
      address: at('s.sock'),
      serviceConfig: at('overlaybd.json'),
      ...snapshotter,
    }),
  );
  writeFileSync(at('cred.json'), '{"auths": {}}', { mode: 0o600 });
  const options: DoctorOptions = {
    serviceConfig: at('overlaybd.json'),
    snapshotterConfig: at('config.json'),
    containerdAddress: at('c.sock'),
    containerdConfig: at('containerd.toml'),
    containerdProgram: '/nonexistent/containerd',
    version: '0.1.0',
    timeoutMs: 10_000,
  };
  return { dir, at, options, args: flags(options) };
}

function flags(options: DoctorOptions): string[] {
  return [
    ...['--service-config', options.serviceConfig, '--snapshotter-config', options.snapshotterConfig],
    ...['--address', options.containerdAddress ?? '', '--containerd-config', options.containerdConfig],
    ...['--containerd-program', options.containerdProgram],
  ];
}

function part(report: DoctorReport, name: string): Finding {
  const found = report.findings.find((finding) => finding.part === name);
  assert.ok(found !== undefined, `${name} in ${JSON.stringify(report)}`);
  return found;
}

test('obd doctor where nothing runs names each part that does not, and what to do', (t) => {
  const { args } = machine(t);
  const run = (...more: string[]) =>
    spawnSync(process.execPath, [join(checkout, 'bin', 'obd'), 'doctor', ...args, ...more], {
      encoding: 'utf8',
    });
  const { status, stdout, stderr } = run();
  assert.equal(status, 1, stderr);
  for (const line of [
    /^failed +service +No service listens on .*o\.sock/m,
    /-> systemctl start overlaybd-tcmu/,
    /^failed +snapshotter +no snapshotter listens on .*s\.sock/m,
    /^failed +containerd +Cannot connect to containerd at .*c\.sock/m,
    /^ok +service configuration/m,
    /^ok +credentials .*0 entries/m,
    /^skipped +containerd's configuration/m,
  ])
    assert.match(stdout, line);
  const report = JSON.parse(run('--json').stdout) as DoctorReport;
  assert.equal(report.status, 'failed');
  assert.deepEqual(report.devices, []);
});

test('where nothing is installed nothing has failed', async (t) => {
  const { options, at } = machine(t);
  const report = await diagnose({
    ...options,
    serviceConfig: at('none.json'),
    snapshotterConfig: at('none-either.json'),
  });
  assert.equal(part(report, 'service configuration').status, 'warning');
  assert.equal(part(report, 'containerd').status, 'skipped');
  assert.equal(part(report, 'service configuration').todo, 'obd install');
});

test('obd doctor tells a device that works from one that does not, and why', async (t) => {
  const { at, options } = machine(t);
  const service = spawn(
    process.execPath,
    [join(checkout, 'bin', 'overlaybd-tcmu'), at('overlaybd.json'), '--state-dir', at('state')],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  t.after(async () => {
    if (service.exitCode !== null || !service.kill('SIGTERM')) return;
    await once(service, 'exit');
  });
  const serving = new Promise<void>((resolve, reject) => {
    let said = '';
    service.stderr.on('data', (text: Buffer) => {
      if ((said += text.toString()).includes('Serving on')) resolve();
    });
    service.once('exit', () => {
      reject(new Error(said));
    });
  });
  await serving;
  writeFileSync(at('layer'), layerBytes([{ start: 0, length: 8, fill: 1 }], 1 << 20));
  for (const [name, file] of [
    ['good', at('layer')],
    ['bad', at('no-such-layer')],
  ] as const)
    writeFileSync(at(`${name}.json`), JSON.stringify({ lowers: [{ file }] }));
  const client = new AdminClient(at('o.sock'));
  await client.attach({ configPath: at('good.json'), id: 'good', transport: 'nbd' });
  await assert.rejects(client.attach({ configPath: at('bad.json'), id: 'bad', transport: 'nbd' }));
  const report = await diagnose(options);
  assert.deepEqual(report.devices.map(({ id, status, state }) => [id, status, state]).sort(), [
    ['bad', 'failed', 'failed'],
    ['good', 'ok', 'ready'],
  ]);
  const bad = report.devices.find(({ id }) => id === 'bad');
  assert.match(bad?.detail ?? '', /no-such-layer/);
  assert.match(bad?.todo ?? '', /obd detach bad/);
  assert.match(part(report, 'service').detail, new RegExp(`process ${service.pid}, version`));
  assert.ok(
    report.findings.some(
      ({ part: p, status, detail }) =>
        p === 'service' && status === 'warning' && /no block devices/.test(detail),
    ),
    'only NBD',
  );
  const other = await diagnose({ ...options, version: '9.9.9' });
  assert.ok(other.findings.some(({ detail }) => /is version .*, this program is 9\.9\.9/.test(detail)));
});

const DEVICE: DeviceInfo = {
  id: 'a',
  state: 'ready',
  transport: 'fuse',
  configPath: '/x',
  devicePath: '/dev/loop7',
  since: new Date(0).toISOString(),
  reads: 0,
  bytesRead: 0,
  bytesFetched: 0,
  remoteBytes: 0,
  presentBytes: 0,
  errors: 0,
};

test('errors of a device and an opening without end are warnings, and text from elsewhere cannot break the table', async (t) => {
  const { at, options, args } = machine(t);
  const devices: DeviceInfo[] = [
    {
      ...DEVICE,
      errors: 2,
      reason: { code: 'OBD_FORMAT_CHECKSUM', message: 'block 3 of \u001b[31mx\nok  fake' },
    },
    { ...DEVICE, id: 'slow', state: 'opening' },
    { ...DEVICE, id: 'fresh', state: 'opening', since: new Date().toISOString() },
    {
      ...DEVICE,
      id: 'held',
      state: 'blocked',
      stateSince: '2026-01-02T03:04:05.000Z',
      ioPolicy: { retry: 60, then: 'hold' },
      reason: { code: 'OBD_REGISTRY_CONNECTION', message: 'no route', hint: 'Mend the network' },
    },
  ];
  const server = await AdminServer.listen(
    at('o.sock'),
    {
      info: () => ({
        version: '0.1.0',
        api: 1,
        pid: 42,
        configPath: at('overlaybd.json'),
        since: new Date(0).toISOString(),
        ephemeral: false,
        transports: ['fuse'],
      }),
      attach: async () => DEVICE,
      abort: async () => ({ aborted: 0, device: DEVICE }),
      detach: async () => DEVICE,
      get: () => DEVICE,
      list: () => devices,
      activity: () => {
        throw new TypeError('not asked');
      },
      snapshot: async () => Promise.reject(new TypeError('Not asked for')),
      traffic: () => ({ atMs: 0, devices: [] }),
      metrics: () => '',
    },
    silentLogger,
  );
  t.after(() => server.close());
  const report = await diagnose(options);
  assert.deepEqual(
    report.devices.map(({ status }) => status),
    ['warning', 'warning', 'ok', 'failed'],
  );
  assert.match(
    report.devices[3]?.detail ?? '',
    /blocked since 2026-01-02T03:04:05.000Z, its I\/O waits .*: no route/,
  );
  assert.match(report.devices[3]?.todo ?? '', /^Mend the network; .*"obd abort held"/);
  assert.match(report.devices[0]?.detail ?? '', /2 I\/O errors: block 3/);
  const doctor = spawn(process.execPath, [join(checkout, 'bin', 'obd'), 'doctor', ...args]);
  let stdout = '';
  doctor.stdout.on('data', (text: Buffer) => (stdout += text.toString()));
  await once(doctor, 'close');
  assert.match(stdout, /^warning device a .*block 3 of {1,2}\[31mx ok {2}fake$/m);
});

test('a program that hangs is told, and does not hold the doctor up', { timeout: 120_000 }, async (t) => {
  const { at, args } = machine(t);
  for (const name of ['o.sock', 's.sock', 'c.sock']) {
    const server = createServer((socket) => socket.on('error', () => undefined).resume()).listen(at(name));
    await once(server, 'listening');
    t.after(() => void server.close());
  }
  // While this waits, nobody here accepts a connection: the kernel alone answers, as for a process that is stuck.
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [join(checkout, 'bin', 'obd'), 'doctor', ...args, '--timeout', '0.5', '--json'],
    { encoding: 'utf8', timeout: 60_000 },
  );
  assert.equal(status, 1, stderr);
  const report = JSON.parse(stdout) as DoctorReport;
  for (const name of ['service', 'snapshotter', 'containerd']) {
    assert.equal(part(report, name).status, 'failed', name);
    assert.match(part(report, name).detail, /does not answer within 0\.5 s/, name);
  }
  assert.match(part(report, 'service').todo ?? '', /restart overlaybd-tcmu/);
});

test('files that cannot be opened do not hold the doctor up', { timeout: 120_000 }, (t) => {
  const { at, args } = machine(t);
  // Opening a pipe waits for who writes to it, as opening a file waits for a server that is gone.
  for (const name of ['overlaybd.json', 'config.json']) {
    rmSync(at(name));
    assert.equal(spawnSync('mkfifo', [at(name)]).status, 0);
  }
  const { status, stdout, signal } = spawnSync(
    process.execPath,
    [join(checkout, 'bin', 'obd'), 'doctor', ...args, '--timeout', '0.5', '--json'],
    { encoding: 'utf8', timeout: 60_000 },
  );
  assert.deepEqual([status, signal], [1, null]);
  const report = JSON.parse(stdout) as DoctorReport;
  for (const name of ['service configuration', "snapshotter's configuration"])
    assert.match(part(report, name).detail, /no result within 0\.5 s/);
  assert.equal(part(report, '/dev/fuse').part, '/dev/fuse', 'the others were looked at');
});

test('something else on the sockets is told from what should be there', async (t) => {
  const { at, options } = machine(t);
  for (const name of ['o.sock', 's.sock', 'c.sock']) {
    const server = createServer((socket) => {
      socket.on('error', () => undefined).resume();
      socket.end('HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi');
    }).listen(at(name));
    await once(server, 'listening');
    t.after(() => void server.close());
  }
  const report = await diagnose(options);
  assert.match(part(report, 'service').detail, /is not this service/);
  for (const name of ['service', 'snapshotter', 'containerd'])
    assert.equal(part(report, name).status, 'failed', name);
});

test('configurations are read as their programs read them', async (t) => {
  const odd = machine(t, { transports: 'fuse', enableThread: true });
  const warnings = (await diagnose(odd.options)).findings
    .filter((finding) => finding.part === 'service configuration')
    .map(({ status, detail }) => `${status}: ${detail}`);
  assert.equal(warnings.length, 2);
  assert.match(warnings.join('\n'), /"transports" \(perhaps "transport"\)/);
  assert.match(warnings.join('\n'), /"enableThread"/);
  const apart = machine(t, {}, { serviceConfig: '/other/overlaybd.json' });
  assert.ok(
    (await diagnose(apart.options)).findings.some(({ detail }) =>
      /goes by "\/other\/overlaybd\.json"/.test(detail),
    ),
  );
  const broken = machine(t);
  writeFileSync(broken.at('overlaybd.json'), '{"cacheConfig": 3}');
  writeFileSync(broken.at('config.json'), '{');
  const report = await diagnose(broken.options);
  assert.match(part(report, 'service configuration').detail, /"cacheConfig" is 3, expected an object/);
  assert.match(part(report, "snapshotter's configuration").detail, /is not JSON/);
  assert.match(part(report, "snapshotter's configuration").todo ?? '', /does not start with it/);
});

test('the cache directory is looked at where it is, or will be', async (t) => {
  const { at, options } = machine(t);
  assert.match(part(await diagnose(options), 'cache directory').detail, /not made yet\): up to 1 GiB/);
  writeFileSync(at('cache'), 'a file');
  const file = part(await diagnose(options), 'cache directory');
  assert.equal(file.status, 'failed');
  assert.match(file.detail, /is not a directory/);
  const huge = machine(t, {
    cacheConfig: { cacheType: 'file', cacheDir: tempDir(t), cacheSizeGB: 4_000_000 },
  });
  assert.match(
    part(await diagnose(huge.options), 'cache directory').detail,
    /the whole file system has less/,
  );
});

test('credentials are checked and never shown', async (t) => {
  const { at, options } = machine(t);
  const write = (text: string, mode = 0o600): void => {
    writeFileSync(at('cred.json'), text);
    chmodSync(at('cred.json'), mode);
  };
  const secret = 'c2VjcmV0LW5hbWU6c2VjcmV0LXdvcmQ=';
  const check = async (): Promise<Finding> => {
    const report = await diagnose(options);
    assert.doesNotMatch(JSON.stringify(report), /secret|c2Vj/);
    return part(report, 'credentials');
  };
  write(
    `{"auths": {"a.example": {"auth": "${secret}"}, "b.example": {"username": "secret", "password": "secret"}}}`,
  );
  assert.deepEqual([(await check()).status, (await check()).detail.includes('2 entries')], ['ok', true]);
  write(`{"auths": {"a.example": {"auth": "${secret}"}}}`, 0o644);
  const open = await check();
  assert.match(open.detail, /mode 0644/);
  assert.match(open.todo ?? '', /^chmod 600 /);
  write('{"auths": {"secret:secret@c.example": {"pass": "secret"}}}');
  assert.match((await check()).detail, /nothing usable for c\.example/);
  for (const [text, expected] of [
    [`{"auths": {"a": {"auth": "${secret}"`, /not valid JSON/],
    [`["${secret}"]`, /no object "auths"/],
  ] as const) {
    write(text);
    const found = await check();
    assert.equal(found.status, 'failed');
    assert.match(found.detail, expected);
  }
});

test('containerd is asked for the snapshotter, and its file for the socket', async (t) => {
  const snapshotter = await startServer(t);
  const { at, options } = machine(t, {}, { address: snapshotter.address });
  const plugins = [{ type: 'io.containerd.snapshotter.v1', id: 'overlayfs' }];
  const { address } = await fakeContainerd(t, {
    'introspection.v1.Introspection/Plugins': () => [{ plugins }],
  });
  const program = at('containerd');
  const dump = at('dump');
  const names = (socket: string): void => {
    writeFileSync(
      dump,
      `[proxy_plugins]\n  [proxy_plugins.overlaybd]\n    address = "${socket}"\n    type = "snapshot"\n`,
    );
  };
  writeFileSync(
    program,
    `#!/bin/sh\ncase $* in --version) echo containerd x 1.6.99 y ;; *"config dump") cat ${dump} ;; *) exit 9 ;; esac\n`,
    { mode: 0o755 },
  );
  writeFileSync(dump, '');
  const asked = { ...options, containerdAddress: address, containerdProgram: program };
  const without = await diagnose(asked);
  assert.equal(part(without, 'snapshotter').status, 'ok');
  assert.match(part(without, 'containerd').detail, /Cannot use snapshotter "overlaybd"/);
  assert.match(part(without, 'containerd').todo ?? '', /obd install/);
  assert.match(part(without, "containerd's configuration").detail, /has no \[proxy_plugins\.overlaybd\]/);
  plugins.push({ type: 'io.containerd.snapshotter.v1', id: 'overlaybd' });
  names('/other.sock');
  const other = await diagnose(asked);
  assert.equal(part(other, 'containerd').status, 'ok');
  assert.match(part(other, 'containerd').detail, /version 1\.6\.99 on/);
  assert.match(
    part(other, "containerd's configuration").detail,
    /names "\/other\.sock", the snapshotter listens on/,
  );
  names(snapshotter.address);
  assert.equal(part(await diagnose(asked), "containerd's configuration").status, 'ok');
});

test('a directory in place of a socket, and a timeout that is none, are mistakes that are named', async (t) => {
  const { at, options, args } = machine(t);
  for (const name of ['o.sock', 's.sock', 'c.sock']) mkdirSync(at(name));
  const report = await diagnose(options);
  for (const name of ['service', 'snapshotter', 'containerd'])
    assert.equal(part(report, name).status, 'failed', name);
  const { status, stderr } = spawnSync(
    process.execPath,
    [join(checkout, 'bin', 'obd'), 'doctor', ...args, '--timeout', 'x'],
    { encoding: 'utf8' },
  );
  assert.equal(status, 2);
  assert.match(stderr, /--timeout is "x", expected seconds/);
});
