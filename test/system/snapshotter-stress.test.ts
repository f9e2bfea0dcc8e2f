/**
 * Many containers at once with Debian's containerd and runc, through FUSE and loop devices; the machines of test/vm do the
 * same with TCMU (guest/containerd-restarts). OBD_STRESS_RUNS says how many; more make it longer.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { collect, noLab, startLab } from '../support/containerd-lab.js';
import { fixture } from '../support/fixtures.js';
import { imagePrefix } from '../support/image-prefix.js';
import { pushImage } from '../support/push-image.js';
import { tempDir } from '../support/unpack.js';

const run = promisify(execFile);
const RUNS = Number(process.env['OBD_STRESS_RUNS'] ?? 50);
const writable = (mode: string): string[] => [
  '--snapshotter-label',
  `containerd.io/snapshot/overlaybd.writable=${mode}`,
];
/** One container in ten has a device of its own. */
const MODES: readonly string[][] = [writable('dir'), ...Array.from({ length: 9 }, () => [])];

test(
  `${RUNS} containers of five images start at once; nothing is left`,
  { skip: noLab, timeout: 900_000 },
  async (t) => {
    const work = tempDir(t);
    const lab = await startLab(t);
    const { node, registry } = lab;
    const images: string[] = [];
    const add = async (layout: string, count: number, tag: string, more?: Uint8Array): Promise<void> => {
      const target = join(work, tag);
      await imagePrefix(fixture('debian', layout), count, target, more);
      const name = `${registry.host}/team/debian:${tag}`;
      await pushImage(target, name);
      await lab.pull(layout === 'oci-obd' ? 'rpull' : 'pull', name);
      images.push(name);
    };
    // The first layer of the converted image is an empty disk.
    for (const count of [2, 3]) await add('oci-obd', count, `obd-${count}`);
    for (const count of [1, 2]) await add('oci-src', count, `plain-${count}`);
    await writeFile(join(work, 'more'), 'one more layer');
    await run('tar', ['-C', work, '-cf', join(work, 'more.tar'), 'more']);
    await add('oci-src', 2, 'plain-3', await readFile(join(work, 'more.tar')));

    const script = 'read -r v </etc/debian_version; echo $v >/written; read -r w </written; echo $w';
    const outputs = await Promise.all(
      Array.from({ length: RUNS }, async (_, n) => {
        const image = images[n % images.length] ?? '';
        const flags = ['run', '--rm', '--snapshotter', 'overlaybd', ...(MODES[n % MODES.length] ?? [])];
        const args = ['-a', node.address, ...flags, image, `c${n}`, '/bin/sh', '-c', script];
        return (await run('ctr', args, { timeout: 800_000 })).stdout;
      }),
    );
    for (const output of outputs) assert.match(output, /^\d+\.\d+\n$/);
    // One for each image in overlaybd format; those that containers had for themselves are gone.
    for (let n = 0; n < 60 && (await node.service.list()).length > 2; n++) await collect(node);
    assert.equal((await node.service.list()).length, 2);
    for (const image of images) await node.ctr('image', 'rm', '--sync', image);
    await lab.nothing();
  },
);
