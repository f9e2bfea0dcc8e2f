import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import test from 'node:test';
import type { Inspection } from '../../src/cli/inspect.js';
import { parseFault, startRegistryServer } from '../../src/registryserver/index.js';
import { checkout, fixture, noFixtures } from '../support/fixtures.js';

/** Runs bin/obd while this process serves. */
function obd(...args: string[]): Promise<{ status: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [join(checkout, 'bin', 'obd'), ...args], (error, stdout, stderr) => {
      resolve({ status: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
    });
  });
}

const tag = 'debian-slim_overlaybd';

test(
  'obd verify and obd inspect take an image in a registry, each byte verified is fetched once',
  { skip: noFixtures },
  async (t) => {
    const server = await startRegistryServer({ directory: fixture('debian', 'oci-obd'), readOnly: true });
    t.after(() => server.close());
    const name = `docker://${server.host}/oci-obd:${tag}`;
    const inspected = await obd('inspect', '--json', '--plain-http', name);
    assert.equal(inspected.status, 0, inspected.stderr);
    const { layers } = JSON.parse(inspected.stdout) as Inspection;
    assert.equal(layers.length, 3);
    const size = layers.reduce((sum, layer) => sum + layer.storedSize, 0);
    assert.ok(server.stats.blobBytes < size / 10, 'inspecting fetches ends and tables only');
    const before = server.stats.blobBytes;
    const run = await obd('verify', '--quiet', '--plain-http', name);
    assert.equal(run.status, 0, run.stdout + run.stderr);
    assert.match(run.stdout, /all right: 3 layers/);
    const fetched = server.stats.blobBytes - before;
    assert.ok(fetched >= size && fetched < size * 1.15, `fetched ${fetched} bytes of ${size}`);
  },
);

test(
  'obd verify reports a registry that fails as a fault of that layer, and ends',
  { skip: noFixtures },
  async (t) => {
    const server = await startRegistryServer({
      directory: fixture('debian', 'oci-obd'),
      readOnly: true,
      faults: [parseFault('status=404,on=blobs')],
    });
    t.after(() => server.close());
    const run = await obd('verify', '--quiet', '--plain-http', `docker://${server.host}/oci-obd:${tag}`);
    assert.equal(run.status, 3);
    assert.match(run.stdout, /OBD_REGISTRY_NOT_FOUND/);
  },
);
