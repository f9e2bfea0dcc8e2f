import assert from 'node:assert/strict';
import test from 'node:test';
import { parseUioName, tcmuNames } from '../../src/blockdev/index.js';

test('tcmuNames() gives the names that other snapshotters and scripts use', () => {
  assert.deepEqual(tcmuNames('42', '/var/lib/x/config.v1.json'), {
    hba: 999999999,
    device: 'dev_42',
    naa: 'naa.1990000000000042',
    config: 'overlaybd//var/lib/x/config.v1.json',
  });
  assert.deepEqual(tcmuNames('42', '/c', 1234, true), {
    hba: 1234,
    device: 'dev_42',
    naa: 'naa.1340000000000042',
    config: 'overlaybd//c;42',
  });
  assert.equal(tcmuNames('1234567890123', '/c').naa, 'naa.1991234567890123');
});

test('tcmuNames() refuses what the kernel cannot hold', () => {
  for (const id of ['', '12345678901234', 'a/b', '../x', 'a b'])
    assert.throws(() => tcmuNames(id, '/c'), { code: 'OBD_DEVICE_UNSUPPORTED' }, id);
  for (const path of ['/a,b', '/a\nb', '/a;b', `/${'x'.repeat(245)}`])
    assert.throws(() => tcmuNames('1', path), { code: 'OBD_DEVICE_UNSUPPORTED' }, path);
  assert.equal(tcmuNames('1', `/${'x'.repeat(244)}`).config.length, 255);
});

test("parseUioName() takes the kernel's names apart", () => {
  assert.deepEqual(parseUioName('tcm-user/999999999/dev_7/overlaybd//a/b.json;7'), {
    hba: 999999999,
    device: 'dev_7',
    config: 'overlaybd//a/b.json;7',
    configPath: '/a/b.json',
    deviceId: '7',
  });
  assert.equal(parseUioName('tcm-user/1/d/qcow//x')?.configPath, undefined);
  assert.equal(parseUioName('tcm-user/1/d/overlaybdx//x')?.configPath, undefined);
  assert.equal(parseUioName('uio_pci_generic'), undefined);
});
