import { readFileSync } from 'node:fs';
import { type Command } from 'commander';
import { ConfigError, ioError } from '../blob/index.js';
import { makeLogger } from '../log/index.js';
import { parseDuration, parseFault, parseRate, startRegistryServer } from '../registryserver/index.js';

interface RegistryFlags {
  listen: string;
  latency?: string;
  rate?: string;
  fail: string[];
  basic?: string;
  tlsCert?: string;
  tlsKey?: string;
  readOnly?: boolean;
  redirect?: string;
  verbose?: boolean;
}

/** `host:port`, `:port` or `port`. @throws ConfigError */
function parseListen(text: string): { host: string; port: number } {
  const match = /^(?:(\[[0-9a-fA-F:.]+\]|[^:[\]]*):)?(\d{1,5})$/.exec(text);
  const port = Number(match?.[2]);
  if (match === null || port > 65535)
    throw new ConfigError('OBD_CONFIG_VALUE', `Cannot listen on "${text}": expected HOST:PORT`, {
      hint: 'For example 127.0.0.1:5000, or [::]:0 for any free port',
    });
  const host = match[1] ?? '127.0.0.1';
  return { host: host === '' ? '0.0.0.0' : host.replace(/^\[|\]$/g, ''), port };
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw ioError(error, `read "${path}"`, path);
  }
}

/** Lines of `user:password`; blank lines and those that start with # are skipped. @throws ConfigError */
function readUsers(path: string): { username: string; password: string }[] {
  const lines = readText(path)
    .split('\n')
    .map((line) => line.replace(/\r$/, ''))
    .filter((line) => line !== '' && !line.startsWith('#'));
  return lines.map((line, index) => {
    const colon = line.indexOf(':');
    if (colon < 1)
      throw new ConfigError(
        'OBD_CONFIG_VALUE',
        `Cannot read "${path}": line ${index + 1} is not user:password`,
        { source: path },
      );
    return { username: line.slice(0, colon), password: line.slice(colon + 1) };
  });
}

/** `obd registry`: a small registry over a directory. */
export function addRegistryCommand(program: Command): void {
  const repeat = (value: string, before: string[]): string[] => [...before, value];
  program
    .command('registry')
    .description('Serve a directory as a small OCI registry: for demos, air-gapped machines and tests.')
    .argument('<directory>', 'where images are kept; OCI layouts in it (or itself one) can be pulled from')
    .option('--listen <host:port>', 'address; port 0 picks a free one', '127.0.0.1:5000')
    .option('--latency <time>', 'wait before each answer, for example 20ms')
    .option('--rate <speed>', 'limit of all answers together, for example 25Mbit or 3MB')
    .option(
      '--fail <spec>',
      'failures on request, for example status=503,every=10 (see docs/registry.md); may be repeated',
      repeat,
      [],
    )
    .option('--basic <file>', 'ask for a name and password; FILE has lines of user:password')
    .option('--tls-cert <file>', 'certificate (PEM): speak TLS')
    .option('--tls-key <file>', 'its key (PEM)')
    .option('--redirect <url>', 'redirect reads of blobs to this base URL')
    .option('--read-only', 'refuse pushes and deletions')
    .option('-v, --verbose', 'log each request')
    .action(async (directory: string, flags: RegistryFlags) => {
      if ((flags.tlsCert === undefined) !== (flags.tlsKey === undefined))
        throw new ConfigError(
          'OBD_CONFIG_VALUE',
          'Cannot speak TLS: --tls-cert and --tls-key belong together',
        );
      const server = await startRegistryServer({
        directory,
        ...parseListen(flags.listen),
        ...(flags.tlsCert === undefined || flags.tlsKey === undefined
          ? {}
          : { tls: { cert: readText(flags.tlsCert), key: readText(flags.tlsKey) } }),
        ...(flags.basic === undefined ? {} : { users: readUsers(flags.basic) }),
        ...(flags.latency === undefined ? {} : { latencyMs: parseDuration(flags.latency) }),
        ...(flags.rate === undefined ? {} : { bytesPerSecond: parseRate(flags.rate) }),
        ...(flags.redirect === undefined ? {} : { redirectBlobs: flags.redirect }),
        faults: flags.fail.map(parseFault),
        readOnly: flags.readOnly ?? false,
        log: makeLogger(flags.verbose === true ? 'debug' : 'warn'),
      });
      process.stdout.write(`${server.url}\n`);
      await new Promise<void>((resolve) => {
        process.once('SIGTERM', resolve);
        process.once('SIGINT', resolve);
      });
      await server.close();
    });
}
