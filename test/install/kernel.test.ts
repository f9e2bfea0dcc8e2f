import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { gzipSync } from 'node:zlib';
import {
  inspectKernel,
  kernelAdvice,
  kernelProblems,
  missingOf,
  type KernelReport,
} from '../../src/install/index.js';
import { tempDir } from '../support/unpack.js';

function machine(t: TestContext, files: Readonly<Record<string, string | Buffer>>): string {
  const root = tempDir(t);
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
  }
  return root;
}

function states({ tcmu, fuse, common }: KernelReport): Record<string, string> {
  return Object.fromEntries(
    [...tcmu, ...fuse, ...common].map(({ feature, state }) => [feature.module, state]),
  );
}

test('inspectKernel() finds what is loaded, built in, and on disk', async (t) => {
  const root = machine(t, {
    'lib/modules/6.1.0-x/modules.builtin': 'kernel/fs/ext4/ext4.ko\nkernel/drivers/scsi/sd-mod.ko\n',
    'lib/modules/6.1.0-x/modules.dep':
      'kernel/drivers/target/target_core_user.ko.xz: kernel/drivers/uio/uio.ko.xz\nkernel/drivers/block/loop.ko:\n',
    'proc/filesystems': 'nodev\tsysfs\nnodev\tfuse\n\text3\n',
    'proc/devices': 'Block devices:\n  7 loopback\n',
    'proc/mounts': 'none /proc proc rw 0 0\nconfigfs /sys/kernel/config configfs rw 0 0\n',
    'sys/module/overlay/refcnt': '1',
  });
  const report = await inspectKernel(root, '6.1.0-x');
  assert.deepEqual(states(report), {
    target_core_user: 'available',
    tcm_loop: 'missing',
    sd_mod: 'active',
    configfs: 'missing',
    fuse: 'active',
    loop: 'available',
    overlay: 'active',
    ext4: 'active',
  });
  assert.equal(report.configfs, '/sys/kernel/config');
  assert.deepEqual(
    missingOf(report.tcmu).map(({ module }) => module),
    ['tcm_loop', 'configfs'],
  );
});

test('inspectKernel() reads the configuration of a kernel without modules, and knows when it knows nothing', async (t) => {
  const config = 'CONFIG_TCM_USER2=y\n# CONFIG_LOOPBACK_TARGET is not set\nCONFIG_FUSE_FS=m\n';
  const report = await inspectKernel(machine(t, { 'proc/config.gz': gzipSync(config) }), '6');
  assert.equal(states(report)['target_core_user'], 'active');
  assert.equal(states(report)['tcm_loop'], 'missing');
  // A module in theory; none on this disk.
  assert.equal(states(report)['fuse'], 'missing');
  const other = await inspectKernel(machine(t, { 'boot/config-6': config }), '6');
  assert.deepEqual(states(other), states(report));
  const nothing = await inspectKernel(machine(t, { 'proc/filesystems': 'nodev\toverlay\n' }), '6');
  assert.equal(states(nothing)['target_core_user'], 'unknown');
  assert.equal(states(nothing)['overlay'], 'active');
});

test('kernelAdvice() names the package of each family of distributions', async (t) => {
  const { tcmu } = await inspectKernel(machine(t, { 'proc/config.gz': gzipSync('') }), '6.8.0-45-generic');
  const advice = (os: string): string => kernelAdvice(missingOf(tcmu), os, '6.8.0-45-generic');
  assert.match(advice('ID=ubuntu\nID_LIKE=debian\n'), /linux-modules-extra-6\.8\.0-45-generic/);
  assert.match(advice('NAME="Debian"\nID=debian\n'), /linux-image-/);
  assert.match(advice('ID="rocky"\nID_LIKE="rhel centos fedora"\n'), /kernel-modules-extra-6\.8/);
  assert.match(advice('ID=opensuse-leap\nID_LIKE="suse opensuse"\n'), /kernel-default/);
  assert.match(advice(''), /CONFIG_TCM_USER2, CONFIG_LOOPBACK_TARGET/);
});

test('a kernel without TCMU is a warning, one without any way to serve is fatal', async (t) => {
  const problems = async (config: string, filesystems: string) =>
    kernelProblems(
      await inspectKernel(
        machine(t, { 'proc/config.gz': gzipSync(config), 'proc/filesystems': filesystems }),
        '6',
      ),
      '',
    );
  const all = 'nodev fuse\nnodev overlay\next4\nnodev configfs\n';
  const loop = '\nCONFIG_BLK_DEV_LOOP=y\n';
  const tcmu = '\nCONFIG_TCM_USER2=y\nCONFIG_LOOPBACK_TARGET=y\nCONFIG_BLK_DEV_SD=y\n';
  assert.deepEqual(await problems(loop + tcmu, all), []);
  const [first, ...more] = await problems(loop, all);
  assert.equal(more.length, 0);
  assert.equal(first?.fatal, false);
  assert.match(first.text, /target_core_user, tcm_loop, sd_mod: devices go through FUSE/);
  assert.deepEqual(
    (await problems('', 'ext4\n')).map(({ fatal }) => fatal),
    [true, true, true],
  );
});
