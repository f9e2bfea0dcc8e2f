/** The real service, as a process, with configuration, sockets, log and cache of its own in a temporary directory. */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { DoctorReport } from '../../src/doctor/index.js';
import { AdminClient, type DeviceInfo, type TransportChoice } from '../../src/service/index.js';
import { checkout } from './fixtures.js';

/** How a service is started. */
export interface ServiceNodeOptions {
  /** Keys of overlaybd.json, over those that keep the service in its directory. */
  readonly config?: object;
  /** Before the service's own words: `['prlimit', '--nofile=64']`. */
  readonly wrap?: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
  /** Where everything is; default: a directory that lives as long as the test. */
  readonly dir?: string;
}

/** A line of the service's log. */
export type LogLine = Readonly<Record<string, unknown>>;

/** See the head of this file. */
export class ServiceNode {
  readonly dir: string;
  readonly client: AdminClient;
  readonly cacheDir: string;
  readonly #options: ServiceNodeOptions;
  #child: ChildProcess | undefined;

  private constructor(dir: string, options: ServiceNodeOptions) {
    this.dir = dir;
    this.#options = options;
    this.cacheDir = this.at('cache');
    this.client = new AdminClient(this.at('o.sock'));
  }

  /** Starts one and waits until it serves; it ends with the test. */
  static async start(t: TestContext, options: ServiceNodeOptions = {}): Promise<ServiceNode> {
    const node = new ServiceNode(options.dir ?? mkdtempSync(join(tmpdir(), 'obd-node-')), options);
    t.after(async () => {
      await node.kill('SIGKILL');
      if (options.dir === undefined) rmSync(node.dir, { recursive: true, force: true });
    });
    writeFileSync(
      node.at('overlaybd.json'),
      JSON.stringify({
        apiSocket: node.at('o.sock'),
        transport: 'nbd',
        logConfig: { logPath: node.at('log'), logLevel: 0 },
        cacheConfig: { cacheType: 'file', cacheDir: node.cacheDir, cacheSizeGB: 1, refillSize: 65536 },
        gzipCacheConfig: { enable: false },
        credentialConfig: { mode: 'file', path: node.at('cred.json') },
        registryConfig: { plainHttpHosts: ['127.0.0.1'] },
        ioPolicy: { retry: 0, then: 'error' },
        ...options.config,
      }),
    );
    writeFileSync(node.at('cred.json'), '{"auths": {}}', { mode: 0o600 });
    await node.run();
    return node;
  }

  at(name: string): string {
    return join(this.dir, name);
  }

  get pid(): number {
    return this.#child?.pid ?? -1;
  }

  /** Starts the process (again). */
  async run(): Promise<void> {
    const words = [
      ...(this.#options.wrap ?? []),
      process.execPath,
      join(checkout, 'bin', 'overlaybd-tcmu'),
      this.at('overlaybd.json'),
      '--state-dir',
      this.at('state'),
    ];
    const child = spawn(words[0] ?? '', words.slice(1), {
      stdio: ['ignore', 'ignore', 'pipe'],
      // Without a home nobody's login helps.
      env: { PATH: process.env['PATH'], HOME: this.dir, ...this.#options.env },
    });
    this.#child = child;
    await new Promise<void>((resolve, reject) => {
      let said = '';
      child.stderr.on('data', (text: Buffer) => {
        if ((said += text.toString()).includes('Serving on')) resolve();
      });
      child.once('error', reject);
      child.once('exit', () => {
        reject(new Error(`The service ended: ${said}`));
      });
    });
  }

  /** Ends the process, if there is one. */
  async kill(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child?.exitCode !== null || child.signalCode !== null) return;
    const exit = once(child, 'exit');
    child.kill(signal);
    await exit;
  }

  /** Writes an image's configuration; returns its path. */
  image(name: string, config: object): string {
    mkdirSync(this.at('images'), { recursive: true });
    const path = join(this.at('images'), `${name}.json`);
    writeFileSync(path, JSON.stringify({ resultFile: `${path}.result`, ...config }));
    return path;
  }

  /** Attaches it. */
  attach(id: string, configPath: string, transport: TransportChoice = 'nbd'): Promise<DeviceInfo> {
    return this.client.attach({ configPath, id, transport });
  }

  /** The log, oldest line first. */
  log(): LogLine[] {
    const path = this.at('log');
    if (!existsSync(path)) return [];
    return readFileSync(path, 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as LogLine);
  }

  /** What `obd doctor` says. */
  doctor(): DoctorReport {
    const { stdout, stderr } = spawnSync(
      process.execPath,
      [
        ...[join(checkout, 'bin', 'obd'), 'doctor', '--json', '--service-config', this.at('overlaybd.json')],
        ...['--snapshotter-config', this.at('none.json'), '--address', this.at('none.sock')],
        ...['--containerd-program', '/nonexistent/containerd'],
      ],
      { encoding: 'utf8' },
    );
    if (stdout === '') throw new Error(stderr);
    return JSON.parse(stdout) as DoctorReport;
  }
}
