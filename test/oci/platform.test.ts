import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  formatPlatform,
  parsePlatform,
  selectPlatform,
  type Descriptor,
  type Index,
} from '../../src/oci/index.js';

function index(...platforms: (string | undefined)[]): Index {
  const manifests = platforms.map((platform, i): Descriptor => ({
    mediaType: 'm',
    digest: `sha256:${String(i).repeat(64)}`,
    size: i,
    ...(platform === undefined ? {} : { platform: parsePlatform(platform) }),
  }));
  return { schemaVersion: 2, manifests };
}
const choose = (wanted: string, ...platforms: (string | undefined)[]): number =>
  selectPlatform(index(...platforms), parsePlatform(wanted), 'test').size;

test('parsePlatform() takes what people write', () => {
  assert.equal(formatPlatform(parsePlatform('x86_64')), 'linux/amd64');
  assert.equal(formatPlatform(parsePlatform('linux/aarch64')), 'linux/arm64');
  assert.equal(formatPlatform(parsePlatform('linux/arm/v6')), 'linux/arm/v6');
  for (const text of ['', 'a/b/c/d', 'linux/', '../x'])
    assert.throws(() => parsePlatform(text), { code: 'OBD_CONFIG_VALUE' });
});

test('selectPlatform() takes the exact entry, else the newest that runs', () => {
  assert.equal(choose('linux/amd64', 'linux/arm64', 'linux/amd64'), 1);
  assert.equal(choose('linux/arm64', 'linux/arm64/v8', 'linux/amd64'), 0);
  assert.equal(choose('linux/arm64/v8', 'linux/arm64'), 0);
  assert.equal(choose('linux/arm/v7', 'linux/arm/v5', 'linux/arm/v6', 'linux/arm/v8'), 1);
  assert.equal(choose('linux/amd64', 'linux/amd64/v3', 'linux/amd64/v1'), 1);
  assert.equal(choose('linux/amd64', undefined), 0);
});

test('selectPlatform() refuses what does not run there', () => {
  for (const entries of [['linux/amd64/v3'], ['windows/amd64'], [undefined, 'linux/arm64'], []])
    assert.throws(() => choose('linux/amd64', ...entries), { code: 'OBD_REGISTRY_NOT_FOUND' });
});
