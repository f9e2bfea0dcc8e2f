/** The keys of overlaybd.json that say how registries are reached (service specification B.1), as client options. */
import { ConfigError } from '../blob/index.js';
import type { Logger } from '../log/index.js';
import type { RegistryClientOptions } from './client.js';
import { ServiceCredentials } from './credential-service.js';
import { FileCredentials, type CredentialSource } from './credentials.js';
import { DockerConfigCredentials, loginFiles } from './docker-config.js';

/** Spelt as in the file; absent and empty are the same. */
export interface RegistryConfigKeys {
  /** Used when `credentialConfig.mode` is empty. */
  readonly credentialFilePath?: string | undefined;
  readonly credentialConfig?:
    | {
        readonly mode?: string | undefined;
        readonly path?: string | undefined;
        /** Seconds. */
        readonly timeout?: number | undefined;
        readonly client_cert_path?: string | undefined;
        readonly client_key_path?: string | undefined;
        readonly server_ca_path?: string | undefined;
      }
    | undefined;
  readonly certConfig?:
    { readonly certFile?: string | undefined; readonly keyFile?: string | undefined } | undefined;
  readonly p2pConfig?:
    { readonly enable?: boolean | undefined; readonly address?: string | undefined } | undefined;
  readonly userAgent?: string | undefined;
  /** Ours: what the reference does to every host (no verification) must be asked for, host by host. */
  readonly registryConfig?:
    | {
        /** Spoken to over plain HTTP. */
        readonly plainHttpHosts?: readonly string[] | undefined;
        /** Certificates not verified. */
        readonly skipVerifyHosts?: readonly string[] | undefined;
        /** Authorities to believe besides the system's: PEM files or directories. */
        readonly caFiles?: readonly string[] | undefined;
        /** Seconds that one request may take. */
        readonly timeout?: number | undefined;
      }
    | undefined;
}

const DEFAULT_P2P = 'http://localhost:9731/accelerator';

/**
 * Client options of a service's configuration. Credentials are looked for where `credentialConfig` says, then in the
 * login files of docker and podman.
 * @throws ConfigError OBD_CONFIG_VALUE that names the key.
 */
export function registryOptionsOf(keys: RegistryConfigKeys, log: Logger): RegistryClientOptions {
  const { certConfig, p2pConfig, userAgent, registryConfig } = keys;
  const caFiles = registryConfig?.caFiles ?? [];
  return {
    log,
    credentials: [...configured(keys), ...loginFiles().map((path) => new DockerConfigCredentials(path))],
    tls: {
      ca: caFiles,
      ...(certConfig?.certFile ? { certFile: certConfig.certFile } : {}),
      ...(certConfig?.keyFile ? { keyFile: certConfig.keyFile } : {}),
    },
    plainHttpHosts: registryConfig?.plainHttpHosts ?? [],
    skipVerifyHosts: registryConfig?.skipVerifyHosts ?? [],
    ...(registryConfig?.timeout === undefined ? {} : { timeoutMs: registryConfig.timeout * 1000 }),
    ...(userAgent ? { userAgent } : {}),
    ...(p2pConfig?.enable === true
      ? { p2pAddress: p2pConfig.address ? p2pConfig.address : DEFAULT_P2P }
      : {}),
  };
}

function configured(keys: RegistryConfigKeys): CredentialSource[] {
  const { credentialConfig, credentialFilePath } = keys;
  const mode = credentialConfig?.mode ?? '';
  if (mode === '')
    return credentialFilePath ? [new FileCredentials(credentialFilePath, { optional: true })] : [];
  const path = credentialConfig?.path ?? '';
  const bad = (key: string, why: string): ConfigError =>
    new ConfigError('OBD_CONFIG_VALUE', `Cannot use "credentialConfig.${key}": ${why}`, {
      source: `credentialConfig.${key}`,
    });
  if (path === '') throw bad('path', `it is empty, mode "${mode}" needs one`);
  if (mode === 'file') return [new FileCredentials(path)];
  if (mode !== 'http' && mode !== 'https' && mode !== 'uds')
    throw bad('mode', `found "${mode}", expected file, http, https or uds`);
  const timeout = credentialConfig?.timeout ?? 1;
  if (!(timeout > 0 && timeout <= 60)) throw bad('timeout', `found ${timeout}, expected 1 to 60 seconds`);
  return [
    new ServiceCredentials({
      mode,
      path,
      timeoutMs: timeout * 1000,
      clientCertPath: credentialConfig?.client_cert_path ?? '',
      clientKeyPath: credentialConfig?.client_key_path ?? '',
      serverCaPath: credentialConfig?.server_ca_path ?? '',
    }),
  ];
}
