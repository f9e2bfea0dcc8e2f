/** The machine: kernel, device nodes, cache directory, credentials. */
import { constants } from 'node:fs';
import { access, readFile, stat, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { isSystemError } from '../blob/index.js';
import type { ServiceConfig } from '../image/index.js';
import { inspectKernel, kernelProblems, type FoundFeature, type KernelReport } from '../install/index.js';
import { MAX_CREDENTIALS_SIZE, parseAuthEntry, parseCredentialsJson } from '../registryblob/index.js';
import type { Finding } from './finding.js';

/** Below this the next image will not fit. */
const LITTLE_SPACE = 2 ** 30;
const NO_SPACE = 64 * 2 ** 20;

/** Kernel modules, and where configfs is mounted. */
export async function checkKernel(transport: ServiceConfig['transport']): Promise<Finding[]> {
  const kernel = await inspectKernel();
  const osRelease = await readFile('/etc/os-release', 'utf8').catch(() => '');
  const problems = kernelProblems(kernel, osRelease);
  const findings = problems.map(({ fatal, text, todo }): Finding => {
    const demanded = transport === 'tcmu' && text.includes('TCMU');
    return { part: 'kernel', status: fatal || demanded ? 'failed' : 'warning', detail: text, todo };
  });
  if (findings.length === 0) findings.push(kernelFinding(kernel));
  const core = kernel.tcmu.find(({ feature }) => feature.module === 'target_core_user');
  if (core?.state === 'active' && kernel.configfs === undefined)
    findings.push({
      part: 'configfs',
      status: 'failed',
      detail: 'it is not mounted, and TCMU devices are made there',
      todo: 'mount -t configfs none /sys/kernel/config',
    });
  return findings;
}

function kernelFinding({ release, tcmu, fuse, common }: KernelReport): Finding {
  const all = [...tcmu, ...fuse, ...common];
  const named = (state: FoundFeature['state']): string =>
    all
      .filter((found) => found.state === state)
      .map(({ feature }) => feature.module)
      .join(', ');
  const unknown = named('unknown');
  const later = named('available');
  return {
    part: 'kernel',
    status: unknown === '' ? 'ok' : 'warning',
    detail: `${release}: ${[
      `in use: ${named('active') || 'none'}`,
      ...(later === '' ? [] : [`loaded when needed: ${later}`]),
      ...(unknown === '' ? [] : [`not known: ${unknown}`]),
    ].join('; ')}`,
    todo:
      unknown === ''
        ? undefined
        : `Neither the modules nor the configuration of this kernel are here; try: modprobe -a ${unknown.replaceAll(',', '')}`,
  };
}

/** /dev/fuse and /dev/loop-control, for devices through FUSE. */
export async function checkDeviceNodes(transport: ServiceConfig['transport']): Promise<Finding[]> {
  if (transport === 'tcmu' || transport === 'nbd')
    return [
      { part: '/dev/fuse', status: 'skipped', detail: `not used: the configuration says "${transport}"` },
    ];
  return Promise.all(
    ['/dev/fuse', '/dev/loop-control'].map(async (path): Promise<Finding> => {
      const problem = await accessProblem(path, constants.R_OK | constants.W_OK);
      if (problem === undefined) return { part: path, status: 'ok', detail: 'can be opened' };
      return {
        part: path,
        status: transport === 'fuse' ? 'failed' : 'warning',
        detail: problem === 'ENOENT' ? 'it is not there' : `cannot be opened: ${problem}`,
        todo:
          problem === 'ENOENT'
            ? `modprobe ${path === '/dev/fuse' ? 'fuse' : 'loop'}; in a container, the host must give it the device`
            : 'Run this as root',
      };
    }),
  );
}

async function accessProblem(path: string, mode: number): Promise<string | undefined> {
  try {
    await access(path, mode);
    return undefined;
  } catch (error) {
    return isSystemError(error) ? error.code : String(error);
  }
}

/** The cache's directory: can be written, and has space. */
export async function checkCache({ cacheConfig }: ServiceConfig): Promise<Finding> {
  const part = 'cache directory';
  const { cacheDir, cacheSizeGB } = cacheConfig;
  let existing = cacheDir;
  for (;;) {
    const found = await stat(existing).catch((error: unknown) => {
      if (isSystemError(error) && error.code === 'ENOENT') return undefined;
      throw error;
    });
    if (found?.isDirectory() === true) break;
    if (found !== undefined)
      return {
        part,
        status: 'failed',
        detail: `"${existing}" is not a directory`,
        todo: `Change "cacheConfig.cacheDir"`,
      };
    existing = dirname(existing);
  }
  const problem = await accessProblem(existing, constants.W_OK | constants.X_OK);
  if (problem !== undefined)
    return {
      part,
      status: 'failed',
      detail: `"${existing}" cannot be written: ${problem}`,
      todo: 'Run this as root; or the file system is read-only: change "cacheConfig.cacheDir"',
    };
  const { bavail, blocks, bsize } = await statfs(existing);
  const [free, size, wanted] = [bavail * bsize, blocks * bsize, cacheSizeGB * 2 ** 30];
  const where = `"${cacheDir}"${existing === cacheDir ? '' : ' (not made yet)'}`;
  const detail = `${where}: up to ${cacheSizeGB} GiB, ${(free / 2 ** 30).toFixed(1)} GiB free`;
  if (free < NO_SPACE)
    return { part, status: 'failed', detail, todo: 'Free space there, or change "cacheConfig.cacheDir"' };
  if (size < wanted)
    return {
      part,
      status: 'warning',
      detail: `${detail}; the whole file system has less than that`,
      todo: 'Lower "cacheConfig.cacheSizeGB"',
    };
  if (free < LITTLE_SPACE)
    return { part, status: 'warning', detail, todo: 'Free space there, or lower "cacheConfig.cacheSizeGB"' };
  return { part, status: 'ok', detail };
}

/** The credentials: who may read them, and whether they can be used. Says neither names nor passwords. */
export async function checkCredentials(config: ServiceConfig): Promise<Finding> {
  const part = 'credentials';
  const { mode, path: configured } = config.credentialConfig;
  if (mode === 'http' || mode === 'https')
    return { part, status: 'ok', detail: `asked for over ${mode}; not tried here` };
  if (mode === 'uds') {
    const problem = await accessProblem(configured, constants.W_OK);
    return problem === undefined
      ? { part, status: 'ok', detail: `asked for on "${configured}"` }
      : {
          part,
          status: 'failed',
          detail: `the socket "${configured}" cannot be used: ${problem}`,
          todo: 'Start the program that answers there, or change "credentialConfig"',
        };
  }
  const path = mode === 'file' ? configured : config.credentialFilePath;
  if (path === '') return { part, status: 'ok', detail: 'none are configured: anonymous access' };
  const found = await stat(path).catch((error: unknown) => {
    if (isSystemError(error) && error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (found === undefined)
    return {
      part,
      status: mode === 'file' ? 'warning' : 'ok',
      detail: `"${path}" is not there: anonymous access`,
      ...(mode === 'file' ? { todo: `Write {"auths": {}} to it, mode 0600` } : {}),
    };
  if (!found.isFile())
    return { part, status: 'failed', detail: `"${path}" is not a file`, todo: 'Put a file there, mode 0600' };
  if (found.size > MAX_CREDENTIALS_SIZE)
    return {
      part,
      status: 'failed',
      detail: `"${path}" has more than ${MAX_CREDENTIALS_SIZE} bytes`,
      todo: 'Remove what is not needed from it',
    };
  const json = parseCredentialsJson(await readFile(path), path);
  const auths = typeof json === 'object' && json !== null && 'auths' in json ? json.auths : undefined;
  if (typeof auths !== 'object' || auths === null || Array.isArray(auths))
    return {
      part,
      status: 'failed',
      detail: `"${path}" has no object "auths"`,
      todo: 'It must look like {"auths": {"HOST": {"username": ..., "password": ...}}}',
    };
  const entries = Object.entries(auths);
  const detail = `"${path}": ${entries.length} ${entries.length === 1 ? 'entry' : 'entries'}`;
  const unusable = entries
    .filter(([, entry]) => parseAuthEntry(entry) === undefined)
    .map(([key]) => key.replace(/^.*@/, ''));
  if ((found.mode & 0o077) !== 0)
    return {
      part,
      status: 'warning',
      detail: `${detail}; others than its owner may read it (mode ${(found.mode & 0o777).toString(8).padStart(4, '0')})`,
      todo: `chmod 600 ${path}`,
    };
  if (unusable.length > 0)
    return {
      part,
      status: 'warning',
      detail: `${detail}; nothing usable for ${unusable.slice(0, 5).join(', ')}`,
      todo: 'Give "auth" (base64 of user:password), or "username" and "password"',
    };
  return { part, status: 'ok', detail };
}
