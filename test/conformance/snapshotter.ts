/** What every snapshotter must do with its metadata, whatever its layers are. Through gRPC, as containerd would. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { Code, type TestServer, type WireInfo } from '../support/snapshots-client.js';

const CHILD = /remove/;

async function rejects(work: Promise<unknown>, code: number, details = /./): Promise<void> {
  await assert.rejects(work, (error: { code: number; details: string }) => {
    assert.equal(error.code, code, error.details);
    assert.match(error.details, details);
    return true;
  });
}

function micros({ seconds, nanos }: WireInfo['createdAt']): number {
  return seconds * 1e6 + nanos / 1000;
}

/** @param start makes a server that ends with the test. */
export function snapshotterSuite(name: string, start: (t: TestContext) => Promise<TestServer>): void {
  test(`${name}: a layer is prepared, committed and built on`, async (t) => {
    const { client } = await start(t);
    await client.prepare('a-key');
    const active = await client.stat('a-key');
    assert.deepEqual([active.name, active.parent, active.kind], ['a-key', '', 2]);
    await client.commit('a', 'a-key', { x: '1' });
    const committed = await client.stat('a');
    assert.deepEqual([committed.parent, committed.kind, committed.labels], ['', 3, { x: '1' }]);
    await rejects(client.stat('a-key'), Code.NOT_FOUND);
    await client.prepare('b-key', 'a');
    await client.commit('b', 'b-key');
    assert.equal((await client.stat('b')).parent, 'a');
    await client.view('v', 'b');
    assert.equal((await client.stat('v')).kind, 1);
  });

  test(`${name}: a key is taken once, whatever its kind`, async (t) => {
    const { client } = await start(t);
    await client.prepare('k');
    await client.view('v');
    await rejects(client.prepare('k'), Code.EXISTS);
    await rejects(client.view('k'), Code.EXISTS);
    await rejects(client.view('v'), Code.EXISTS);
    await client.commit('c', 'k');
    await rejects(client.prepare('c'), Code.EXISTS);
    const all = await Promise.allSettled(Array.from({ length: 8 }, () => client.prepare('race')));
    assert.equal(all.filter(({ status }) => status === 'fulfilled').length, 1);
  });

  test(`${name}: a parent exists and is committed`, async (t) => {
    const { client } = await start(t);
    await client.prepare('k');
    await rejects(client.prepare('x', 'nowhere'), Code.NOT_FOUND);
    await rejects(client.view('x', 'nowhere'), Code.NOT_FOUND);
    await rejects(client.prepare('x', 'k'), Code.INVALID);
    await rejects(client.view('x', 'k'), Code.INVALID);
    await rejects(client.stat('x'), Code.NOT_FOUND);
  });

  test(`${name}: commit wants an active snapshot and a free name`, async (t) => {
    const { client } = await start(t);
    await client.prepare('k');
    await client.view('v');
    await rejects(client.commit('c', 'nowhere'), Code.NOT_FOUND);
    await rejects(client.commit('c', 'v'), Code.PRECONDITION);
    await client.commit('c', 'k');
    await rejects(client.commit('d', 'c'), Code.PRECONDITION);
    await client.prepare('k2');
    await rejects(client.commit('c', 'k2'), Code.EXISTS);
    assert.equal((await client.stat('k2')).kind, 2);
  });

  test(`${name}: commit gives a parent only to who has none`, async (t) => {
    const { client } = await start(t);
    for (const layer of ['a', 'b']) {
      await client.prepare(`${layer}-key`);
      await client.commit(layer, `${layer}-key`);
    }
    await client.prepare('on-a', 'a');
    await client.prepare('free');
    await rejects(client.commit('x', 'on-a', {}, 'b'), Code.INVALID);
    await rejects(client.commit('x', 'free', {}, 'nowhere'), Code.NOT_FOUND);
    await rejects(client.commit('x', 'free', {}, 'on-a'), Code.PRECONDITION);
    await client.commit('x', 'free', {}, 'b');
    assert.equal((await client.stat('x')).parent, 'b');
    await rejects(client.remove('b'), Code.PRECONDITION, CHILD);
    await client.commit('y', 'on-a', {}, 'a');
    assert.equal((await client.stat('y')).parent, 'a');
  });

  test(`${name}: labels of prepare are not inherited by the committed snapshot`, async (t) => {
    const { client } = await start(t);
    await client.prepare('k', '', { of: 'prepare' });
    assert.deepEqual((await client.stat('k')).labels, { of: 'prepare' });
    await client.commit('c', 'k', { of: 'commit' });
    assert.deepEqual((await client.stat('c')).labels, { of: 'commit' });
  });

  test(`${name}: what has children stays; names can be used again`, async (t) => {
    const { client } = await start(t);
    await client.prepare('a-key');
    await client.commit('a', 'a-key');
    await client.prepare('b-key', 'a');
    await rejects(client.remove('a'), Code.PRECONDITION, CHILD);
    await client.commit('b', 'b-key');
    await client.view('v', 'b');
    await rejects(client.remove('b'), Code.PRECONDITION, CHILD);
    await client.remove('v');
    await client.remove('b');
    await client.remove('a');
    await rejects(client.remove('a'), Code.NOT_FOUND);
    assert.deepEqual(await client.list(), []);
    await client.prepare('a');
    await client.commit('b', 'a');
    await client.view('a', 'b');
  });

  test(`${name}: mounts are for active snapshots and views`, async (t) => {
    const { client } = await start(t);
    await rejects(client.mounts('nowhere'), Code.NOT_FOUND);
    const prepared = await client.prepare('k');
    assert.deepEqual(await client.mounts('k'), prepared);
    await client.commit('c', 'k');
    await rejects(client.mounts('c'), Code.PRECONDITION);
    const viewed = await client.view('v', 'c');
    assert.deepEqual(await client.mounts('v'), viewed);
  });

  test(`${name}: update changes labels and nothing else`, async (t) => {
    const { client } = await start(t);
    await client.prepare('base-key');
    await client.commit('base', 'base-key');
    for (const [key, make] of [
      ['active', () => client.prepare('active', 'base', { l1: 'a', l2: 'b' })],
      ['view', () => client.view('view', '', { l1: 'a', l2: 'b' })],
      ['base', () => client.update({ name: 'base', labels: { l1: 'a', l2: 'b' } })],
    ] as const) {
      await make();
      const first = await client.stat(key);
      if (key !== 'base') assert.deepEqual(first.createdAt, first.updatedAt);
      const some = await client.update({ name: key, labels: { l1: 'z', l4: 'no' } }, [
        'labels.l1',
        'labels.l2',
      ]);
      assert.deepEqual(some.labels, { l1: 'z' });
      const all = await client.update({ name: key, labels: { only: '1' } }, ['labels']);
      assert.deepEqual(all.labels, { only: '1' });
      const forged = await client.update({ name: key, parent: 'forged', kind: 3, labels: { l: '2' } });
      assert.deepEqual([forged.labels, forged.parent, forged.kind], [{ l: '2' }, first.parent, first.kind]);
      assert.deepEqual(forged.createdAt, first.createdAt);
      assert.ok(micros(forged.updatedAt) >= micros(first.updatedAt));
      for (const path of ['parent', 'kind', 'name', 'createdAt', 'label'])
        await rejects(client.update({ name: key, labels: {} }, [path]), Code.INVALID);
      assert.deepEqual(await client.stat(key), forged);
    }
    await rejects(client.update({ name: 'nowhere', labels: {} }), Code.NOT_FOUND);
  });

  test(`${name}: a label with dots in its name can be set and deleted by its path`, async (t) => {
    const { client } = await start(t);
    const label = 'containerd.io/snapshot/x.y';
    await client.prepare('k');
    await client.update({ name: 'k', labels: { [label]: '1' } }, [`labels.${label}`]);
    assert.deepEqual((await client.stat('k')).labels, { [label]: '1' });
    await client.update({ name: 'k', labels: {} }, [`labels.${label}`]);
    assert.deepEqual((await client.stat('k')).labels, {});
  });

  test(`${name}: times lie within the call`, async (t) => {
    const { client } = await start(t);
    const before = Date.now() * 1000;
    await client.prepare('k');
    const after = (Date.now() + 1) * 1000;
    const { createdAt } = await client.stat('k');
    assert.ok(micros(createdAt) >= before && micros(createdAt) <= after);
  });

  test(`${name}: list gives the same as stat, filtered, in batches of 100`, async (t) => {
    const { client } = await start(t);
    await client.prepare('a-key');
    await client.commit('a', 'a-key', { l: '1', 'containerd.io/snapshot.ref': 'sha256:a' });
    await client.prepare('p', 'a', { l: '2' });
    await client.view('v', 'a');
    const names = async (...filters: string[]): Promise<string[]> =>
      (await client.list(...filters)).map((info) => info.name).sort();
    assert.deepEqual(await names(), ['a', 'p', 'v']);
    for (const info of await client.list()) assert.deepEqual(info, await client.stat(info.name));
    assert.deepEqual(await names('labels.l'), ['a', 'p']);
    assert.deepEqual(await names('labels.l==2'), ['p']);
    assert.deepEqual(await names('labels.l!=2'), ['a', 'v']);
    assert.deepEqual(await names('kind==view', 'name==p'), ['p', 'v']);
    assert.deepEqual(await names('kind==active,labels.l'), ['p']);
    assert.deepEqual(await names('parent==a,kind==view'), ['v']);
    assert.deepEqual(await names('parent!=""'), ['p', 'v']);
    assert.deepEqual(await names('labels."containerd.io/snapshot.ref"==sha256:a,parent==""'), ['a']);
    assert.deepEqual(await names('name~=/^[pv]$/'), ['p', 'v']);
    assert.deepEqual(await names('nonsense'), []);
    await rejects(client.list('name=='), Code.INVALID);
    await rejects(client.list('name=x'), Code.INVALID);
    await Promise.all(Array.from({ length: 198 }, (_, i) => client.view(`many-${i}`, 'a')));
    assert.deepEqual((await client.listBatches()).batches, [100, 100, 1]);
    assert.deepEqual((await client.listBatches('name==none')).batches, []);
  });

  test(`${name}: everything is there after a restart`, async (t) => {
    const server = await start(t);
    await server.client.prepare('a-key');
    await server.client.commit('a', 'a-key', { l: '1' });
    await server.client.prepare('k', 'a', { x: 'y' });
    const infos = await server.client.list();
    const mounts = await server.client.mounts('k');
    const usage = await server.client.usage('a');
    await server.restart();
    assert.deepEqual(await server.client.list(), infos);
    assert.deepEqual(await server.client.mounts('k'), mounts);
    assert.deepEqual(await server.client.usage('a'), usage);
    await rejects(server.client.remove('a'), Code.PRECONDITION, CHILD);
  });
}
