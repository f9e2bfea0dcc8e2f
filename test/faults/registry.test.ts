/**
 * The fault matrix: the real service, a device per row, all rows at once. docs/failures.md is checked against it;
 * `OBD_UPDATE_DOCS=1` writes it anew.
 */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { DeviceFinding } from '../../src/doctor/index.js';
import { makeCertificates } from '../support/certificates.js';
import { missing } from '../support/commands.js';
import { FaultyRegistry } from '../support/faulty-registry.js';
import { checkout } from '../support/fixtures.js';
import { NbdReader, type NbdAnswer } from '../support/nbd-reader.js';
import { randomLayer, type RandomLayer } from '../support/random-image.js';
import {
  CAUSES,
  causesTable,
  TEST_TIMEOUT_S,
  type Cause,
  type Elsewhere,
} from '../support/registry-causes.js';
import { ServiceNode, type LogLine } from '../support/service-node.js';

const MIB = 1 << 20;
const UNIT = 65536;
/** What a busy machine adds to each time; far below what would be noticed as a hang. */
const SLACK_MS = 20_000;
const EIO = 5;

/** A registry that is well, for one layer. */
interface Place {
  readonly layer: RandomLayer;
  readonly registry: FaultyRegistry;
  readonly elsewhere: Elsewhere;
}

async function makePlace(t: TestContext, seed: number, tls: { cert: string; key: string }): Promise<Place> {
  const layer = await randomLayer(2, seed);
  const registry = await FaultyRegistry.start(layer.stored);
  const storage = await FaultyRegistry.start(layer.stored);
  const untrusted = await FaultyRegistry.start(layer.stored, tls);
  t.after(() => Promise.all([registry.close(), storage.close(), untrusted.close()]));
  return { layer, registry, elsewhere: { storage, untrusted } };
}

function configOf({ layer, registry }: Place): object {
  const { digest, stored } = layer;
  return {
    repoBlobUrl: `${registry.url}/v2/team/app/blobs`,
    lowers: [{ digest, size: stored.length, dir: '' }],
  };
}

async function heal(cause: Cause, { registry, elsewhere }: Place): Promise<void> {
  registry.fault = undefined;
  cause.well?.(registry, elsewhere);
  await registry.close();
  await registry.listen();
}

/** Damage is an error at once, and changes no state. */
const isDamage = ({ code }: Cause): boolean => code?.startsWith('OBD_FORMAT') === true;

/** A device that waits as long as the default policy lets it. */
async function patientDevice(
  t: TestContext,
  node: ServiceNode,
  cause: Cause,
  place: Place,
): Promise<NbdReader> {
  const config = { ...configOf(place), ioPolicy: { retry: 600, then: 'error' } };
  const { devicePath = '' } = await node.attach(`p-${cause.id}`, node.image(`patient-${cause.id}`, config));
  const reader = await NbdReader.connect(devicePath);
  t.after(() => {
    reader.close();
  });
  return reader;
}

/** One row. Settles with what its reader saw under the fault. */
async function play(t: TestContext, node: ServiceNode, cause: Cause, place: Place): Promise<Row> {
  const { layer, registry, elsewhere } = place;
  cause.well?.(registry, elsewhere);
  const { devicePath = '' } = await node.attach(cause.id, node.image(cause.id, configOf(place)));
  const reader = await NbdReader.connect(devicePath);
  t.after(() => {
    reader.close();
  });
  const waiter =
    isDamage(cause) || cause.code === undefined ? undefined : await patientDevice(t, node, cause, place);
  await cause.begin(registry, elsewhere);
  const start = performance.now();
  const waiting = waiter?.read(MIB + 8 * UNIT, UNIT);
  const answer = await reader.read(MIB, UNIT);
  const ms = performance.now() - start;
  if (answer.data !== undefined)
    assert.ok(answer.data.equals(layer.plain.subarray(MIB, MIB + UNIT)), 'bytes');
  return { cause, place, reader, waiting, ms, error: answer.error };
}

interface Row {
  readonly cause: Cause;
  readonly place: Place;
  readonly reader: NbdReader;
  /** Of a device that waits, if there is something to wait for. */
  readonly waiting: Promise<NbdAnswer> | undefined;
  readonly ms: number;
  readonly error: { readonly errno: number; readonly message: string } | undefined;
}

const errorOf = (line: LogLine): { code?: string; message?: string } => line['err'] ?? {};

test(
  'what a reader sees of each failure of a registry',
  { skip: missing({ openssl: 'openssl' }) },
  async (t) => {
    const node = await ServiceNode.start(t, {
      config: { registryConfig: { plainHttpHosts: ['127.0.0.1'], timeout: TEST_TIMEOUT_S } },
    });
    mkdirSync(node.at('certificates'));
    const { serverCert, serverKey } = makeCertificates(node.at('certificates'));
    const tls = { cert: readFileSync(serverCert, 'utf8'), key: readFileSync(serverKey, 'utf8') };
    const places: Place[] = [];
    for (let i = 0; i < 2 * CAUSES.length; i++) places.push(await makePlace(t, i + 1, tls));
    const placeOf = (i: number): Place => {
      const place = places[i];
      assert.ok(place !== undefined);
      return place;
    };

    const rows = await Promise.all(CAUSES.map((cause, i) => play(t, node, cause, placeOf(i))));
    // A second image is attached while its registry has the same trouble.
    const attached = await Promise.all(
      CAUSES.map(async (cause, i) => {
        const place = placeOf(CAUSES.length + i);
        await cause.begin(place.registry, place.elsewhere);
        const path = node.image(`attach-${cause.id}`, configOf(place));
        const error = await node.attach(`a-${cause.id}`, path).then(
          () => undefined,
          (e: unknown) => e as Error & { code: string },
        );
        return { error, result: readFileSync(`${path}.result`, 'utf8') };
      }),
    );
    const log = node.log();
    const doctor = node.doctor();
    const findingOf = (id: string): DeviceFinding => {
      const found = doctor.devices.find((device) => device.id === id);
      assert.ok(found !== undefined, id);
      return found;
    };

    for (const [i, { cause, ms, error }] of rows.entries())
      await t.test(cause.cause, () => {
        const { silences = 0, timeouts = 0 } = cause;
        const limits = (silences * TEST_TIMEOUT_S) / 2 + timeouts * TEST_TIMEOUT_S;
        const [least, most] = cause.takes.map((s) => (s + limits) * 1000) as [number, number];
        assert.ok(ms >= least - 50, `${ms} ms, at least ${least}`);
        // A timer of half a second may fire a whole one late.
        assert.ok(ms <= most + silences * 1000 + SLACK_MS, `${ms} ms, at most ${most}`);
        const lines = log.filter((line) => line['dev'] === cause.id && line['level'] === 'error');
        const attach = attached[i];
        assert.ok(attach !== undefined);
        if (cause.code === undefined) {
          assert.equal(error, undefined);
          assert.deepEqual(lines, []);
          assert.equal(attach.error, undefined);
          assert.equal(attach.result, 'success');
          return;
        }
        assert.equal(error?.errno, EIO);
        const says = cause.says ?? /./;
        assert.match(error.message, says);
        assert.equal(lines.length, 1, 'one line for one failure');
        assert.equal(errorOf(lines[0] ?? {}).code, cause.code);
        assert.match(errorOf(lines[0] ?? {}).message ?? '', says);
        // Wrong bytes may be met in a header first.
        const codes = isDamage(cause) ? /^OBD_FORMAT_/ : new RegExp(`^${cause.code}$`);
        assert.match(attach.error?.code ?? '', codes);
        assert.match(attach.result, /^failed:/);
        const finding = findingOf(`a-${cause.id}`);
        assert.equal(finding.status, 'failed');
        if (isDamage(cause)) {
          assert.deepEqual([findingOf(cause.id).state, findingOf(cause.id).status], ['ready', 'warning']);
          assert.match(findingOf(cause.id).detail, says);
          return;
        }
        assert.match(finding.detail, says);
        for (const [id, state] of [
          [cause.id, 'blocked'],
          [`p-${cause.id}`, 'degraded'],
        ] as const) {
          assert.equal(findingOf(id).state, state);
          assert.match(findingOf(id).detail, says);
          assert.ok(
            log.some((line) => line['dev'] === id && line['level'] === 'warn' && line['state'] === state),
          );
        }
      });

    await t.test('when the cause ends, all of them read every byte', async () => {
      await Promise.all(
        rows.map(async ({ cause, place, reader, waiting }) => {
          await heal(cause, place);
          const start = performance.now();
          const answer = await reader.read(0, 2 * MIB);
          assert.ok(
            answer.data?.equals(place.layer.plain),
            `${cause.id}: ${answer.error?.message ?? 'wrong bytes'}`,
          );
          assert.ok(performance.now() - start < SLACK_MS, cause.id);
          const late = await waiting;
          if (late === undefined) return;
          const at = MIB + 8 * UNIT;
          assert.ok(late.data?.equals(place.layer.plain.subarray(at, at + UNIT)), `${cause.id}: who waited`);
        }),
      );
      await Promise.all(
        CAUSES.map(async (cause, i) => {
          if (cause.code === undefined) return;
          const place = placeOf(CAUSES.length + i);
          await heal(cause, place);
          await node.attach(`a-${cause.id}`, node.image(`attach-${cause.id}`, configOf(place)));
        }),
      );
    });
  },
);

test('docs/failures.md has the rows of the matrix', () => {
  const path = join(checkout, 'docs', 'failures.md');
  const text = readFileSync(path, 'utf8');
  const start = text.indexOf('| the registry |');
  const end = text.indexOf('\n\n', start);
  assert.ok(start > 0 && end > start);
  const wanted = causesTable();
  if (process.env['OBD_UPDATE_DOCS'] === '1')
    writeFileSync(path, `${text.slice(0, start)}${wanted}${text.slice(end + 1)}`);
  else assert.equal(text.slice(start, end + 1), wanted, 'OBD_UPDATE_DOCS=1 writes it');
});
