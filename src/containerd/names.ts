/** Where containerd is, and in which of its namespaces. The environment variables are those of `ctr` and `nerdctl`. */
import { ConfigError, ContainerdError, type CodeOf } from '../blob/index.js';

/** Which containerd. */
export interface ContainerdPlace {
  /** Its socket; default: `$CONTAINERD_ADDRESS`, or where distributions have it. */
  readonly address?: string | undefined;
  /** Default: `$CONTAINERD_NAMESPACE`, or `default`. Kubernetes uses `k8s.io`. */
  readonly namespace?: string | undefined;
}

const DEFAULT_ADDRESS = '/run/containerd/containerd.sock';
/** containerd's rule for identifiers. */
const IDENTIFIER = /^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$/;
const MAX_IDENTIFIER = 76;

function fromEnvironment(name: string): string | undefined {
  const value = process.env[name];
  return value === '' ? undefined : value;
}

/** The place with its defaults. @throws ConfigError OBD_CONFIG_VALUE */
export function resolvePlace(place: ContainerdPlace): {
  readonly address: string;
  readonly namespace: string;
} {
  const address = (place.address ?? fromEnvironment('CONTAINERD_ADDRESS') ?? DEFAULT_ADDRESS).replace(
    /^unix:(\/\/)?/,
    '',
  );
  if (address === '' || /^[a-z]+:\/\//.test(address))
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `Cannot use containerd's address "${address}": expected a Unix socket`,
      {
        hint: `For example ${DEFAULT_ADDRESS}`,
      },
    );
  const namespace = place.namespace ?? fromEnvironment('CONTAINERD_NAMESPACE') ?? 'default';
  if (namespace.length > MAX_IDENTIFIER || !IDENTIFIER.test(namespace))
    throw new ConfigError(
      'OBD_CONFIG_VALUE',
      `Cannot use containerd's namespace "${namespace.slice(0, 100)}": expected at most ${MAX_IDENTIFIER} letters and digits with single . _ - between`,
    );
  return { address, namespace };
}

/** True for an error of containerd with a code. */
export function isContainerdError(error: unknown, code: CodeOf<'CONTAINERD'>): error is ContainerdError {
  return error instanceof ContainerdError && error.code === code;
}
