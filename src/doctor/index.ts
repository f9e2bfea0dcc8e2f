/** Whether this machine can serve and run images in overlaybd format, and what is wrong where it cannot. */
import { access } from 'node:fs/promises';
import { resolve } from 'node:path';
import {
  DEFAULT_SERVICE_CONFIG_PATH,
  defaultServiceConfig,
  loadServiceConfig,
  type ServiceConfig,
} from '../image/index.js';
import { silentLogger } from '../log/index.js';
import { loadSnapshotterConfig } from '../snapshotter/index.js';
import {
  failure,
  Hanging,
  runCheck,
  warningCollector,
  type Check,
  type Finding,
  type Status,
} from './finding.js';
import { checkCache, checkCredentials, checkDeviceNodes, checkKernel } from './machine.js';
import {
  checkContainerd,
  checkContainerdConfig,
  checkService,
  checkSnapshotter,
  type DeviceFinding,
} from './services.js';

export type { DeviceFinding, Finding, Status };

/** Where to look. */
export interface DoctorOptions {
  /** overlaybd.json; one that is not there counts as all defaults. */
  readonly serviceConfig: string;
  readonly snapshotterConfig: string;
  /** containerd's socket; undefined: as its own clients find it. */
  readonly containerdAddress?: string | undefined;
  readonly containerdConfig: string;
  readonly containerdProgram: string;
  /** Of this program. */
  readonly version: string;
  /** Limit of each call; a check makes one or two. */
  readonly timeoutMs: number;
}

/** Everything that was found. */
export interface DoctorReport {
  readonly version: string;
  /** The worst of all. */
  readonly status: Status;
  readonly findings: readonly Finding[];
  readonly devices: readonly DeviceFinding[];
  /** Something has not come back, and a thread may still wait for it: the process cannot end as usual. */
  readonly hangs: boolean;
}

/** Looks at everything, at the same time; changes nothing. Takes little more than three times `timeoutMs`. Never rejects. */
export async function diagnose(options: DoctorOptions): Promise<DoctorReport> {
  const { timeoutMs } = options;
  const limit = 2 * timeoutMs + 1_000;
  const devices: DeviceFinding[] = [];
  const hanging = new Hanging();
  const service = await readConfig(
    'service configuration',
    options.serviceConfig,
    loadServiceConfig,
    timeoutMs,
    hanging,
  );
  const config: ServiceConfig = service.value ?? defaultServiceConfig(silentLogger);
  const snapshotter = await readConfig(
    "snapshotter's configuration",
    options.snapshotterConfig,
    loadSnapshotterConfig,
    timeoutMs,
    hanging,
  );
  const { address } = snapshotter.value ?? { address: '/run/overlaybd-snapshotter/overlaybd.sock' };
  const { installed } = snapshotter;
  const its = snapshotter.value?.serviceConfig || DEFAULT_SERVICE_CONFIG_PATH;
  const elsewhere: Finding[] =
    snapshotter.value === undefined || resolve(its) === resolve(options.serviceConfig)
      ? []
      : [
          {
            part: "snapshotter's configuration",
            status: 'warning',
            detail: `the snapshotter goes by "${its}" to find the service, this looks at "${options.serviceConfig}"`,
            todo: `Set "serviceConfig" in "${options.snapshotterConfig}", or name the other with --service-config`,
          },
        ];
  const checks: readonly Check[] = [
    { part: 'kernel', run: () => checkKernel(config.transport) },
    { part: '/dev/fuse', run: () => checkDeviceNodes(config.transport) },
    { part: 'cache directory', run: () => checkCache(config) },
    { part: 'credentials', run: () => checkCredentials(config) },
    {
      part: 'service',
      run: async () => {
        const expected = {
          version: options.version,
          configPath: resolve(options.serviceConfig),
          installed: service.installed,
        };
        const found = await checkService(config.apiSocket, expected, timeoutMs);
        devices.push(...found.devices);
        return found.findings;
      },
    },
    { part: 'snapshotter', run: () => checkSnapshotter(address, installed, timeoutMs) },
    { part: 'containerd', run: () => checkContainerd(options.containerdAddress, installed, timeoutMs) },
    {
      part: "containerd's configuration",
      run: () =>
        checkContainerdConfig(
          options.containerdProgram,
          options.containerdConfig,
          address,
          installed,
          timeoutMs,
        ),
    },
  ];
  const results = await Promise.all(checks.map((check) => runCheck(check, limit, hanging)));
  const [kernel = [], nodes = [], ...rest] = results;
  const findings = [...kernel, ...nodes, ...service.findings, ...rest.slice(0, 3).flat()];
  findings.push(...snapshotter.findings, ...elsewhere, ...rest.slice(3).flat());
  const all = [...findings, ...devices].map(({ status }) => status);
  const status = (['failed', 'warning'] as const).find((s) => all.includes(s)) ?? 'ok';
  return { version: options.version, status, findings, devices, hangs: hanging.count > 0 };
}

interface ReadConfig<T> {
  readonly value: T | undefined;
  readonly installed: boolean;
  readonly findings: readonly Finding[];
}

/** Reads a configuration as its program would, and keeps what it would complain about. */
async function readConfig<T>(
  part: string,
  path: string,
  load: (path: string, log: ReturnType<typeof warningCollector>['log']) => Promise<T>,
  timeoutMs: number,
  hanging: Hanging,
): Promise<ReadConfig<T>> {
  let value: T | undefined;
  let installed = true;
  const run = async (): Promise<Finding[]> => {
    installed = await access(path).then(
      () => true,
      (error: unknown) => (error as { code?: unknown }).code !== 'ENOENT',
    );
    if (!installed)
      return [{ part, status: 'warning', detail: `"${path}" is not there`, todo: 'obd install' }];
    const { log, warnings } = warningCollector();
    try {
      value = await load(path, log);
    } catch (error) {
      return [{ todo: `Mend "${path}": its program does not start with it`, ...failure(part, error) }];
    }
    if (warnings.length === 0) return [{ part, status: 'ok', detail: `"${path}"` }];
    return warnings.map((detail): Finding => ({ part, status: 'warning', detail, todo: `See "${path}"` }));
  };
  const findings = await runCheck({ part, run }, timeoutMs, hanging);
  return { value, installed, findings };
}
