/** Which of an index's images is for which machine. */
import { arch as nodeArch } from 'node:process';
import { ConfigError, RegistryError } from '../blob/index.js';
import type { Descriptor, Index, Platform } from './manifest.js';

/** What is asked for; `os.version` and features play no part. */
export type WantedPlatform = Pick<Platform, 'os' | 'architecture' | 'variant'>;

/** Names that people use, in the names of the image specification. */
const ARCHITECTURES: Readonly<Record<string, string>> = {
  x64: 'amd64',
  x86_64: 'amd64',
  'x86-64': 'amd64',
  aarch64: 'arm64',
  ia32: '386',
  i386: '386',
  ppc64: 'ppc64le',
  loong64: 'loong64',
};

/** The default: Linux on this machine's architecture. */
export function hostPlatform(): WantedPlatform {
  return { os: 'linux', architecture: ARCHITECTURES[nodeArch] ?? nodeArch };
}

/** Parses `os/arch[/variant]` or `arch`. @throws ConfigError */
export function parsePlatform(text: string): WantedPlatform {
  const parts = text.toLowerCase().split('/');
  if (parts.length > 3 || parts.some((part) => !/^[a-z0-9][a-z0-9._-]*$/.test(part)))
    throw new ConfigError('OBD_CONFIG_VALUE', `Cannot parse platform "${text}": expected os/arch[/variant]`, {
      hint: 'For example linux/amd64 or linux/arm64/v8',
    });
  const [os = 'linux', arch = '', variant] = parts.length === 1 ? ['linux', ...parts] : parts;
  const architecture = ARCHITECTURES[arch] ?? arch;
  return variant === undefined ? { os, architecture } : { os, architecture, variant };
}

/** `os/arch[/variant]`. */
export function formatPlatform(platform: WantedPlatform): string {
  return [platform.os, platform.architecture, platform.variant]
    .filter((part) => part !== undefined && part !== '')
    .join('/');
}

/** True for entries of an index that describe another entry instead of being an image. */
export function isAttestation(entry: Descriptor): boolean {
  return entry.annotations?.['vnd.docker.reference.type'] === 'attestation-manifest';
}

/** 0: cannot run it; larger is better. An arm machine runs older variants, a newer amd64 level may not run. */
function score(entry: Platform, wanted: WantedPlatform): number {
  if (entry.os !== wanted.os || entry.architecture !== wanted.architecture) return 0;
  const level = (variant: string | undefined, fallback: number): number =>
    Number(/^v(\d+)$/.exec(variant ?? '')?.[1] ?? fallback);
  const base = entry.architecture === 'arm64' ? 8 : entry.architecture === 'arm' ? 7 : 1;
  const has = level(entry.variant, base);
  const want = level(wanted.variant, base);
  if (has > want) return 0;
  return 100 - (want - has);
}

/**
 * The entry of an index for a platform: the exact one, or the best that runs there.
 * @param source names the index in the error, which lists what there is.
 * @throws RegistryError OBD_REGISTRY_NOT_FOUND
 */
export function selectPlatform(index: Index, wanted: WantedPlatform, source: string): Descriptor {
  const images = index.manifests.filter((entry) => !isAttestation(entry));
  let best: Descriptor | undefined;
  let bestScore = 0;
  for (const entry of images) {
    const value = entry.platform === undefined ? 0 : score(entry.platform, wanted);
    if (value > bestScore) {
      best = entry;
      bestScore = value;
    }
  }
  // An index of one image that does not say for what: there is no choice to get wrong.
  if (best === undefined && images.length === 1 && images[0]?.platform === undefined) best = images[0];
  if (best !== undefined) return best;
  const offered = images.map((entry) =>
    entry.platform === undefined ? 'unnamed' : formatPlatform(entry.platform),
  );
  throw new RegistryError(
    'OBD_REGISTRY_NOT_FOUND',
    `Cannot find an image for ${formatPlatform(wanted)} in "${source}"`,
    {
      source,
      expected: formatPlatform(wanted),
      actual: offered.slice(0, 20).join(', '),
      hint: `It has ${offered.slice(0, 20).join(', ') || 'no images'}; choose with --platform`,
    },
  );
}
