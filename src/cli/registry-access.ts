/** The options by which every command reaches registries, and the client made from them. */
import { Option, type Command } from 'commander';
import { parseImageName } from '../oci/index.js';
import {
  DockerConfigCredentials,
  loginFiles,
  parseReference,
  RegistryClient,
  type RegistryClientOptions,
} from '../registryblob/index.js';

/** What {@link addRegistryOptions} parses. */
export interface RegistryOptions {
  readonly plainHttp?: boolean;
  readonly insecureRegistry?: readonly string[];
  readonly tlsCa?: readonly string[];
  readonly tlsCert?: string;
  readonly tlsKey?: string;
}

function collect(value: string, previous: readonly string[] = []): string[] {
  return [...previous, value];
}

/** Adds the options to a command. */
export function addRegistryOptions(command: Command): Command {
  return command
    .option('--plain-http', 'speak plain HTTP to the registries named on the command line')
    .addOption(
      new Option('--insecure-registry <host>', "do not verify this host's certificate; repeatable").argParser(
        collect,
      ),
    )
    .addOption(new Option('--tls-ca <file>', 'trust this CA too (PEM); repeatable').argParser(collect))
    .option('--tls-cert <file>', 'client certificate (PEM)')
    .option('--tls-key <file>', 'key of the client certificate (PEM)');
}

/** Registry hosts among image names. */
function hostsOf(names: readonly string[]): string[] {
  return names.flatMap((name) => {
    const parsed = parseImageName(name);
    return parsed.kind === 'docker' ? [parseReference(parsed.reference).host] : [];
  });
}

/**
 * A client for the images named; credentials come from where `docker login` and its like put them. The caller closes it.
 * @throws ConfigError for names and files that cannot be used
 */
export function openRegistryClient(
  options: RegistryOptions,
  names: readonly string[],
  more: RegistryClientOptions = {},
): RegistryClient {
  const { tlsCa, tlsCert, tlsKey } = options;
  return new RegistryClient({
    credentials: loginFiles().map((path) => new DockerConfigCredentials(path)),
    plainHttpHosts: options.plainHttp === true ? hostsOf(names) : [],
    skipVerifyHosts: options.insecureRegistry ?? [],
    tls: {
      ...(tlsCa && { ca: tlsCa }),
      ...(tlsCert !== undefined && { certFile: tlsCert }),
      ...(tlsKey !== undefined && { keyFile: tlsKey }),
    },
    ...more,
  });
}
