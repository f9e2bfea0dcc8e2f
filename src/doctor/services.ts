/** The service, the snapshotter and containerd, each asked on its socket; and the devices of the service. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { credentials, status as grpcStatus, type ServiceError } from '@grpc/grpc-js';
import { IoError, OverlaybdError } from '../blob/index.js';
import { ContainerdClient, isContainerdError } from '../containerd/index.js';
import { programVersion, proxySnapshotters } from '../install/index.js';
import { AdminClient, NoServiceError, type DeviceInfo } from '../service/index.js';
import { SnapshotsClient } from '../snapshotter/index.js';
import { failure, type Finding } from './finding.js';

const run = promisify(execFile);
const SYSTEMCTL_MS = 3_000;
/** An image that takes longer to open waits for its registry. */
const LONG_OPENING_MS = 60_000;
/** Oldest containerd that this is tried with. */
const OLDEST_CONTAINERD = [1, 6] as const;
const NAME = 'overlaybd';

/** A device, and what is the matter with it. */
export interface DeviceFinding extends Finding {
  readonly id: string;
  readonly state: DeviceInfo['state'];
  readonly transport: string;
  readonly devicePath?: string | undefined;
}

/** What the service says. */
export interface ServiceFindings {
  readonly findings: readonly Finding[];
  readonly devices: readonly DeviceFinding[];
}

/** Asks the service who it is and what devices it has. Bounded by `timeoutMs` for each of two calls. */
export async function checkService(
  socket: string,
  expected: { readonly version: string; readonly configPath: string; readonly installed: boolean },
  timeoutMs: number,
): Promise<ServiceFindings> {
  const part = 'service';
  const client = new AdminClient(socket, { timeoutMs });
  try {
    const info = await client.info();
    const devices = (await client.list()).map(deviceFinding);
    const detail = `process ${info.pid}, version ${info.version}, ${info.transports.join(', ')}, since ${info.since}`;
    const odd: Finding[] = [];
    const warn = (text: string, todo: string): void => {
      odd.push({ part, status: 'warning', detail: text, todo });
    };
    if (info.version !== expected.version)
      warn(
        `it is version ${info.version}, this program is ${expected.version}`,
        'systemctl restart overlaybd-tcmu: with TCMU, containers go on; with FUSE, stop them first',
      );
    if (info.configPath !== expected.configPath && !info.ephemeral)
      warn(
        `it was started with "${info.configPath}", not "${expected.configPath}"`,
        'Name that file with --service-config, or start the service with the other',
      );
    if (!info.transports.includes('tcmu') && !info.transports.includes('fuse'))
      warn(
        'it serves neither through TCMU nor FUSE: there are no block devices',
        'See the kernel above, and "transport" in overlaybd.json; then restart the service',
      );
    return { findings: [{ part, status: 'ok', detail }, ...odd], devices };
  } catch (error) {
    return { findings: [await serviceFailure(part, error, expected.installed)], devices: [] };
  }
}

async function serviceFailure(part: string, error: unknown, installed: boolean): Promise<Finding> {
  if (error instanceof NoServiceError) {
    const unit = await unitState('overlaybd-tcmu');
    return {
      part,
      status: installed ? 'failed' : 'warning',
      detail: `${error.message}${unit === undefined ? '' : `; its unit is ${unit}`}`,
      todo: installed
        ? 'systemctl start overlaybd-tcmu; if it does not stay: journalctl -u overlaybd-tcmu'
        : 'obd install, for containers; "obd attach" starts a service of its own',
    };
  }
  if (error instanceof IoError && error.message.includes('does not answer'))
    return {
      part,
      status: 'failed',
      detail: error.message,
      todo: 'It hangs: look at its log, then systemctl restart overlaybd-tcmu',
    };
  return failure(part, error);
}

/** `inactive`, `failed (exit-code)`, ...; undefined without systemd or without the unit. */
async function unitState(unit: string): Promise<string | undefined> {
  try {
    const { stdout } = await run(
      'systemctl',
      ['show', '--property=LoadState,ActiveState,Result', `${unit}.service`],
      { timeout: SYSTEMCTL_MS },
    );
    const value = (key: string): string => new RegExp(`^${key}=(.*)$`, 'm').exec(stdout)?.[1] ?? '';
    if (value('LoadState') !== 'loaded') return undefined;
    const result = value('Result');
    return `${value('ActiveState')}${result === 'success' || result === '' ? '' : ` (${result})`}`;
  } catch {
    return undefined;
  }
}

function deviceFinding(device: DeviceInfo): DeviceFinding {
  const { id, state, transport, devicePath, reason, errors } = device;
  const image = device.image ?? device.configPath;
  const common = { part: `device ${id}`, id, state, transport, devicePath };
  const why =
    reason === undefined
      ? ''
      : `: ${[reason.message, ...(reason.causes ?? [])].slice(0, 3).join(', because: ')}`;
  if (state === 'failed')
    return {
      ...common,
      status: 'failed',
      detail: `${image} cannot be opened${why}`,
      todo: `${reason?.hint === undefined ? '' : `${reason.hint}; then `}attach it again; "obd detach ${id}" dismisses it`,
    };
  const waited = Date.now() - Date.parse(device.since);
  if (state === 'opening' && waited > LONG_OPENING_MS)
    return {
      ...common,
      status: 'warning',
      detail: `${image} has been opening for ${Math.round(waited / 1000)} s`,
      todo: 'Its registry does not answer, or slowly: see the log of the service',
    };
  if (state === 'degraded' || state === 'blocked') {
    const policy = device.ioPolicy;
    const what =
      state === 'degraded'
        ? `its I/O is repeated for ${policy?.retry ?? '?'} s`
        : policy?.then === 'hold'
          ? 'its I/O waits (or fails, after "obd abort")'
          : 'its I/O fails';
    return {
      ...common,
      status: state === 'blocked' ? 'failed' : 'warning',
      detail: `${devicePath ?? transport}, ${image}: ${state} since ${device.stateSince ?? '?'}, ${what}${why}`,
      todo: `${reason?.hint === undefined ? 'End the cause' : reason.hint}; the device then goes on by itself. "obd abort ${id}" fails what waits`,
    };
  }
  if (errors > 0)
    return {
      ...common,
      status: 'warning',
      detail: `${devicePath ?? transport}, ${image}: ${errors} I/O ${errors === 1 ? 'error' : 'errors'}${why}`,
      todo: reason?.hint ?? 'See the log of the service, lines with this "dev"',
    };
  const { layersFailed = 0, failure } = device.download ?? {};
  if (layersFailed > 0 && failure !== undefined)
    return {
      ...common,
      status: 'warning',
      detail: `${devicePath ?? transport}, ${image}: ${layersFailed} ${layersFailed === 1 ? 'layer was' : 'layers were'} not downloaded in the background: ${failure.message}`,
      todo: `${failure.hint ?? 'See the log of the service'}; it is tried again when the device is attached again. Reads still go to the registry`,
    };
  return { ...common, status: 'ok', detail: `${state}, ${devicePath ?? transport}, ${image}` };
}

/** Asks the snapshotter for a snapshot that there is not: only a snapshotter says so. */
export async function checkSnapshotter(
  address: string,
  installed: boolean,
  timeoutMs: number,
): Promise<Finding> {
  const part = 'snapshotter';
  const client = new SnapshotsClient(`unix:${address}`, credentials.createInsecure());
  const error = await new Promise<ServiceError | null>((resolve) => {
    const stat = client['Stat'];
    if (stat === undefined) throw new TypeError('no method Stat');
    stat.call(
      client,
      { key: 'obd-doctor' },
      { deadline: Date.now() + timeoutMs },
      (e: ServiceError | null) => {
        resolve(e);
      },
    );
  });
  client.close();
  if (error === null || error.code === grpcStatus.NOT_FOUND)
    return { part, status: 'ok', detail: `answers on "${address}"` };
  if (error.code === grpcStatus.UNAVAILABLE && /EACCES|EPERM/.test(error.details))
    return { part, status: 'failed', detail: `"${address}" cannot be opened`, todo: 'Run this as root' };
  if (error.code === grpcStatus.DEADLINE_EXCEEDED)
    return {
      part,
      status: 'failed',
      detail: `"${address}" does not answer within ${timeoutMs / 1000} s`,
      todo: 'It hangs: journalctl -u overlaybd-snapshotter, then systemctl restart overlaybd-snapshotter',
    };
  if (error.code === grpcStatus.UNAVAILABLE) {
    const unit = await unitState('overlaybd-snapshotter');
    return {
      part,
      status: installed ? 'failed' : 'skipped',
      detail: `no snapshotter listens on "${address}"${unit === undefined ? '' : `; its unit is ${unit}`}`,
      todo: installed
        ? 'systemctl start overlaybd-snapshotter; if it does not stay: journalctl -u overlaybd-snapshotter'
        : 'obd install, to run containers',
    };
  }
  return {
    part,
    status: 'failed',
    detail: `what listens on "${address}" is not a snapshotter: ${error.details}`,
    todo: 'Stop it, or change "address" in config.json',
  };
}

/** Asks containerd whether our snapshotter is one of its plugins. */
export async function checkContainerd(
  address: string | undefined,
  installed: boolean,
  timeoutMs: number,
): Promise<Finding> {
  const part = 'containerd';
  const signal = AbortSignal.timeout(timeoutMs);
  const late: Finding = {
    part,
    status: 'failed',
    detail: `it does not answer within ${timeoutMs / 1000} s`,
    todo: 'It hangs: journalctl -u containerd',
  };
  let client: ContainerdClient;
  try {
    client = await ContainerdClient.connect({ address }, { signal });
  } catch (error) {
    if (signal.aborted) return late;
    const found = failure(part, error);
    const cause =
      error instanceof OverlaybdError ? (error.cause as { code?: unknown } | undefined) : undefined;
    if (!installed && cause?.code === 'ENOENT') return { ...found, status: 'skipped', todo: undefined };
    return found;
  }
  try {
    const said = `version ${client.version}`;
    await client.checkSnapshotter(NAME, { signal });
    const [major = 0, minor = 0] = client.version.replace(/^v/, '').split('.').map(Number);
    if (major < OLDEST_CONTAINERD[0] || (major === OLDEST_CONTAINERD[0] && minor < OLDEST_CONTAINERD[1]))
      return {
        part,
        status: 'warning',
        detail: `${said} is older than ${OLDEST_CONTAINERD.join('.')}, the oldest that this is tried with`,
        todo: 'Install a newer containerd',
      };
    return { part, status: 'ok', detail: `${said} on "${client.address}", has snapshotter "${NAME}"` };
  } catch (error) {
    if (signal.aborted) return late;
    const found = failure(part, error);
    if (!isContainerdError(error, 'OBD_CONTAINERD_NOT_FOUND')) return found;
    return {
      ...found,
      status: installed ? 'failed' : 'skipped',
      todo: 'obd install, then systemctl restart containerd',
    };
  } finally {
    client.close();
  }
}

/** What containerd's configuration on disk says: the next start goes by that. */
export async function checkContainerdConfig(
  program: string,
  configPath: string,
  address: string,
  installed: boolean,
  timeoutMs: number,
): Promise<Finding> {
  const part = "containerd's configuration";
  try {
    await programVersion(program, timeoutMs);
  } catch {
    return { part, status: 'skipped', detail: `there is no program "${program}" to read it with` };
  }
  let dump: string;
  try {
    ({ stdout: dump } = await run(program, ['--config', configPath, 'config', 'dump'], {
      maxBuffer: 4 << 20,
      timeout: timeoutMs,
      killSignal: 'SIGKILL',
    }));
  } catch (error) {
    if ((error as { killed?: unknown }).killed === true)
      return {
        part,
        status: 'failed',
        detail: `"${program} config dump" does not end within ${timeoutMs / 1000} s`,
        todo: 'Run it by hand',
      };
    const said = (error as { stderr?: unknown }).stderr;
    return {
      part,
      status: 'failed',
      detail: `"${configPath}" cannot be used: ${typeof said === 'string' ? (said.trim().split('\n').at(-1) ?? '') : String(error)}`,
      todo: 'containerd does not start with it: mend it',
    };
  }
  const found = proxySnapshotters(dump).get(NAME);
  if (found === address) return { part, status: 'ok', detail: `"${configPath}" names "${address}"` };
  return {
    part,
    status: installed ? 'failed' : 'skipped',
    detail:
      found === undefined
        ? `"${configPath}" has no [proxy_plugins.${NAME}]`
        : `"${configPath}" names "${found}", the snapshotter listens on "${address}"`,
    todo: 'obd install, then systemctl restart containerd',
  };
}
