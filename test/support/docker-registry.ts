import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { request } from 'node:http';
import { request as requestTls } from 'node:https';
import { join } from 'node:path';
import type { AddressInfo } from 'node:net';

/** Debian's `docker-registry`, running. */
export interface DockerRegistry extends AsyncDisposable {
  /** `127.0.0.1:port`. */
  readonly host: string;
  /** Where it keeps blobs: `docker/registry/v2/blobs/sha256/ab/ab../data`. */
  readonly storage: string;
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** True once anything answers. */
function answers(host: string, tls: boolean): Promise<boolean> {
  return new Promise((resolve) => {
    const [name, port] = host.split(':');
    const options = { host: name, port, path: '/', rejectUnauthorized: false };
    const probe = (tls ? requestTls : request)(options, (response) => {
      response.resume();
      resolve(true);
    });
    // A server that demands a client certificate answers as well, in its way.
    probe.on('error', (error: NodeJS.ErrnoException) => {
      resolve(tls && error.code !== 'ECONNREFUSED');
    });
    probe.end();
  });
}

/**
 * Starts one in `directory`; dispose it with `await using`.
 * @param config further lines of its configuration file, top level; `http:` is written here.
 */
export async function dockerRegistry(
  directory: string,
  config = '',
  tls?: { readonly certificate: string; readonly key: string; readonly clientCas?: string },
): Promise<DockerRegistry> {
  const host = `127.0.0.1:${await freePort()}`;
  const storage = join(directory, 'storage');
  const path = join(directory, 'registry.yml');
  const tlsLines =
    tls === undefined
      ? ''
      : `  tls:\n    certificate: ${tls.certificate}\n    key: ${tls.key}\n${tls.clientCas === undefined ? '' : `    clientcas: [${tls.clientCas}]\n`}`;
  writeFileSync(
    path,
    `version: 0.1\nlog: { level: error }\nstorage:\n  filesystem: { rootdirectory: ${storage} }\n  delete: { enabled: true }\n` +
      `http:\n  addr: ${host}\n  secret: obd-test\n${tlsLines}${config}`,
  );
  const child = spawn('docker-registry', ['serve', path], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, OTEL_TRACES_EXPORTER: 'none' },
  });
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-4000)));
  const ended = new Promise((resolve) => child.once('exit', resolve));
  for (let tries = 0; !(await answers(host, tls !== undefined)); tries++) {
    if (tries > 100 || child.exitCode !== null) {
      child.kill('SIGKILL');
      throw new Error(`docker-registry does not start: ${said}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return {
    host,
    storage,
    async [Symbol.asyncDispose]() {
      child.kill('SIGTERM');
      await ended;
    },
  };
}
