import assert from 'node:assert/strict';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { nbdSocketOf, nbdUri, readNbdStart } from '../../src/blockdev/index.js';
import { tempDir } from '../support/unpack.js';

/** A server that says what it is told to say. */
async function serve(t: TestContext, speak: (socket: Socket) => void): Promise<string> {
  const path = join(tempDir(t), 's.sock');
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket.on('error', () => undefined));
    speak(socket);
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return path;
}

test('readNbdStart() says what a server that is none did', async (t) => {
  const web = await serve(t, (socket) => socket.write('HTTP/1.1 400 Bad Request\r\n\r\n'));
  await assert.rejects(readNbdStart(web, 4096, 5000), {
    code: 'OBD_DEVICE_KERNEL',
    message: /the magic number is 0x485454502f312e31, expected 0x4e42444d41474943/,
  });
  const short = await serve(t, (socket) => socket.end('NBDMAGIC'));
  await assert.rejects(readNbdStart(short, 4096, 5000), /Connection ended after 8 of 18 bytes/);
  const silent = await serve(t, () => undefined);
  await assert.rejects(readNbdStart(silent, 4096, 100), /no answer within 0\.1 s/);
  await assert.rejects(readNbdStart(`${silent}.none`, 4096, 5000), { name: 'IoError', message: /ENOENT/ });
});

test('a URI names its socket, whatever is in its path', () => {
  for (const path of ['/run/o/nbd/nbd-1.sock', '/tmp/a b/%2F&?#=+é.sock']) {
    assert.equal(nbdSocketOf(nbdUri(path)), path);
    assert.doesNotMatch(nbdUri(path), / /);
  }
  assert.equal(nbdSocketOf('/dev/loop0'), undefined);
});
