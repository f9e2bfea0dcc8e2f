/** A gRPC server that says what a test wants containerd to say. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import {
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceDefinition,
  type UntypedHandleCall,
  type sendUnaryData,
} from '@grpc/grpc-js';
import { methodOf } from '../../src/containerd/wire.js';

/** One request, with the namespace and the lease that came with it. */
export interface Asked {
  readonly method: string;
  readonly request: Readonly<Record<string, unknown>>;
  readonly namespace: string;
  readonly lease: string;
}

/** Throw it for a gRPC status. */
export class Refusal extends Error {
  readonly code: number;
  readonly details: string;

  constructor(code: number, details: string) {
    super(details);
    this.code = code;
    this.details = details;
  }
}

/** Answers of one method: each request in, answers out. A stream ends when the function returns `undefined`. */
export type Answer = (request: Readonly<Record<string, unknown>>) => readonly object[] | undefined;

/** Starts one; it ends with the test. `version.v1.Version/Version` is there already. */
export async function fakeContainerd(
  t: TestContext,
  answers: Readonly<Record<string, Answer>>,
): Promise<{ readonly address: string; readonly asked: Asked[] }> {
  const dir = mkdtempSync(join(tmpdir(), 'obd-containerd-'));
  const address = join(dir, 'c.sock');
  const asked: Asked[] = [];
  const server = new Server();
  const all: Readonly<Record<string, Answer>> = {
    'version.v1.Version/Version': () => [{ version: '1.6.99', revision: 'fake' }],
    ...answers,
  };
  for (const [name, answer] of Object.entries(all)) {
    const method = methodOf(name);
    const note = (
      call: { metadata: { get(key: string): unknown[] } },
      request: object,
    ): readonly object[] => {
      const of = (key: string): string => call.metadata.get(key).join();
      const plain = { ...request } as Record<string, unknown>;
      asked.push({
        method: name,
        request: plain,
        namespace: of('containerd-namespace'),
        lease: of('containerd-lease'),
      });
      return answer(plain) ?? [];
    };
    let handler: unknown;
    if (method.requestStream)
      handler = (call: ServerDuplexStream<object, object>) => {
        call.on('data', (request: object) => {
          try {
            for (const one of note(call, request)) call.write(one);
          } catch (error) {
            call.emit('error', error);
          }
        });
        call.on('end', () => {
          call.end();
        });
      };
    else if (method.responseStream)
      handler = (call: ServerWritableStream<object, object>) => {
        try {
          for (const one of note(call, call.request)) call.write(one);
          call.end();
        } catch (error) {
          call.emit('error', error);
        }
      };
    else
      handler = (call: ServerUnaryCall<object, object>, reply: sendUnaryData<object>) => {
        try {
          const [one] = note(call, call.request);
          if (one !== undefined) reply(null, one); // otherwise never
        } catch (error) {
          reply(error as Refusal);
        }
      };
    const key = name.split('/')[1] ?? '';
    const definition: ServiceDefinition = { [key]: method };
    server.addService(definition, { [key]: handler as UntypedHandleCall });
  }
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`unix:${address}`, ServerCredentials.createInsecure(), (error) => {
      if (error === null) resolve();
      else reject(error);
    });
  });
  t.after(() => {
    server.forceShutdown();
    rmSync(dir, { recursive: true, force: true });
  });
  return { address, asked };
}
