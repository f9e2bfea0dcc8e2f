import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

/** A TCP line to a server that breaks, for both sides at once. */
export interface BreakingLine extends AsyncDisposable {
  /** `127.0.0.1:port`, to be used instead of the server's. */
  readonly host: string;
  /** Connections that were broken. */
  readonly breaks: number;
}

/** Starts one. Each connection breaks after a client has sent `bytes` on it; `times` in all. */
export async function breakingLine(to: string, bytes: number, times: number): Promise<BreakingLine> {
  const [name = '', port = ''] = to.split(':');
  const sockets = new Set<Socket>();
  let breaks = 0;
  const server = createServer((client) => {
    const upstream = connect(Number(port), name);
    let sent = 0;
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        sockets.delete(socket);
        client.destroy();
        upstream.destroy();
      });
    }
    client.on('data', (chunk) => {
      sent += chunk.byteLength;
      if (sent <= bytes || breaks >= times) return;
      breaks++;
      client.resetAndDestroy();
    });
    client.pipe(upstream);
    upstream.pipe(client);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    get breaks() {
      return breaks;
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
