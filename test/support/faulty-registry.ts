/** A registry with one blob that is well until a test says otherwise: any answer, no answer, no listener. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';

/** What answers a request for the blob. */
export type Answer = (request: IncomingMessage, response: ServerResponse) => void;

/** See the head of this file. Requests to other paths go to `other`. */
export class FaultyRegistry {
  /** Answers instead of the blob; undefined: all is well. */
  fault: Answer | undefined;
  /** Answers requests that are not for the blob: token servers, storage. */
  other: Answer | undefined;
  /** Requests for the blob. */
  requests = 0;
  readonly blob: Buffer;
  readonly #tls: { readonly cert: string; readonly key: string } | undefined;
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  #port = 0;

  private constructor(blob: Buffer, tls?: { readonly cert: string; readonly key: string }) {
    this.blob = blob;
    this.#tls = tls;
  }

  /** Starts one over a blob. @param tls PEM of certificate and key. */
  static async start(
    blob: Buffer,
    tls?: { readonly cert: string; readonly key: string },
  ): Promise<FaultyRegistry> {
    const registry = new FaultyRegistry(blob, tls);
    await registry.listen();
    return registry;
  }

  /** `127.0.0.1:port`; stays the same over {@link close} and {@link listen}. */
  get host(): string {
    return `127.0.0.1:${this.#port}`;
  }

  get url(): string {
    return `${this.#tls === undefined ? 'http' : 'https'}://${this.host}`;
  }

  /** Listens, on the same port as before. */
  async listen(): Promise<void> {
    const serve: Answer = (request, response) => {
      request.resume();
      if (request.url?.includes('/blobs/') !== true) {
        if (this.other === undefined) response.writeHead(404).end();
        else this.other(request, response);
        return;
      }
      this.requests++;
      if (this.fault === undefined) this.well(request, response);
      else this.fault(request, response);
    };
    const server = this.#tls === undefined ? createServer(serve) : createTlsServer(this.#tls, serve);
    server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
    });
    await new Promise<void>((resolve) => server.listen(this.#port, '127.0.0.1', resolve));
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
  }

  /** Stops listening; connections end. */
  async close(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    const closed = new Promise((resolve) => server.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  /** The range that a request asks for, and its bytes. */
  range(request: IncomingMessage): { first: number; last: number; bytes: Buffer } {
    const [, from = '0', to = String(this.blob.length - 1)] =
      /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? [];
    const [first, last] = [Number(from), Math.min(Number(to), this.blob.length - 1)];
    return { first, last, bytes: this.blob.subarray(first, last + 1) };
  }

  /** The right answer, with what a test changes in it. */
  well(
    request: IncomingMessage,
    response: ServerResponse,
    change: { readonly bytes?: Buffer; readonly range?: string } = {},
  ): void {
    const { first, last, bytes } = this.range(request);
    response.writeHead(206, {
      'content-length': last - first + 1,
      'content-range': change.range ?? `bytes ${first}-${last}/${this.blob.length}`,
    });
    response.end(change.bytes ?? bytes);
  }
}
