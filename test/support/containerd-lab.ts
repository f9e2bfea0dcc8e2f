/** containerd with our snapshotter and service (containerd-node.ts), and Debian's docker-registry beside it. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { PulledImage } from '../../src/containerd/index.js';
import { missing } from './commands.js';
import { noContainerd, startNode, type ContainerdNode } from './containerd-node.js';
import { dockerRegistry, type DockerRegistry } from './docker-registry.js';
import { checkout, noFixtures } from './fixtures.js';
import { tempDir } from './unpack.js';

const run = promisify(execFile);

/** For node:test's `skip`. */
export const noLab: string | false =
  noContainerd || missing({ 'docker-registry': 'docker-registry' }) || noFixtures;

/** A node with a registry. */
export interface Lab {
  readonly node: ContainerdNode;
  readonly registry: DockerRegistry;
  /** Runs one of our programs; standard output. */
  readonly run: (program: string, ...args: string[]) => Promise<string>;
  /** Runs `obd` with containerd's address and --json. */
  readonly pull: (command: 'pull' | 'rpull', ...args: string[]) => Promise<PulledImage>;
  /** Digests in containerd's content store. */
  readonly blobs: () => Promise<string[]>;
  /** Removes an image, after which nothing may be left of it. */
  readonly removed: (image: string) => Promise<void>;
  /** Checks that nothing is there, once containerd has collected its garbage. */
  readonly nothing: () => Promise<void>;
}

/** Starts both; they end with the test. */
export async function startLab(t: TestContext): Promise<Lab> {
  const registry = await dockerRegistry(tempDir(t));
  t.after(() => registry[Symbol.asyncDispose]());
  const node = await startNode(t, { mirrorRegistry: [{ host: registry.host, insecure: true }] });
  const store = join(node.dir, 'c-root/io.containerd.content.v1.content/blobs/sha256');
  const left = async (): Promise<string[]> => [
    ...(await readdir(join(node.dir, 'snapshots', 'snapshots'))),
    ...(await readdir(store)),
    await node.ctr('image', 'ls', '-q'),
    await node.ctr('leases', 'ls', '-q'),
    ...(await node.service.list()).map(({ devicePath }) => String(devicePath)),
  ];
  const nothing = async (): Promise<void> => {
    // What containerd was doing when its client went away may end later than that.
    for (let n = 0; n < 60 && (await left()).join('') !== ''; n++) {
      await sleep(200);
      await collect(node);
    }
    assert.equal((await left()).join(' ').trim(), '');
  };
  const runOurs = async (program: string, ...args: string[]): Promise<string> =>
    (
      await run(join(checkout, 'bin', program), args, {
        timeout: 120_000,
        env: { ...process.env, XDG_CACHE_HOME: join(node.dir, 'xdg-cache') },
      })
    ).stdout;
  return {
    run: runOurs,
    node,
    registry,
    pull: async (command, ...args) => {
      const all = [command, '-a', node.address, '--plain-http', '--json', ...args];
      return JSON.parse(await runOurs('obd', ...all)) as PulledImage;
    },
    blobs: async () => (await readdir(store)).map((hex) => `sha256:${hex}`).sort(),
    removed: async (image) => {
      await node.ctr('image', 'rm', '--sync', image);
      await nothing();
    },
    nothing,
  };
}

/** What a container prints. */
export function output({ node }: Lab, image: string, id: string): Promise<string> {
  return node.ctr(
    ...['run', '--rm', '--snapshotter', 'overlaybd', image, id, '/bin/cat', '/etc/debian_version'],
  );
}

/** Makes containerd collect its garbage now. */
export async function collect({ ctr }: ContainerdNode): Promise<void> {
  await ctr('leases', 'create', '--id', 'collect');
  await ctr('leases', 'delete', '--sync', 'collect');
}
